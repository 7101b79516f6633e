"""Predictions and their COCO metrics."""
