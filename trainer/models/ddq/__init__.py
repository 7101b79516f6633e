"""A DETR for datasets of a few hundred images: dense distinct queries (Zhang et al. 2023, arXiv 2303.12776)."""
