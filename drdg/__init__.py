"""Training of domain-adaptive segmentation of aerial images: Depth-Assisted ResiDualGAN (arXiv 2208.09823)."""

__version__ = "0.1.0"
