"""AdamW over fp32 masters, with a state that can be saved by parameter name.

    optimizer = MasterAdamW(model, learning_rate=1e-6)
    loss.backward(); optimizer.take_gradients()       # after every micro-batch
    optimizer.step()                                  # the masters, and from them the model

The smallest step of bfloat16 at 1.0 is 2^-8: updates of the size that reinforcement learning makes vanish in it (after
three steps at 1e-5 the masters of a real model had moved its loss by 0.63, their bf16 copy by 0.04; measured). So every
parameter in low precision has a master in fp32, which is what is trained; the model holds its cast, and that is what
both the engine and the trainer's forward pass use. Gradients of micro-batches are summed in fp32. A parameter in fp32
is its own master, at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Named = Mapping[str, Tensor]


class MasterAdamW:
    """AdamW without weight decay over the parameters that are trained; no schedule."""

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self._live = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.masters = {
            name: each if each.dtype == torch.float32 else each.detach().float().requires_grad_()
            for name, each in self._live.items()
        }
        self._adamw = torch.optim.AdamW(list(self.masters.values()), lr=learning_rate, weight_decay=0.0, fused=True)

    def _copies(self) -> list[tuple[nn.Parameter, Tensor]]:
        return [(live, self.masters[name]) for name, live in self._live.items() if live is not self.masters[name]]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in (*self._live.values(), *self.masters.values()):
            parameter.grad = None

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Add the model's gradients to those of the masters."""
        for live, master in self._copies():
            if live.grad is not None:
                added = live.grad.float()
                master.grad = added if master.grad is None else master.grad.add_(added)
                live.grad = None

    def clip(self, largest: float) -> float:
        """Bound the norm of the gradient; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(list(self.masters.values()), largest).item()

    def step(self) -> None:
        """Apply the gradients."""
        self._adamw.step()
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        for live, master in self._copies():
            live.copy_(master)

    def tensors(self) -> dict[str, Tensor]:
        """Masters, moments and step counters, by parameter name."""
        found = {f"model.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self._adamw.state.get(master, {}).items():
                found[f"optimizer.{key}.{name}"] = value
        return found

    @torch.no_grad()
    def restore(self, tensors: Named) -> None:
        """Put everything back as `tensors` gave it; step size and betas stay those of the spec."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"model.{name}"])
        self._adamw.state.clear()
        for label, value in tensors.items():
            kind, _, rest = label.partition(".")
            key, _, name = rest.partition(".")
            if kind == "optimizer":
                master = self.masters[name]
                self._adamw.state[master][key] = value.to(master.device) if value.ndim else value
        self._publish()
