"""Tasks in natural language over worlds with natural ids: tau2's database, and synthetic ones that look like it."""
