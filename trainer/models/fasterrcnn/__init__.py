"""torchvision's Faster R-CNN (Ren et al. 2015, arXiv 1506.01497) with a feature pyramid (arXiv 1612.03144)."""
