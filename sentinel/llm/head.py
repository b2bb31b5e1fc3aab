"""The output layer of a policy in low precision: its logits are computed and kept in fp32.

    precise(model)               # in place; a model in fp32 stays as it is

Logits of real models reach 20 and more, where neighbouring bfloat16 numbers are an eighth apart: a hidden state that
differs in its last bit moves a probability by an eighth. Engine and trainer compute the same hidden states in different
orders, so with logits in bfloat16 a seventh of their importance ratios lay outside [0.9, 1.1], and with logits in fp32
on both sides a fourteenth did (SmolLM2-135M, 346 tokens, measured). The weights stay in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

Logits = Callable[[Tensor], Tensor]
"""From hidden states [..., width] to logits [..., vocabulary]."""


class PreciseHead(nn.Linear):
    """A linear layer whose output is fp32, whatever its weights and input are."""

    def forward(self, x: Tensor, use: Callable[[Logits], Any] | None = None) -> Any:
        """Logits of all states, or what `use` makes of the layer, whose weights are cast once for all its calls.

        So the gradients of several parts of a batch are summed in fp32 before they are those of the weights.
        """
        own = {name: value.float() for name, value in self.named_parameters()}  # the bias may be missing

        def logits(part: Tensor) -> Tensor:
            return F.linear(part.float(), own["weight"], own.get("bias"))

        return logits(x) if use is None else use(logits)


def precise(model: PreTrainedModel) -> PreTrainedModel:
    """Give the model such an output layer, with the weights that it has."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.weight.dtype != torch.float32:
        head.__class__ = PreciseHead
    return model


def frozen(head: nn.Module) -> Logits:
    """The layer as it is now, for many calls without a gradient."""
    if not isinstance(head, PreciseHead):
        return head
    with torch.no_grad():
        logits: Logits = head(head.weight, use=lambda logits: logits)
    return logits
