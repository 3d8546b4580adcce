"""Station 6, stages: each step of a row as a function of the configuration, and the path that strings them together."""
