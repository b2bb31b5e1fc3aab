"""Language models: tokens in, tokens and log-probabilities out."""
