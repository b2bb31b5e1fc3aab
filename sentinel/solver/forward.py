"""The forward pass of training as far as the loss looks: hidden states of those positions that predict a sampled token.

    hidden = states(model, batch)                # [N, width]

In the last layer nothing behind the attention looks at other positions, so its feed-forward part, the largest of a
layer, is computed for those positions alone. That is exact. It is left out for models of other builds and where
activations are recomputed, which runs a layer once more when this is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from sentinel.llm.decoder import ARCHITECTURES
from sentinel.solver.batch import MicroBatch


def states(model: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
    """Normalised hidden states of the batch's positions.

    There is no attention mask: padding is on the right and the model is causal.
    """
    positions = {} if batch.positions is None else {"position_ids": batch.positions}
    if model.training or model.config.model_type not in ARCHITECTURES:
        hidden: torch.Tensor = model.base_model(input_ids=batch.ids, use_cache=False, **positions).last_hidden_state
        return hidden[batch.rows, batch.columns]
    with _ending_at(model.base_model.layers[-1], batch.rows, batch.columns):
        chosen: torch.Tensor = model.base_model(input_ids=batch.ids, use_cache=False, **positions).last_hidden_state
    return chosen


@contextmanager
def _ending_at(layer: Any, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Have a layer give only these positions, [N, width]; what follows it, the last norm, takes any shape."""

    def forward(hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        mixed, *_ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)
        chosen = (hidden_states + mixed)[rows, columns]
        result: torch.Tensor = chosen + layer.mlp(layer.post_attention_layernorm(chosen))
        return result

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
