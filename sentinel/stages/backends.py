"""What computes optimizer steps, as the profile says: the stage's own process, or ranks of their own.

with opened_backend(context, policy.model, folder, settings) as backend:
backend.update(samples)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from transformers import PreTrainedModel

from sentinel.solver.objective import Objective
from sentinel.solver.rank import Setup
from sentinel.solver.ranked import ranked
from sentinel.solver.update import Backend, Updater
from sentinel.spec.trainer import Trainer as Settings
from sentinel.stages.context import Context


def opened_backend(
    context: Context,
    model: PreTrainedModel,
    folder: Path,
    settings: Settings,
    *,
    adapters_seed: int = 0,
    objective: Objective = "grpo",
) -> AbstractContextManager[Backend]:
    """The backend of a stage.

    Args:
        context: the stage's.
        model: the policy that is trained, adapters attached; it holds the weights to play with.
        folder: where ranks find the same policy, without adapters.
        settings: the trainer's.
        adapters_seed: from which ranks draw the same adapters.
        objective: what is maximised.
    """
    place = context.profile
    if place.trainer.type == "torch":
        checkpointing = place.trainer.gradient_checkpointing
        return nullcontext(Updater(model, settings, gradient_checkpointing=checkpointing, objective=objective))
    setup = Setup(
        policy=str(folder),
        dtype=context.spec.policy.dtype,
        device=place.device,
        settings=settings.model_dump_json(),
        place=place.trainer.model_dump_json(),
        adapters_seed=adapters_seed,
        objective=objective,
    )
    return ranked(model, setup, place.trainer, state=context.state, threads=place.threads)
