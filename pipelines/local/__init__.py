"""The workflow on this machine."""
