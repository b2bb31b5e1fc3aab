"""The forward pass of some positions for many rows, over a preallocated KV cache: what `sentinel.llm.hf` samples from.

    decoder = Decoder(model, rows=128, context=320)
    hidden = decoder.feed(ids, position)                # ids [rows, tokens], all rows at the same position
    decoder.log_probabilities(hidden, temperature=1.0)  # [rows, vocabulary]
    decoder.keep(torch.tensor([0, 3, 4]))               # the others are through

It runs the model's own layers, live weights and all, and replaces only what generation does differently: attention
reads the cache. Left out: sliding windows and stretched rotary embeddings, which it refuses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from sentinel.errors import StageError
from sentinel.llm.head import frozen

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Decoders of one build: Qwen2 has biases, Qwen3 normalises each head's queries and keys."""


def _check(config: PretrainedConfig) -> None:
    if config.model_type not in ARCHITECTURES:
        raise _refusal(f"models of type {', '.join(ARCHITECTURES)}", f"'{config.model_type}'")
    if (rope := config.rope_parameters["rope_type"]) != "default":
        raise _refusal("plain rotary embeddings", f"rope_type '{rope}'")
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"}):
        raise _refusal("layers with full attention", f"'{others[0]}'")


def _refusal(runs: str, found: str) -> StageError:
    return StageError(f"the in-process engine runs {runs}, found {found}; use the vllm engine")


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _before(begin: int, end: int, device: torch.device) -> Tensor | None:
    """Which positions each of the tokens from `begin` to `end` may look at; a single one sees all there are."""
    if end == begin + 1:
        return None
    return torch.arange(end, device=device) <= torch.arange(begin, end, device=device)[:, None]


class Decoder:
    """One model with room for `rows` conversations of `context` tokens.

    Raises:
        StageError: The model is of a build that it cannot run exactly.
    """

    def __init__(self, model: PreTrainedModel, rows: int, context: int) -> None:
        _check(model.config)
        self._embed, self._norm, self._head = model.model.embed_tokens, model.model.norm, frozen(model.lm_head)
        self._layers: list[Any] = list(model.model.layers)
        self._heads, self._kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
        shape = (rows, self._kv_heads, context, self._layers[0].self_attn.head_dim)
        options = {"dtype": model.dtype, "device": model.device}
        self._keys = [torch.empty(shape, **options) for _ in self._layers]
        self._values = [torch.empty(shape, **options) for _ in self._layers]
        positions = torch.arange(context, device=model.device)[None]
        cos, sin = model.model.rotary_emb(self._keys[0], positions)
        self._cos, self._sin = cos[0], sin[0]

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows from the cache."""
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]

    def feed(self, ids: Tensor, position: int) -> Tensor:
        """Hidden states [rows, hidden] of the last token, after feeding `ids` [rows, tokens] from `position` on."""
        x: Tensor = self._embed(ids)
        for n, layer in enumerate(self._layers):
            x = x + self._attend(n, layer.self_attn, layer.input_layernorm(x), position)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        normed: Tensor = self._norm(x[:, -1])
        return normed

    def _attend(self, n: int, attention: Any, x: Tensor, position: int) -> Tensor:
        query, key, value = self._project(attention, x)
        end = position + x.shape[1]
        cos, sin = self._cos[position:end], self._sin[position:end]
        keys, values = self._keys[n], self._values[n]
        keys[:, :, position:end] = _rotate(key, cos, sin)
        values[:, :, position:end] = value
        mixed = F.scaled_dot_product_attention(
            _rotate(query, cos, sin),
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=_before(position, end, x.device),
            enable_gqa=self._heads != self._kv_heads,
        )
        out: Tensor = attention.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _project(self, attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [rows, heads of its kind, tokens, head size]."""
        query = attention.q_proj(x).unflatten(-1, (self._heads, -1))
        key = attention.k_proj(x).unflatten(-1, (self._kv_heads, -1))
        value = attention.v_proj(x).unflatten(-1, (self._kv_heads, -1))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def log_probabilities(self, hidden: Tensor, temperature: float) -> Tensor:
        """[rows, vocabulary] in fp32, with the temperature applied."""
        return F.log_softmax(self._head(hidden).float() / temperature, dim=-1)
