"""Predictions as files: the images that they are made on, and a module for each format."""
