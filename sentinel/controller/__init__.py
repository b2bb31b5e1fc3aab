"""The Controller: from played episodes to recurring error patterns and a directive. Facts first, words last.

The order of the modules is the order of the data:

    steps -> writes -> evidence -> attribution -> patterns -> history -> directive

It never plays an episode and never asks a language model for a fact: what it claims is read off the trajectory, the
gold answer and the two end states, so every claim cites a turn.
"""
