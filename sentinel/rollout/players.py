"""A policy that is ready to play: weights, arena and engine opened together, from the folders a stage is given.

players = open_players(spec, policy=inputs["policy"], tasks=inputs["tasks"], profile=profile)
played = players.play(assign(tasks, 4, seed), sampling, chunk=128)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from sentinel.llm.engine import Engine, Limits
from sentinel.llm.hf import HfEngine
from sentinel.llm.policy import Policy, load_policy, policy_hash
from sentinel.rollout.arena import Arena, open_arena
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.pool import NOTHING, play
from sentinel.spec.models import ExperimentSpec
from sentinel.spec.profile import ProfileSpec


class Sampling(Protocol):
    """The sections of a spec that say how to sample."""

    @property
    def temperature(self) -> float:
        """Softmax temperature."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Tokens of one assistant turn."""
        ...


@dataclass(frozen=True)
class Players:
    """One policy in one arena."""

    policy: Policy
    name: str
    """Hash of the weights it was loaded with."""
    arena: Arena
    engine: Engine

    def limits(self, sampling: Sampling) -> Limits:
        """The bounds of sampling under this policy's context."""
        return Limits(sampling.temperature, sampling.max_new_tokens, self.arena.max_context)

    def play(
        self,
        assignments: Sequence[Assignment],
        sampling: Sampling,
        *,
        chunk: int,
        known: Mapping[int, list[Played]] = NOTHING,
        on_chunk: Callable[[list[Played]], None] = lambda played: None,
    ) -> list[Played]:
        """Play episodes in fixed chunks (`sentinel.rollout.pool.play`)."""
        return play(
            assignments,
            self.arena,
            self.engine,
            self.limits(sampling),
            chunk=chunk,
            policy=self.name,
            known=known,
            on_chunk=on_chunk,
        )


def open_players(spec: ExperimentSpec, *, policy: Path, tasks: Path, profile: ProfileSpec) -> Players:
    """Load a policy and everything it needs to play; fixes torch's threads, on which float results depend."""
    torch.set_num_threads(profile.threads)
    loaded = load_policy(policy, profile.device)
    engine = HfEngine(loaded.model, loaded.tokenizer.eos_token_id)
    arena = open_arena(spec, tasks, loaded.tokenizer, profile.endpoints)
    return Players(loaded, policy_hash(policy), arena, engine)
