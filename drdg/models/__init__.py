"""Station 3, networks only: generator, critic, segmentor, norms."""
