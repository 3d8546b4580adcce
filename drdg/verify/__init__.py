"""Station 2, verify: whether shards are what was planned, to the byte and to the pixel."""
