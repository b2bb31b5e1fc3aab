"""Warm start: supervised fine-tuning on demonstrations, then a phase that plants weaknesses of decision.

Clean demonstrations come first and corrupted ones last: label noise from scratch stalls the learning of copying, which
everything else needs (measured). Matrices are trained with Muon, which took two thirds of AdamW's time here; embeddings
and norms with AdamW. The loss covers the assistant's tokens; observations count a little, which teaches the language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from sentinel.llm.transcript import Tokens
from sentinel.solver.muon import Muon

READING_WEIGHT = 0.02
"""Weight of a token that was read, relative to one that was written."""
BUCKET = 16
"""Batches that are sorted by length together: little padding, and still a random order."""
CLIP = 1.0


class Step(NamedTuple):
    """One optimizer step of the warm start."""

    step: int
    loss: float
    """Mean negative log-likelihood of the assistant's tokens, nats."""


def _batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless batches of indices: each epoch a new order, each batch of similar lengths."""
    while True:
        order = rng.permutation(len(lengths))
        for begin in range(0, len(order), size * BUCKET):
            bucket = sorted(order[begin : begin + size * BUCKET].tolist(), key=lambda n: lengths[n])
            batches = [bucket[i : i + size] for i in range(0, len(bucket), size)]
            yield from (batches[i] for i in rng.permutation(len(batches)))


def _tensors(batch: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and loss weights, both [batch, longest], right-padded."""
    longest = max(len(tokens.ids) for tokens in batch)
    ids, weights = np.full((len(batch), longest), pad), np.zeros((len(batch), longest), dtype=np.float32)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens.ids)] = tokens.ids
        weights[row, : len(tokens.ids)] = np.where(tokens.sampled, 1.0, READING_WEIGHT)
    return torch.from_numpy(ids), torch.from_numpy(weights)


def _loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted training loss, and the mean over the assistant's tokens for people to read."""
    logits = model(input_ids=ids[:, :-1]).logits
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    flat = weights[:, 1:].flatten()
    written = flat == 1.0
    return (losses * flat).sum() / written.sum(), losses[written].mean()


class _Optimizer:
    """Muon for the matrices, AdamW for the rest, one schedule."""

    def __init__(self, model: LlamaForCausalLM, learning_rate: float) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed_tokens" not in name]
        rest = [p for name, p in named if p.ndim != 2 or "embed_tokens" in name]
        self._parts = (
            Muon(matrices, lr=learning_rate),
            torch.optim.AdamW(rest, lr=learning_rate / 5, weight_decay=0.0, betas=(0.9, 0.95)),
        )
        self._base = [learning_rate, learning_rate / 5]

    def step(self, scale: float) -> None:
        """Apply the gradients with the learning rate scaled, and clear them."""
        for optimizer, base in zip(self._parts, self._base, strict=True):
            optimizer.param_groups[0]["lr"] = base * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def decay(step: int, steps: int) -> float:
    """Constant for the first half, then linear to a tenth."""
    return min(1.0, max(0.1, 2.0 * (1.0 - step / steps)))


def fine_tune(
    model: LlamaForCausalLM,
    demonstrations: Sequence[Tokens],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
    pad: int,
    schedule: Callable[[int, int], float] = decay,
    on_step: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train the model in place for a fixed number of steps; equal arguments and threads give equal weights."""
    optimizer = _Optimizer(model, learning_rate)
    batches = _batches([len(tokens.ids) for tokens in demonstrations], batch_size, rng)
    model.train()
    for step in range(1, steps + 1):
        loss, written = _loss(model, *_tensors([demonstrations[n] for n in next(batches)], pad))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step(schedule(step, steps))
        on_step(Step(step, float(written.detach())))
    model.eval()
