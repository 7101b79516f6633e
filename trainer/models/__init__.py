"""Detectors, a family a folder, and the backbones that they share."""
