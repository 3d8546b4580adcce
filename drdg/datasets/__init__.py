"""Station 1, archives: where a TOP's image, surface model and label lie, their classes, palette and splits."""
