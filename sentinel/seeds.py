"""Every random number of an experiment comes from one function of what it is for.

    rng = generator(spec.seed, "rollout", iteration, task.id, trial)

No module draws from a global generator, so a result never depends on what ran before it or beside it.
"""

from __future__ import annotations

import hashlib

import numpy as np

SeedPart = int | str


def derive(*parts: SeedPart) -> int:
    """A 63-bit seed that depends on every part, stable across processes and platforms.

    The parts are joined with their types, so `("1",)` and `(1,)` differ, as do `("ab", "c")` and `("a", "bc")`.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: SeedPart) -> np.random.Generator:
    """A fresh counter-based generator for this purpose (Philox: the stream is defined by the seed alone)."""
    return np.random.Generator(np.random.Philox(derive(*parts)))
