"""A tiny Llama, random episodes, and a game of one word that a policy can learn: real parts, seconds to run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sentinel.llm.transcript import Tokens
from sentinel.records import Counts, Ending, Origin, OriginKind, Outcome, Reward, Scenario, Task, Trajectory, VoidReason
from sentinel.rollout.episode import Assignment, Played
from sentinel.seeds import derive

VOCABULARY = 23


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers of width 32, drawn with `seed`, whatever was drawn before."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.ndim == 1))
    return model


def random_tokens(rng: np.random.Generator, length: int, sampled_share: float = 0.4) -> Tokens:
    """An episode of random ids; at least one token, never the first, is sampled."""
    sampled = rng.random(length) < sampled_share
    sampled[0], sampled[length // 2] = False, True
    logprobs = np.where(sampled, rng.normal(-2.5, 0.7, length), 0.0).astype(np.float32)
    return Tokens(ids=rng.integers(1, VOCABULARY, length), sampled=sampled, logprobs=logprobs)


def task(name: str, kind: OriginKind = OriginKind.general, condition: str = "plain", pattern: str = "p") -> Task:
    """A task with nothing in it but its name, origin and condition."""
    return Task(
        id=name,
        world="w",
        origin=Origin(kind=kind, pattern=pattern if kind is OriginKind.targeted else None),
        scenario=Scenario(reason_for_call=name),
        gold=(),
        knobs={"condition": condition},
    )


def trajectory(assignment: Assignment, success: bool | None, policy: str) -> Trajectory:
    """An episode without messages; `None` makes it void."""
    outcome = Outcome.void if success is None else Outcome.success if success else Outcome.failure
    return Trajectory(
        task=assignment.task,
        trial=assignment.trial,
        seed=assignment.seed,
        policy=policy,
        messages=(),
        ending=Ending.error if success is None else Ending.user_stop,
        outcome=outcome,
        void_reason=VoidReason.infrastructure if success is None else None,
        reward=None if success is None else Reward(db=float(success), communicate=1.0),
        world_delta={},
        gold_delta={},
        counts=Counts(turns=1, tokens=4, errors=0),
    )


class WordGame:
    """Play episodes of two sampled words after a prompt that names the task; the first word must be below `limit`."""

    def __init__(self, model: LlamaForCausalLM, limit: int = 6, void_every: int = 0) -> None:
        self.model = model
        self.limit = limit
        self.void_every = void_every
        self.episodes = 0

    def __call__(self, assignments: Sequence[Assignment], *, policy: str) -> list[Played]:
        return [self._episode(assignment, policy) for assignment in assignments]

    @torch.no_grad()
    def _episode(self, assignment: Assignment, policy: str) -> Played:
        self.episodes += 1
        rng = np.random.default_rng(assignment.seed)
        ids, logprobs = [1, 2 + derive(assignment.task.id) % (VOCABULARY - 2)], [0.0, 0.0]
        for _ in range(2):
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1]
            distribution = logits.log_softmax(dim=-1)
            word = int((distribution + torch.from_numpy(rng.gumbel(size=VOCABULARY).astype(np.float32))).argmax())
            ids.append(word)
            logprobs.append(float(distribution[word]))
        sampled = np.array([False, False, True, True])
        void = self.void_every and assignment.trial % self.void_every == 0
        success = None if void else ids[2] < self.limit
        tokens = Tokens(ids=np.array(ids), sampled=sampled, logprobs=np.array(logprobs, dtype=np.float32))
        return Played(trajectory(assignment, success, policy), (tokens,))


class Log:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def start(self, total: int, unit: str = "steps", done: int = 0) -> None:
        self.done = done

    def advance(self, n: int = 1, **figures: float | str) -> None:
        self.done += n

    def say(self, text: str) -> None:
        self.said.append(text)
