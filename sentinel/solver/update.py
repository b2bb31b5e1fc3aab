"""One optimizer step on a batch of episodes: the `torch` backend (one process, any device, needs no compiler)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from sentinel.solver.batch import MicroBatch, Sample, micro_batches
from sentinel.solver.loss import policy_loss, score
from sentinel.solver.metrics import Update
from sentinel.spec.models import Trainer as Settings

MICRO_BATCH_TOKENS = 4096
"""Tokens that go through the model together, padding included. Fixed because it decides the order of float sums."""


class Updater:
    """The model in training, its optimizer and the policy of the iteration's start.

    AdamW without weight decay; no schedule, because an iteration has a dozen steps.
    """

    def __init__(self, model: PreTrainedModel, settings: Settings) -> None:
        """Take the model as it is now for the reference of the KL penalty (only where `settings.kl` is not 0)."""
        self.model = model.eval()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self._reference = copy.deepcopy(model).requires_grad_(False) if settings.kl else None
        self._settings = settings

    def update(self, samples: Sequence[Sample]) -> Update | None:
        """One step on the mean over all sampled tokens; `None`, and no step, where loss or gradient is not finite."""
        batches = micro_batches(samples, max_tokens=MICRO_BATCH_TOKENS, device=self.model.device)
        tokens = sum(len(batch.targets) for batch in batches)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.stack([self._accumulate(batch, tokens) for batch in batches]).sum(dim=0)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.max_grad_norm).item()
        loss, kl, ratio, clipped, entropy = (sums / tokens).tolist()
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not finite:
            return None
        return Update(
            trained_tokens=tokens,
            loss=loss,
            kl=kl if self._reference is not None else None,
            entropy=entropy,
            ratio=ratio,
            clipped=clipped,
            grad_norm=norm,
        )

    def _accumulate(self, batch: MicroBatch, tokens: int) -> torch.Tensor:
        """Add the gradient of a micro-batch; returns its sums of loss, KL, ratio, clipped tokens and entropy."""
        temperature = self._settings.temperature
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference = score(self._reference, batch, temperature=temperature).logprobs
        scores = score(self.model, batch, temperature=temperature)
        terms = policy_loss(scores.logprobs, batch, clip=self._settings.clip, kl=self._settings.kl, reference=reference)
        (terms.loss / tokens).backward()
        parts = (terms.loss.detach(), terms.kl, terms.ratio, terms.clipped.float(), scores.entropy.sum())
        return torch.stack([part.double() for part in parts])
