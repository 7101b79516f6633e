"""MS COCO instances: `annotations/instances_<subset>.json` and images."""
