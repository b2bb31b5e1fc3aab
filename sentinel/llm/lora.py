"""Low-rank adapters: a change of few parameters beside frozen matrices (LoRA, arXiv:2106.09685).

    attach(model, rank=16, alpha=32.0, modules=("q_proj", "v_proj"), seed=7)   # all else is frozen
    with without_adapters(model): ...                                          # the policy it started from
    plain_state(model)                                                         # weights with the change merged in
    save_adapter(folder, model)                                                # in peft's format, as vLLM loads it

A matrix W becomes W + (alpha / rank) B A, with B zero and A random at the start. The adapters are fp32 whatever the
model is, so they need no masters. Left out: dropout, biases, embeddings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentinel.artifacts import replacing_folder
from sentinel.errors import SpecError
from sentinel.llm.tensors import write_tensors


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.on = rank, alpha, True
        uniform = torch.rand(rank, base.in_features, generator=generator) * 2 - 1
        self.down = nn.Parameter((uniform / math.sqrt(base.in_features)).to(base.weight.device))  # as peft starts
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    @property
    def weight(self) -> Tensor:
        """The layer's matrix with the change merged in, in the precision of the base."""
        change = (self.alpha / self.rank) * (self.up @ self.down)
        return (self.base.weight.float() + change).to(self.base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and the adapter's."""
        out: Tensor = self.base(x)
        if not self.on:
            return out
        low = F.linear(x, self.down.to(x.dtype))
        return out + F.linear(low, self.up.to(x.dtype)) * (self.alpha / self.rank)


def attach(model: nn.Module, *, rank: int, alpha: float, modules: Sequence[str], seed: int) -> None:
    """Freeze the model and give an adapter to every linear layer of these names.

    Raises:
        SpecError: A name is of no linear layer of the model.
    """
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    last = {name.rpartition(".")[2] for name in linear}
    if missing := sorted(set(modules) - last):
        raise SpecError(
            [
                f"trainer.lora.modules: {', '.join(missing)}: the policy has no such linear layers; "
                f"it has {', '.join(sorted(last))}"
            ]
        )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in linear.items():
        parent, _, own = name.rpartition(".")
        if own in modules:
            setattr(model.get_submodule(parent), own, LoraLinear(layer, rank, alpha, generator))


def _adapters(model: nn.Module) -> dict[str, LoraLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLinear)}


def adapted(model: nn.Module) -> bool:
    """Whether the model has adapters."""
    return bool(_adapters(model))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Switch all adapters off for a while."""
    layers = _adapters(model).values()
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.on = True


@torch.no_grad()
def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model would have without adapters, with their change in it."""
    state, layers = dict(model.state_dict()), _adapters(model)
    for name, layer in layers.items():
        for key in ("down", "up", "base.weight"):
            del state[f"{name}.{key}"]
        if (bias := state.pop(f"{name}.base.bias", None)) is not None:
            state[f"{name}.bias"] = bias
        state[f"{name}.weight"] = layer.weight
    return state


def save_adapter(folder: Path, model: nn.Module) -> None:
    """Write the adapters alone, all or nothing."""
    layers = _adapters(model)
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.down.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.up.detach().cpu().contiguous()
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
    }
    with replacing_folder(folder) as temporary:
        write_tensors(temporary / "adapter_model.safetensors", tensors)
        (temporary / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
