"""From played episodes to padded tensors, without re-tokenising and with as little padding as possible.

Only sampled tokens are trained. Observations, user turns and prompts are context: they are fed, never predicted.
Padding is on the right, where a causal model cannot see it from any real token, so no attention mask is needed and a
row's values do not depend on its neighbours (up to float rounding). What follows an episode's last sampled token
cannot influence the loss and is cut off. Where a template rewrites history an episode is several samples, one per
stretch of unchanged history; they count as one episode in every mean over episodes.

Packing puts several short samples into one row; their positions start over, and transformers' attention keeps them
apart by that. It is exact and saves padding, but its mask is dense, so it pays only with kernels for variable lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sentinel.llm.transcript import Tokens
from sentinel.spec.trainer import Aggregation


class Sample(NamedTuple):
    """An episode, or one stretch of it, with its advantage."""

    tokens: Tokens
    advantage: float
    episode: int | None = None
    """Number of its episode in the batch; `None` where it is one by itself."""


class Spread(NamedTuple):
    """How the losses of single tokens become one number: the sum of weight times loss, over the divisor."""

    weights: list[float]
    """One per sample, for each of its sampled tokens."""
    divisor: float


def spread(samples: Sequence[Sample], aggregation: Aggregation, length: int) -> Spread:
    """Weights of a whole batch, which is to be normalised as one, however it is cut or distributed.

    `token`: the mean over all sampled tokens (DAPO, arXiv:2503.14476, §3.3; TRL's `dapo`). `sequence`: the mean over
    episodes of each one's mean (GRPO, arXiv:2402.03300, eq. 3; TRL's `grpo`): long episodes weigh less per token.
    `dr_grpo`: the sum over tokens by a constant, so length neither lowers nor raises a token's weight (Dr. GRPO,
    arXiv:2503.20783, §3.1). Episodes without sampled tokens are not counted.

    Args:
        samples: all samples of an optimizer step.
        aggregation: one of the above.
        length: the constant of `dr_grpo`, in tokens per episode.
    """
    counts = [int(sample.tokens.sampled.sum()) for sample in samples]
    names = [sample.episode if sample.episode is not None else -1 - n for n, sample in enumerate(samples)]
    totals = Counter[int]()
    for name, count in zip(names, counts, strict=True):
        totals[name] += count
    episodes = sum(total > 0 for total in totals.values())
    match aggregation:
        case "token":
            return Spread([1.0] * len(samples), sum(counts))
        case "sequence":
            return Spread([1.0 / max(1, totals[name]) for name in names], episodes)
        case "dr_grpo":
            return Spread([1.0] * len(samples), episodes * length)


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
    weights: torch.Tensor
    """float32 [N]: what each token's loss counts in the sum (`spread`)."""
    positions: torch.Tensor | None = None
    """int64 [B, T]: where rows hold several samples, each one's own positions; `None` where a row is one sample."""


def _length(sample: Sample) -> int:
    """Tokens to feed: all before the last sampled one (0 where nothing was sampled)."""
    positions = np.flatnonzero(sample.tokens.sampled)
    if len(positions) and positions[0] == 0:
        raise ValueError("the first token of an episode cannot be a sampled one: nothing precedes it")
    return int(positions[-1]) if len(positions) else 0


class _Piece(NamedTuple):
    """A sample on its way into a row."""

    sample: Sample
    length: int
    weight: float


def _stack(rows: Sequence[Sequence[_Piece]], device: torch.device, packed: bool) -> MicroBatch:
    ids = np.zeros((len(rows), max(sum(piece.length for piece in row) for row in rows)), dtype=np.int64)
    positions, at, parts = np.zeros_like(ids), np.zeros(len(rows), dtype=np.int64), []
    for row, pieces in enumerate(rows):
        for (tokens, advantage, _), length, weight in pieces:
            here, sampled = slice(at[row], at[row] + length), np.flatnonzero(tokens.sampled)
            ids[row, here], positions[row, here] = tokens.ids[:length], np.arange(length)
            size = len(sampled)
            columns, fixed = at[row] + sampled - 1, (np.full(size, advantage), np.full(size, weight))
            parts.append((np.full(size, row), columns, tokens.ids[sampled], tokens.logprobs[sampled], *fixed))
            at[row] += length
    kinds = (np.int64, np.int64, np.int64, np.float32, np.float32, np.float32)
    flat = [np.concatenate(part).astype(kind) for part, kind in zip(zip(*parts, strict=True), kinds, strict=True)]
    tensors = [torch.from_numpy(each).to(device) for each in (ids, *flat, *([positions] if packed else []))]
    return MicroBatch(*tensors)


def _rows(pieces: Sequence[_Piece], packed: bool) -> list[list[_Piece]]:
    """One piece a row, or as many as fit into the length of the longest: first fit, in decreasing length."""
    if not packed:
        return [[piece] for piece in pieces]
    rows: list[list[_Piece]] = []
    room: list[int] = []
    for piece in pieces:
        row = next((n for n, left in enumerate(room) if left >= piece.length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(pieces[0].length)
        rows[row].append(piece)
        room[row] -= piece.length
    return rows


def micro_batches(
    samples: Sequence[Sample],
    *,
    max_tokens: int,
    device: torch.device | str = "cpu",
    weights: Sequence[float] | None = None,
    packed: bool = False,
) -> list[MicroBatch]:
    """Sort samples by length and fill micro-batches of at most `max_tokens` tokens, padding included.

    A sample longer than `max_tokens` gets a micro-batch of its own; one without sampled tokens is left out. The
    result depends only on the samples and their order.

    Args:
        samples: what to train on.
        max_tokens: bound of a micro-batch.
        device: where its tensors go.
        weights: of each sample's tokens (`spread`); 1 by default.
        packed: whether rows may hold several samples.
    """
    known = weights or [1.0] * len(samples)
    pieces = [_Piece(sample, _length(sample), weight) for sample, weight in zip(samples, known, strict=True)]
    longest_first = sorted((piece for piece in pieces if piece.length), key=lambda piece: -piece.length)
    rows = _rows(longest_first, packed)
    batches, start = [], 0
    while start < len(rows):
        width = sum(piece.length for piece in rows[start]) if not packed else longest_first[0].length
        chosen = rows[start : start + max(1, max_tokens // width)]
        batches.append(_stack(chosen, torch.device(device), packed))
        start += len(chosen)
    return batches
