"""Our Muon against torch's, which does the same in bfloat16."""

import torch

from sentinel.solver.muon import Muon, orthogonalised


def test_singular_values_come_close_to_one() -> None:
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    for result in (orthogonalised(matrices), orthogonalised(matrices.mT)):
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_steps_equal_those_of_torch_within_its_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 16), (48, 16), (16, 48), (16, 16)]
    ours, theirs = (
        [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes],
        [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes],
    )
    optimizers = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=0.01)
        assert one.abs().max() > 0.05
