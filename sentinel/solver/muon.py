"""Muon in fp32: momentum whose matrix is made nearly orthogonal before it is applied.

    optimizer = Muon(matrices, lr=0.01)

`torch.optim.Muon` orthogonalises in bfloat16, which costs five times a whole step of the tiny policy on a CPU without
instructions for it (measured on one that has AVX2 only); this one stays in fp32 and treats matrices of one shape
together. Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). Left out: weight
decay, other learning rate adjustments, more than one parameter group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic Newton-Schulz iteration, as in the source."""
ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values end between 0.5 and 1.5.

    Args:
        matrices: [batch, rows, columns].
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; for matrices only."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        (group,) = self.param_groups
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                alike[matrix.shape].append(matrix)
        for (rows, columns), matrices in alike.items():
            updates = orthogonalised(torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices]))
            for matrix, update in zip(matrices, updates, strict=True):
                matrix.add_(update, alpha=-group["lr"] * sqrt(max(1.0, rows / columns)))

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """The running mean of the gradients, with this one counted again."""
        state = self.state[matrix]
        if not state:
            state["mean"] = torch.zeros_like(matrix)
        mean: Tensor = state["mean"].lerp_(matrix.grad, 1.0 - momentum)
        assert matrix.grad is not None
        return matrix.grad.lerp(mean, momentum)
