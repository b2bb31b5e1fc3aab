"""The warm-up's section of a spec: what the starting policy of a base is taught before the loop begins."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from sentinel.spec.section import Positive, Section, Share

SKILLS = ("ask", "variant", "two_items", "refund_method", "refuse", "transfer", "two_requests")
"""The decision skills of the synthetic demonstrations, each of which a warm start can leave weak."""


def _known_skill(name: str) -> str:
    if name not in SKILLS:
        raise ValueError(f"unknown skill '{name}', expected one of {', '.join(SKILLS)}")
    return name


Skill = Annotated[str, AfterValidator(_known_skill)]


class Imitation(Section):
    """Supervised fine-tuning on stored conversations that succeeded: the likelihood of what their agent said."""

    file: Annotated[str, Field(min_length=1)]
    """A `trajectories.jsonl` of ours or a result file of tau2, relative to the spec; held-out tasks are left out."""
    steps: Positive
    """Optimizer steps."""
    batch_size: Positive = 16
    """Conversations per step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-5
    """AdamW step size."""
    micro_batch_tokens: Positive = 4096
    """Tokens that go through the model together, padding included; fixed, as it decides the order of float sums."""


class Warmup(Section):
    """Supervised fine-tuning of the base: clean demonstrations, then planted weaknesses, then stored conversations."""

    clean_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps on correct demonstrations."""
    weak_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps on demonstrations with the `weaknesses` planted."""
    batch_size: Positive = 16
    """Demonstrations per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Step size of Muon for matrices; embeddings and norms use AdamW at a fifth of it."""
    weaknesses: dict[Skill, Share] = Field(default_factory=dict)
    """Decision skill -> share of its demonstrations that stay correct."""
    imitation: Imitation | None = None
    """The last phase, of tiny and of pretrained policies; null for none."""
