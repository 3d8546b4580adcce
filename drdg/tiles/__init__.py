"""Station 2, tiles: a TOP's pixels, heights and ground, and the windows that cut it into tiles."""
