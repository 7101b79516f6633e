"""Images, boxes and batches: from a COCO file to what a model is fed."""
