"""Warm start: supervised fine-tuning on demonstrations, then a phase that plants weaknesses of decision.

Clean demonstrations come first and corrupted ones last: label noise from scratch stalls the learning of copying, which
everything else needs (measured). Matrices are trained with Muon, which took two thirds of AdamW's time here; embeddings
and norms with AdamW. The loss covers the assistant's tokens; observations count a little, which teaches the language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from sentinel.llm.transcript import Tokens
from sentinel.solver.checkpoint import model_tensors, restore_model, save_tensors
from sentinel.solver.muon import Muon

READING_WEIGHT = 0.02
"""Weight of a token that was read, relative to one that was written."""
BUCKET = 16
"""Batches that are sorted by length together: little padding, and still a random order."""
CLIP = 1.0


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
        self._named = dict(model.named_parameters())
        matrices = [p for name, p in self._named.items() if p.ndim == 2 and "embed_tokens" not in name]
        rest = [p for name, p in self._named.items() if p.ndim != 2 or "embed_tokens" in name]
        self._parts: tuple[torch.optim.Optimizer, ...] = (
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

    def _states(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """What each parameter's optimizer remembers of it."""
        for name, parameter in self._named.items():
            yield from ((name, each.state[parameter]) for each in self._parts if parameter in each.state)

    def tensors(self) -> dict[str, Tensor]:
        """Means, moments and counters by parameter name."""
        return {f"optimizer.{key}.{name}": value for name, state in self._states() for key, value in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        owners = {p: each for each in self._parts for p in each.param_groups[0]["params"]}
        for label, value in tensors.items():
            kind, _, rest = label.partition(".")
            if kind == "optimizer":
                key, _, name = rest.partition(".")
                parameter = self._named[name]
                owners[parameter].state[parameter][key] = value


def decay(step: int, steps: int) -> float:
    """Constant for the first half, then linear to a tenth."""
    return min(1.0, max(0.1, 2.0 * (1.0 - step / steps)))


class Teaching:
    """A `Lesson` (`sentinel.solver.phases`) of demonstrations; equal arguments and threads give equal weights."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        demonstrations: Sequence[Tokens],
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        rng: np.random.Generator,
        pad: int,
        schedule: Callable[[int, int], float] = decay,
    ) -> None:
        """Prepare to train the model in place, for `steps` steps as the schedule has it."""
        self._model, self._demonstrations = model, demonstrations
        self._optimizer = _Optimizer(model, learning_rate)
        self._batches = _batches([len(tokens.ids) for tokens in demonstrations], batch_size, rng)
        self._steps, self._pad, self._schedule = steps, pad, schedule

    def step(self, number: int) -> float:
        """One step on the next batch of demonstrations."""
        self._model.train()
        batch = [self._demonstrations[n] for n in next(self._batches)]
        loss, written = _loss(self._model, *_tensors(batch, self._pad))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        self._optimizer.step(self._schedule(number, self._steps))
        self._model.eval()
        return float(written.detach())

    def save(self, path: Path) -> None:
        """Weights, and the optimizers' memory."""
        save_tensors(path, model_tensors(self._model) | self._optimizer.tensors())

    def load(self, path: Path, done: int) -> None:
        """Continue after step `done`; the order of the batches is drawn again up to there."""
        tensors = load_file(path)
        restore_model(self._model, tensors)
        self._optimizer.restore(tensors)
        for _ in range(done):
            next(self._batches)
