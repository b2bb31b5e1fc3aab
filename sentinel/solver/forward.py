"""The forward pass of training as far as the loss looks: hidden states of those positions that predict a sampled token.

    hidden = states(model, batch)                # [N, width]

In the last layer nothing behind the attention looks at other positions, so its feed-forward part, the largest of a
layer, is computed for those positions alone. That is exact. It is left out for models of other builds and where
activations are recomputed, which runs a layer once more when this is over. A policy in fp32 on a CPU has a pass of its
own (`sentinel.solver.lean`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sentinel.llm.decoder import ARCHITECTURES
from sentinel.solver import lean
from sentinel.solver.batch import MicroBatch


def states(model: PreTrainedModel, batch: MicroBatch) -> torch.Tensor:
    """Normalised hidden states of the batch's positions.

    There is no attention mask: padding is on the right and the model is causal.
    """
    positions = {} if batch.positions is None else {"position_ids": batch.positions}
    found: torch.Tensor
    if model.training or model.config.model_type not in ARCHITECTURES:
        found = model.base_model(input_ids=batch.ids, use_cache=False, **positions).last_hidden_state
        return found[batch.rows, batch.columns]
    if lean.suits(model):
        return lean.states(model, batch)
    last = model.base_model.layers[-1]
    with lean.replaced({last: partial(_ending_at, last, batch.rows, batch.columns)}):
        found = model.base_model(input_ids=batch.ids, use_cache=False, **positions).last_hidden_state
    return found


def _ending_at(layer: Any, rows: Tensor, columns: Tensor, hidden_states: Tensor, **options: Any) -> Tensor:
    """A layer that gives only these positions, [N, width]; what follows it, the last norm, takes any shape."""
    mixed, *_ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)
    chosen = (hidden_states + mixed)[rows, columns]
    result: Tensor = chosen + layer.mlp(layer.post_attention_layernorm(chosen))
    return result
