"""The Proposer's container."""
