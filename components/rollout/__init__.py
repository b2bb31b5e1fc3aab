"""The container that plays episodes."""
