"""Convolutional networks that turn pixels into features."""
