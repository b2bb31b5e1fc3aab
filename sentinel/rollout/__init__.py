"""Episodes: one conversation, and thousands of them."""
