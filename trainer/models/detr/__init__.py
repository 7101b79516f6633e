"""DETR as its authors wrote it (Carion et al. 2020, arXiv 2005.12872)."""
