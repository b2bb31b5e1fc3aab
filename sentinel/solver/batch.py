"""From played episodes to padded tensors, without re-tokenising and with as little padding as possible.

Only sampled tokens are trained. Observations, user turns and prompts are context: they are fed, never predicted.
Padding is on the right, where a causal model cannot see it from any real token, so no attention mask is needed and a
row's values do not depend on its neighbours (up to float rounding). What follows an episode's last sampled token
cannot influence the loss and is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sentinel.llm.transcript import Tokens


class Sample(NamedTuple):
    """One episode with its advantage."""

    tokens: Tokens
    advantage: float


class MicroBatch(NamedTuple):
    """Episodes that go through the model together. B rows of T tokens hold N sampled tokens.

    The vectors of length N are flat: sampled token n is predicted by the hidden state at (`rows[n]`, `columns[n]`).
    """

    ids: torch.Tensor
    """int64 [B, T], padded with zeros on the right."""
    rows: torch.Tensor
    """int64 [N], ascending."""
    columns: torch.Tensor
    """int64 [N]: the position before the sampled token's."""
    targets: torch.Tensor
    """int64 [N]: the sampled tokens."""
    behaviour: torch.Tensor
    """float32 [N]: their logprobs under the engine that sampled them."""
    advantages: torch.Tensor
    """float32 [N]: the advantage of their episode."""


def _length(sample: Sample) -> int:
    """Tokens to feed: all before the last sampled one (0 where nothing was sampled)."""
    positions = np.flatnonzero(sample.tokens.sampled)
    if len(positions) and positions[0] == 0:
        raise ValueError("the first token of an episode cannot be a sampled one: nothing precedes it")
    return int(positions[-1]) if len(positions) else 0


def _stack(samples: Sequence[Sample], lengths: Sequence[int], device: torch.device) -> MicroBatch:
    ids = np.zeros((len(samples), max(lengths)), dtype=np.int64)
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        ids[row, :length] = sample.tokens.ids[:length]
    positions = [np.flatnonzero(sample.tokens.sampled) for sample in samples]
    counts = [len(each) for each in positions]
    columns = np.concatenate(positions) - 1
    targets = np.concatenate([sample.tokens.ids[at] for sample, at in zip(samples, positions, strict=True)])
    behaviour = np.concatenate([sample.tokens.logprobs[at] for sample, at in zip(samples, positions, strict=True)])
    advantages = np.repeat([sample.advantage for sample in samples], counts)
    return MicroBatch(
        ids=torch.from_numpy(ids).to(device),
        rows=torch.from_numpy(np.repeat(np.arange(len(samples)), counts)).to(device),
        columns=torch.from_numpy(columns.astype(np.int64)).to(device),
        targets=torch.from_numpy(targets.astype(np.int64)).to(device),
        behaviour=torch.from_numpy(behaviour.astype(np.float32)).to(device),
        advantages=torch.from_numpy(advantages.astype(np.float32)).to(device),
    )


def micro_batches(
    samples: Sequence[Sample], *, max_tokens: int, device: torch.device | str = "cpu"
) -> list[MicroBatch]:
    """Sort episodes by length and fill micro-batches of at most `max_tokens` tokens, padding included.

    An episode longer than `max_tokens` gets a micro-batch of its own; one without sampled tokens is left out. The
    result depends only on the samples and their order.
    """
    lengths = [_length(sample) for sample in samples]
    order = sorted(
        (index for index, length in enumerate(lengths) if length), key=lambda index: (-lengths[index], index)
    )
    batches, start = [], 0
    while start < len(order):
        rows = order[start : start + max(1, max_tokens // lengths[order[start]])]
        batches.append(_stack([samples[row] for row in rows], [lengths[row] for row in rows], torch.device(device)))
        start += len(rows)
    return batches
