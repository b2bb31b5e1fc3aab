"""What the policy read and sampled, token by token: the training data of an episode, and nothing is ever re-tokenised.

    transcript = Transcript()
    transcript.read(prompt)                 # ids that were fed
    transcript.sample(sample)               # ids that were sampled, with their log-probabilities
    transcript.read(transcript.new(prompt)) # a whole prompt, which may rewrite what came before
    transcript.segments()                   # one `Tokens` for an append-only template

The buffer only grows. Every new prompt has to start with it; where a template rewrites history (Qwen3 drops earlier
reasoning) the buffer is closed as a segment and the prompt opens the next, so each segment is exactly what the engine
saw. Where an engine saw something else, `BrokenPrefix` says so: such an episode is void, never padded or patched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentinel.llm.engine import Rewritten, Sample


@dataclass(frozen=True)
class Tokens:
    """One append-only stretch of an episode; all arrays have its length."""

    ids: NDArray[np.int64]
    sampled: NDArray[np.bool_]
    logprobs: NDArray[np.float32]
    """Of the sampled ids; 0 elsewhere."""


class BrokenPrefix(Exception):
    """The engine did not continue the ids it was given, or lost the log-probabilities of its own."""


class Transcript:
    """The token buffer of one episode."""

    def __init__(self) -> None:
        self._closed: list[Tokens] = []
        self._open()

    def _open(self) -> None:
        self._ids: list[int] = []
        self._sampled: list[bool] = []
        self._logprobs: list[float] = []

    def __len__(self) -> int:
        """Tokens of the context as it is now."""
        return len(self._ids)

    @property
    def total(self) -> int:
        """Tokens of all segments together."""
        return len(self._ids) + sum(len(tokens.ids) for tokens in self._closed)

    def read(self, ids: list[int]) -> list[int]:
        """Append tokens that are fed to the policy, and return them; a `Rewritten` prompt begins the next segment."""
        if isinstance(ids, Rewritten):
            self._closed.append(self._tokens())
            self._open()
        self._ids += ids
        self._sampled += [False] * len(ids)
        self._logprobs += [0.0] * len(ids)
        return ids

    def sample(self, sample: Sample) -> None:
        """Append a sampled turn.

        Raises:
            BrokenPrefix: The engine sampled it from another prompt, or not every id has its log-probability.
        """
        if sample.prompt is not None and sample.prompt != self._ids:
            raise BrokenPrefix(f"the engine read {len(sample.prompt)} tokens that are not the {len(self._ids)} it got")
        if not sample.ids or len(sample.ids) != len(sample.logprobs):
            raise BrokenPrefix(f"{len(sample.ids)} sampled ids came with {len(sample.logprobs)} log-probabilities")
        self._ids += sample.ids
        self._sampled += [True] * len(sample.ids)
        self._logprobs += sample.logprobs

    def new(self, prompt: list[int]) -> list[int]:
        """What has to be read to get to this whole prompt: its rest, or all of it where it does not start as we do."""
        known = len(self._ids)
        return prompt[known:] if prompt[:known] == self._ids else Rewritten(prompt)

    def _tokens(self) -> Tokens:
        return Tokens(
            np.array(self._ids, dtype=np.int64),
            np.array(self._sampled, dtype=np.bool_),
            np.array(self._logprobs, dtype=np.float32),
        )

    def segments(self) -> tuple[Tokens, ...]:
        """What was read and sampled so far, oldest segment first."""
        return (*self._closed, self._tokens())
