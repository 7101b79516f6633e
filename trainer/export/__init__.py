"""Trained checkpoints as files that other software runs."""
