"""The Controller's container."""
