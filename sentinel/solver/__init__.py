"""The Solver's training: warm start, GRPO, guards and checkpoints; the only place that imports torch eagerly."""
