"""Station 2, shards: from tiles to tar files, by one process or many, and from tar files to a rank's batches."""
