"""Station 5, inference: translate shards, slide over a whole TOP, write georeferenced rasters."""
