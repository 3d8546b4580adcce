"""Station 2, tiles: from a TOP to window, tile, shard and batch."""
