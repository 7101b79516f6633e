"""What a trained model finds on images, for people and for other programs."""
