"""The Evaluator's container."""
