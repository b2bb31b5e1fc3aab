"""One optimizer step on a batch of samples: the `torch` backend (one process, any device, needs no compiler)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from sentinel.llm.lora import adapted, without_adapters
from sentinel.solver.batch import MicroBatch, Sample
from sentinel.solver.checkpoint import save_tensors
from sentinel.solver.loss import Scores, score
from sentinel.solver.metrics import Update
from sentinel.solver.objective import GRADIENTS, Objective, Reference, cut, figures
from sentinel.solver.optimizer import MasterAdamW
from sentinel.spec.trainer import Trainer as Settings


class Backend(Protocol):
    """What the training loop needs of whoever computes the steps; `model` always holds the weights to play with."""

    @property
    def model(self) -> PreTrainedModel:
        """The policy as it is now."""
        ...

    def update(self, samples: Sequence[Sample]) -> Update | None:
        """One optimizer step; `None`, and no step, where loss or gradient is not finite."""
        ...

    def save(self, path: Path) -> None:
        """Write all that is needed to continue, atomically: masters, moments and counters as safetensors."""
        ...

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote, under whatever backend."""
        ...


def reference_scores(model: PreTrainedModel, settings: Settings) -> Reference:
    """The policy of the iteration's start: a frozen copy, or the model without its adapters."""
    if not settings.kl:
        return None
    frozen = model if adapted(model) else copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def scores(batch: MicroBatch) -> torch.Tensor:
        with without_adapters(model) if frozen is model else nullcontext():
            return score(frozen, batch, temperature=settings.temperature).logprobs

    return scores


def checkpointed(model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass; transformers does so in training mode only."""
    if getattr(model.config, "attention_dropout", 0.0):
        model.config.attention_dropout = 0.0
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()


class Updater:
    """The model in training, its optimizer and the policy of the iteration's start."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: Settings,
        *,
        gradient_checkpointing: bool = False,
        objective: Objective = "grpo",
    ) -> None:
        """Take the model as it is now for the reference of the KL penalty (only where `settings.kl` is not 0)."""
        self._gradient = GRADIENTS[objective]
        self.model = model.eval()
        self._optimizer = MasterAdamW(model, settings.learning_rate)
        self._reference = reference_scores(model, settings)
        self._settings = settings
        self._checkpointing = gradient_checkpointing

    def update(self, samples: Sequence[Sample]) -> Update | None:
        """One step on the whole batch; `None`, and no step, where loss or gradient is not finite."""
        plan = cut(samples, self._settings, self.model.device)
        self._optimizer.zero_grad()
        if self._checkpointing:
            checkpointed(self.model)
        sums = torch.stack([self._accumulate(batch, plan.divisor) for batch in plan.batches]).sum(dim=0)
        self.model.eval()
        found = figures(sums, plan, self._settings, self._optimizer.clip(self._settings.max_grad_norm))
        if found:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return found

    def _accumulate(self, batch: MicroBatch, divisor: float) -> torch.Tensor:
        sums = self._gradient(self._score, batch, divisor, self._settings, torch.Tensor.backward, self._reference)
        self._optimizer.take_gradients()
        return sums

    def _score(self, batch: MicroBatch) -> Scores:
        return score(self.model, batch, temperature=self._settings.temperature)

    def save(self, path: Path) -> None:
        """Write masters, moments and counters (`Backend`)."""
        save_tensors(path, self._optimizer.tensors())

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote (`Backend`)."""
        self._optimizer.restore(load_file(path))
