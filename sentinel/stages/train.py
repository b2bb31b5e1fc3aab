"""The train stage: the iteration's policy, the pool and the new tasks -> a better policy and the next pool."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from sentinel.artifacts import read_jsonl, replacing, write_jsonl
from sentinel.curriculum import Curriculum
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
    write_jsonl(context.output / "metrics.jsonl", metrics)
    _join(trainer.trajectory_files(), context.output / "trajectories.jsonl")


def _curriculum(context: Context) -> Curriculum:
    """Over the pool and the iteration's new tasks."""
    pool, proposed = context.inputs["pool"], context.inputs["propose"] / "tasks.jsonl"
    tasks = read_jsonl(pool, Task) + read_jsonl(proposed, Task, may_be_empty=True)
    targeted = [task for task in tasks if task.origin.kind is OriginKind.targeted]
    general = [task for task in tasks if task.origin.kind is not OriginKind.targeted]
    return Curriculum(general, targeted, context.spec.curriculum)


def _join(parts: list[Path], whole: Path) -> None:
    """Put JSONL files one after the other, byte for byte."""
    with replacing(whole) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
