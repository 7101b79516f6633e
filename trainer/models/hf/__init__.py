"""Detectors of the `transformers` library, with the weights that are published for them."""
