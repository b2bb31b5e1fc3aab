"""Which tasks the Solver trains on (`curriculum`), and what is remembered of every task and condition (`memory`)."""

from __future__ import annotations

from sentinel.curriculum.curriculum import Curriculum, Prompt, Standing
from sentinel.curriculum.memory import Memory

__all__ = ["Curriculum", "Memory", "Prompt", "Standing"]
