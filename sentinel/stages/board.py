"""The figures of training steps for TensorBoard, as they come, where the profile names a folder for them.

with board(context) as note:
note(metrics)

Event files hold clocks and host names, so they are no artifacts: they lie where the profile says, a folder per stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sentinel.solver.metrics import StepMetrics
from sentinel.stages.context import Context


@contextmanager
def board(context: Context) -> Iterator[Callable[[StepMetrics], None]]:
    """What is to be told of every step; nobody listens where the profile names no folder."""
    folder = context.profile.tensorboard
    if folder is None:
        yield lambda metrics: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(Path(folder) / context.name)) as writer:

        def note(metrics: StepMetrics) -> None:
            for name, value in figures(metrics).items():
                writer.add_scalar(name, value, metrics.step)
            writer.flush()

        yield note


def figures(metrics: StepMetrics) -> dict[str, float]:
    """The numbers of a step, those in groups (`void/…`, `shaping/…`) included; what is not known is left out."""
    found: dict[str, float] = {}
    for name, value in metrics.model_dump(exclude={"step", "result", "schema_version"}).items():
        inner = {f"{name}/{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: float(each) for key, each in inner.items() if isinstance(each, int | float)}
    return found
