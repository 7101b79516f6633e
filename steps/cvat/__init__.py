"""A CVAT server of today, through its API: annotated tasks out of it, predictions into it."""
