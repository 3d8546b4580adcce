"""Station 3, methods: a translator or a segmentation objective, its networks, phases and losses."""
