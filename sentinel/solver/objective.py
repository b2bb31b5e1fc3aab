"""The gradient of one optimizer step, micro-batch by micro-batch: what both backends share.

plan = cut(samples, settings, device)                    # the whole batch, normalised as one
sums = sum(gradient(scorer, batch, plan.divisor, settings, backward, reference) for batch in plan.batches)
figures(sums, plan, settings, norm)                      # `None` where loss or gradient is not finite
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch

from sentinel.solver.batch import MicroBatch, Sample, micro_batches, spread
from sentinel.solver.loss import Scores, Terms, policy_loss
from sentinel.solver.metrics import Update
from sentinel.spec.trainer import Trainer as Settings

Objective = Literal["grpo", "likelihood"]
Reference = Callable[[MicroBatch], torch.Tensor] | None
"""Logprobs of a micro-batch under the iteration's first policy; `None` where the objective has no KL."""

Gradient = Callable[
    [Callable[[MicroBatch], Scores], MicroBatch, float, Settings, Callable[[torch.Tensor], object], Reference],
    torch.Tensor,
]
"""As `gradient` below."""


class Cut(NamedTuple):
    """The batch of an optimizer step."""

    batches: list[MicroBatch]
    divisor: float
    """By which the sum of the weighted losses is divided."""
    tokens: int
    """Sampled tokens."""


def cut(samples: Sequence[Sample], settings: Settings, device: torch.device | str) -> Cut:
    """Weights over the whole batch first, then micro-batches: how it is cut changes no more than rounding."""
    weights, divisor = spread(samples, settings.aggregation, settings.max_new_tokens)
    batches = micro_batches(
        samples,
        max_tokens=settings.micro_batch_tokens,
        device=device,
        weights=weights,
        packed=settings.packing,
    )
    return Cut(batches, divisor, sum(len(batch.targets) for batch in batches))


def gradient(
    scorer: Callable[[MicroBatch], Scores],
    batch: MicroBatch,
    divisor: float,
    settings: Settings,
    backward: Callable[[torch.Tensor], object],
    reference: Reference,
) -> torch.Tensor:
    """Add the gradient of a micro-batch; returns its sums of loss, KL, ratio, off, clipped and entropy, [6]."""
    before = None if reference is None else reference(batch)
    scores = scorer(batch)
    terms = policy_loss(
        scores.logprobs,
        batch,
        clip=settings.clip,
        kl=settings.kl,
        reference=before,
        cap=settings.importance_cap,
        unbiased_kl=settings.unbiased_kl,
    )
    backward(terms.loss / divisor)
    return _sums(terms, scores)


def likelihood(
    scorer: Callable[[MicroBatch], Scores],
    batch: MicroBatch,
    divisor: float,
    settings: Settings,
    backward: Callable[[torch.Tensor], object],
    reference: Reference,
) -> torch.Tensor:
    """The same for supervised learning: the loss is the negative log-likelihood, whoever sampled the tokens."""
    scores = scorer(batch)
    loss, nothing = -(batch.weights * scores.logprobs).sum(), torch.zeros((), device=batch.ids.device)
    backward(loss / divisor)
    return _sums(Terms(loss, nothing, nothing, nothing, nothing), scores)


def _sums(terms: Terms, scores: Scores) -> torch.Tensor:
    parts = (terms.loss.detach(), terms.kl, terms.ratio, terms.off, terms.clipped, scores.entropy.sum())
    return torch.stack([part.double() for part in parts])


GRADIENTS: Mapping[Objective, Gradient] = MappingProxyType({"grpo": gradient, "likelihood": likelihood})
"""What a backend can be asked to maximise."""


def figures(sums: torch.Tensor, plan: Cut, settings: Settings, norm: float) -> Update | None:
    """What is reported of a step; `None` where loss or gradient is not finite."""
    loss, kl, ratio, off, clipped, entropy = sums.tolist()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return None
    return Update(
        trained_tokens=plan.tokens,
        loss=loss / plan.divisor,
        kl=kl / plan.tokens if settings.kl else None,
        entropy=entropy / plan.tokens,
        ratio=ratio / plan.tokens,
        ratio_off=off / plan.tokens,
        clipped=clipped / plan.tokens,
        grad_norm=norm,
    )
