"""A dump on its way in: archives, and what was fetched already."""
