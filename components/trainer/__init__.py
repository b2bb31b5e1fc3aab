"""The Solver's container."""
