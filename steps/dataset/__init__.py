"""A dataset in memory and on the disk."""
