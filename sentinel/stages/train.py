"""The train stage: the iteration's policy, the pool and the new tasks -> a better policy and the next pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from sentinel.artifacts import read_json, read_jsonl, replacing, write_json, write_jsonl
from sentinel.curriculum import Curriculum, Memory
from sentinel.descent import Probed, condition_of
from sentinel.llm.lora import attach
from sentinel.llm.policy import load_policy, save_policy
from sentinel.records import OriginKind, Task
from sentinel.seeds import derive
from sentinel.solver.checkpoint import Checkpoints
from sentinel.solver.trainer import Trainer
from sentinel.stages.backends import opened_backend
from sentinel.stages.board import board
from sentinel.stages.context import Context
from sentinel.stages.playing import opened
from sentinel.stages.rollout import Rates


def run(context: Context) -> None:
    """Train for one iteration; continues from the last step's checkpoint after a kill."""
    spec, inputs, place = context.spec, context.inputs, context.profile
    torch.set_num_threads(place.threads)
    policy = load_policy(inputs["policy"], place.device, spec.policy.dtype)
    seed = derive(spec.seed, "train", context.iteration, "adapters")
    if lora := spec.trainer.lora:
        attach(policy.model, rank=lora.rank, alpha=lora.alpha, modules=lora.modules, seed=seed)
    curriculum = _curriculum(context)
    steps = opened_backend(context, policy.model, inputs["policy"], spec.trainer, adapters_seed=seed)
    with opened(context, live=policy) as players, steps as backend, board(context) as note:
        trainer = Trainer(
            backend=backend,
            name=players.name,
            play=partial(
                players.play, sampling=spec.trainer, chunk=spec.trainer.prompts_per_step * spec.trainer.group_size
            ),
            curriculum=curriculum,
            dev=read_jsonl(inputs["tasks"] / "dev.jsonl", Task),
            settings=spec.trainer,
            seed=(spec.seed, context.iteration),
            checkpoints=Checkpoints(context.state, say=context.progress.say),
            progress=context.progress,
            checkpoint_every=place.trainer.checkpoint_every,
            on_step=note,
        )
        metrics = trainer.train()
    save_policy(context.output / "policy", policy)
    write_jsonl(context.output / "pool.jsonl", curriculum.pool())
    write_jsonl(context.output / "resting.jsonl", curriculum.resting())
    write_json(context.output / "memory.json", curriculum.memory())
    write_jsonl(context.output / "metrics.jsonl", metrics)
    _join(trainer.trajectory_files(), context.output / "trajectories.jsonl")
    _join(trainer.drawn_files(), context.output / "curriculum.jsonl")


def _curriculum(context: Context) -> Curriculum:
    """Over the pool, what rests from earlier iterations, and the new tasks; it knows all that was played before."""
    inputs, proposed = context.inputs, context.inputs["propose"]
    rested = read_jsonl(inputs["resting"], Task, may_be_empty=True) if "resting" in inputs else []
    pool = read_jsonl(inputs["pool"], Task)
    fresh = read_jsonl(proposed / "tasks.jsonl", Task, may_be_empty=True)
    new = [task for task in fresh if _targeted(task)]
    new += filter(_targeted, read_jsonl(proposed / "parked.jsonl", Task, may_be_empty=True))
    curriculum = Curriculum(
        general=[task for task in [*pool, *fresh] if not _targeted(task)],
        targeted=[*filter(_targeted, pool), *rested],
        settings=context.spec.curriculum,
        memory=read_json(inputs["memory"], Memory) if "memory" in inputs else None,
    )
    curriculum.learn(_diagnosed(read_json(inputs["rates"], Rates), pool))
    curriculum.learn(read_jsonl(proposed / "probes.jsonl", Probed, may_be_empty=True))
    curriculum.admit(new)
    return curriculum


def _targeted(task: Task) -> bool:
    return task.origin.kind is OriginKind.targeted


def _diagnosed(rates: Rates, pool: Sequence[Task]) -> Iterator[Probed]:
    """The diagnosis, task by task in the order of the pool."""
    for task in pool:
        if task.id in rates.tasks:
            successes, trials = rates.tasks[task.id]
            yield Probed(task=task.id, condition=condition_of(task), successes=successes, trials=trials)


def _join(parts: list[Path], whole: Path) -> None:
    """Put JSONL files one after the other, byte for byte."""
    with replacing(whole) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
