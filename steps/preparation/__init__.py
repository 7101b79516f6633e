"""What makes a dump fit for training."""
