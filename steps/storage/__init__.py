"""Object storage: addresses, credentials, and the bytes to and fro."""
