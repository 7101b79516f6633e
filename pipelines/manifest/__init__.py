"""Compiled manifests: reading and checking them."""
