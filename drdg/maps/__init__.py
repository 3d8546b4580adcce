"""Station 5, maps: any georeferenced raster to files that a GIS opens, in bounded memory."""
