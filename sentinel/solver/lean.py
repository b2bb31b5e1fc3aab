"""The training forward pass of a decoder in fp32 on a CPU: nothing padded, and few passes over memory.

    hidden = states(model, batch)                # [N, width]: of the positions that predict a sampled token

Of an update of a policy of a million parameters a quarter is neither matrix multiplication nor attention, but reading
and writing of activations (measured), so this does less of all three. Samples lie one after the other, without padding,
and only attention, which is done sample by sample, knows where one ends. In the last layer nothing but keys and values
is computed for positions that no loss looks at. RMSNorm and rotary embeddings have their derivatives written out, in
fewer passes than autograd makes. All of it is exact up to rounding. Models in lower precision and on other devices are
left to transformers, which has kernels for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from sentinel.llm.decoder import ARCHITECTURES
from sentinel.solver.batch import MicroBatch


class _Flat(NamedTuple):
    """A micro-batch without padding: T tokens, of which N are looked at."""

    ids: Tensor
    """int64 [T]."""
    positions: Tensor
    """int64 [T]: of each token in its sample."""
    lengths: list[int]
    """Tokens of each sample."""
    chosen: Tensor
    """int64 [N]: where a sampled token is predicted, ascending."""
    counts: list[int]
    """How many of them each sample has."""


def suits(model: PreTrainedModel) -> bool:
    """Whether a model is one that can be run this way."""
    config = model.config
    return (
        config.model_type in ARCHITECTURES
        and (model.dtype, model.device.type) == (torch.float32, "cpu")
        and not set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    )


def states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Normalised hidden states of the batch's positions."""
    base, flat = model.base_model, _flattened(batch)
    x = base.embed_tokens(flat.ids)
    turn = tuple(each[0, :, None] for each in base.rotary_emb(x, flat.positions[None]))
    norms = {each: partial(_norm, each) for each in base.modules() if hasattr(each, "variance_epsilon")}
    with replaced(norms):
        for layer in base.layers[:-1]:
            x = x + _attend(layer.self_attn, layer.input_layernorm(x), turn, flat.lengths)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        last = base.layers[-1]
        x = x[flat.chosen] + _attend_at(last.self_attn, last.input_layernorm(x), turn, flat)
        x = x + last.mlp(last.post_attention_layernorm(x))
        found: Tensor = base.norm(x)
    return found


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Have modules run these in place of their `forward`; their hooks stay, and afterwards they are as they were."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def _flattened(batch: MicroBatch) -> _Flat:
    """What is fed of a row ends with the last position that is looked at (`sentinel.solver.batch`)."""
    every = torch.arange(batch.ids.shape[1])
    used = torch.zeros(len(batch.ids), dtype=torch.int64).scatter_reduce(0, batch.rows, batch.columns + 1, "amax")
    real = every < used[:, None]
    positions = (every.expand_as(batch.ids) if batch.positions is None else batch.positions)[real]
    chosen = (used.cumsum(0) - used)[batch.rows] + batch.columns
    begins = (positions == 0).nonzero()[:, 0]
    lengths = begins.diff(append=torch.tensor([len(positions)])).tolist()
    counts = torch.searchsorted(begins, chosen, right=True).sub(1).bincount(minlength=len(lengths)).tolist()
    return _Flat(batch.ids[real], positions, lengths, chosen, counts)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    return _normed(hidden_states, module.weight, module.variance_epsilon)


def _attend(module: Any, x: Tensor, turn: Sequence[Tensor], lengths: list[int]) -> Tensor:
    """Causal attention within each sample, [T, width]."""
    query, key = (_rotated(_heads(module, kind, x), *turn) for kind in "qk")
    parts = (each.split(lengths) for each in (query, key, _heads(module, "v", x)))
    found: Tensor = module.o_proj(torch.cat([_mix(module, *part) for part in zip(*parts, strict=True)]))
    return found


def _attend_at(module: Any, x: Tensor, turn: Sequence[Tensor], flat: _Flat) -> Tensor:
    """The same where only the chosen positions ask, [N, width]."""
    asked = _rotated(_heads(module, "q", x[flat.chosen]), *(each[flat.chosen] for each in turn))
    key, value = _rotated(_heads(module, "k", x), *turn), _heads(module, "v", x)
    every = torch.arange(max(flat.lengths))
    seen = (flat.positions[flat.chosen, None] >= every).split(flat.counts)
    parts = zip(asked.split(flat.counts), key.split(flat.lengths), value.split(flat.lengths), seen, strict=True)
    mixed = [_mix(module, query, key, value, mask[:, : len(key)]) for query, key, value, mask in parts]
    found: Tensor = module.o_proj(torch.cat(mixed))
    return found


def _heads(module: Any, kind: str, x: Tensor) -> Tensor:
    """Queries, keys or values by head, [tokens, heads, size], normalised where the model does that."""
    found: Tensor = getattr(module, f"{kind}_proj")(x).unflatten(-1, (-1, module.head_dim))
    norm = getattr(module, f"{kind}_norm", None)
    return found if norm is None else norm(found)


def _mix(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """The values of one sample as its queries weigh them, [queries, heads * size].

    Without a mask each query sees its own position and all before it.
    """
    grouped = query.shape[1] != key.shape[1]
    query, key, value = (each.transpose(0, 1)[None] for each in (query, key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=module.scaling, enable_gqa=grouped
    )
    return mixed[0].transpose(0, 1).flatten(1)


class _RMSNorm(torch.autograd.Function):
    """`weight * x / sqrt(mean(x^2) + epsilon)` over the last dimension (arXiv:1910.07467, eq. 4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, weight, scale)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, weight, scale = ctx.saved_tensors
        along = gradient * unit
        share = (along @ weight).div_(unit.shape[-1])[..., None]
        found = (gradient * weight).addcmul_(unit, share, value=-1.0).mul_(scale)
        return found, along.flatten(0, -2).sum(0), None


class _Rotation(torch.autograd.Function):
    """Rotary embedding (arXiv:2104.09864, eq. 34), halves as pairs; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    found = x * cos
    found[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1.0)
    found[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return found


_normed: Callable[..., Tensor] = _RMSNorm.apply
_rotated: Callable[..., Tensor] = _Rotation.apply
