"""The one protocol of inference engines: token ids in, sampled token ids and their log-probabilities out.

An engine drives conversations; a conversation says which tokens come next and is told what was sampled. Nothing is ever
re-tokenised on the way: what the policy saw and sampled is what it is trained on.

    class Conversation:
        def start(self) -> list[int]: ...                         # the prompt
        def advance(self, sample: Sample) -> list[int] | None     # new tokens to read, or None when it is over

Where the template rewrites history the new tokens are `Rewritten`: a whole prompt in place of everything before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Finish(StrEnum):
    """Why the engine stopped sampling."""

    stop = "stop"
    turn_limit = "turn_limit"
    context_limit = "context_limit"


class Sample(NamedTuple):
    """One sampled assistant turn, the stop token included."""

    ids: list[int]
    logprobs: list[float]
    """Of the sampled ids, under the sampling distribution (temperature applied)."""
    finish: Finish
    prompt: list[int] | None = None
    """The ids that the engine says it has read before these, where it reports them; the conversation compares."""


class Rewritten(list[int]):
    """A whole new prompt: the template has rewritten history, so the engine forgets what it read and starts over."""


class Conversation(Protocol):
    """What an engine needs to know of an episode."""

    def start(self) -> list[int]:
        """Token ids of the prompt; none where the conversation is over before it began."""
        ...

    def advance(self, sample: Sample) -> list[int] | None:
        """Take a sampled turn; return the token ids to read before the next one, or `None` at the end.

        Token ids that are `Rewritten` replace the whole context instead of being appended to it.
        """
        ...

    def abandon(self, reason: str) -> None:
        """The engine cannot go on with this conversation, through no fault of the policy; it is void."""
        ...

    def noise(self, count: int) -> NDArray[np.float64]:
        """`count` uniform numbers in [0, 1), one per position: the only randomness of sampling."""
        ...


@dataclass(frozen=True)
class Limits:
    """What bounds sampling; in tokens, never in seconds."""

    temperature: float
    max_new_tokens: int
    """Tokens of one assistant turn."""
    max_context: int
    """Tokens of the whole conversation."""


class Engine(Protocol):
    """Samples many conversations side by side."""

    def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        """Drive every conversation to its end. The batch is the unit of reproducibility: equal batches, equal bits."""
        ...
