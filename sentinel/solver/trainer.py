"""The training loop of one iteration: GRPO on policy.

    step:  draw prompts -> play a group of episodes for each -> advantages -> one optimizer step -> checkpoint
              curriculum      rollout.pool                      filter, refill     update             checkpoint
    every few steps: dev evaluation; the best policy seen, the start included, is what `train` leaves in the model

Each batch is used for one update, so the policy that is trained is the one that played. Groups whose rewards are all
equal carry no information; in their place as many prompts are drawn once more, and every episode counts in the budget.
Every random number derives from what it is for, so the loop holds no random state and resumes between any two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from sentinel.artifacts import write_jsonl
from sentinel.curriculum import Curriculum
from sentinel.records import Json, Task
from sentinel.rollout.episode import Assignment, Played
from sentinel.seeds import derive, generator
from sentinel.solver.advantages import group_advantages
from sentinel.solver.batch import Sample
from sentinel.solver.checkpoint import (
    Checkpoints,
    Manifest,
    model_tensors,
    restore_model,
    restore_training,
    save_tensors,
    training_tensors,
)
from sentinel.solver.guards import DevScore, Guards, dev_score
from sentinel.solver.metrics import Group, Skipped, StepMetrics, Update, describe, reward_of
from sentinel.solver.update import Updater
from sentinel.spec.models import Trainer as Settings

DEV_TRIALS = 2
"""Episodes per dev task."""
FIRST_TRIAL = 1000
"""Episodes of a task are numbered from here, so that `task#trial` is none of the iteration's diagnosis or probes."""


class Play(Protocol):
    """The rollout pool over the model in training."""

    def __call__(self, assignments: Sequence[Assignment], *, policy: str) -> list[Played]:
        """Play episodes with the model as it is now, signed with `policy`; results in the order of assignments."""


class Progress(Protocol):
    """Where the loop tells how far it is."""

    def start(self, total: int, unit: str = "steps", done: int = 0) -> None:
        """So many steps there are, and so many were done before."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """So many more steps are done."""

    def say(self, text: str) -> None:
        """Something a person should know."""


class Trainer:
    """One iteration's training; `train` runs it, or the rest of it where checkpoints are found."""

    def __init__(
        self,
        model: PreTrainedModel,
        name: str,
        play: Play,
        curriculum: Curriculum,
        dev: Sequence[Task],
        settings: Settings,
        seed: tuple[int, int],
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        """Prepare to train the model in place.

        Args:
            model: the iteration's first policy, and the reference of the KL penalty.
            name: its hash; after k updates the policy signs as `name+k`.
            play: the rollout pool over the same model.
            curriculum: where the prompts come from; it learns from the outcomes.
            dev: tasks that judge the policy.
            settings: the spec's section.
            seed: the experiment's seed and the iteration.
            checkpoints: where the steps are kept.
            progress: who is told.
        """
        self.model = model
        self.curriculum = curriculum
        self.metrics: list[StepMetrics] = []
        self._name = name
        self._play = play
        self._dev = dev
        self._settings = settings
        self._seed = seed
        self._checkpoints = checkpoints
        self._progress = progress
        self._updater = Updater(model, settings)
        self._guards = Guards()
        self._groups = self._updates = 0
        self._dev_start: float | None = None

    def train(self) -> list[StepMetrics]:
        """Run all steps that are left and put the best policy into the model.

        Returns:
            The metrics of every step, those before a resume included.
        """
        found = self._checkpoints.load()
        if found:
            self._resume(*found)
        else:
            self._dev_start = self._judge(0).value
            self._save(0)
        self._progress.start(self._settings.steps, done=len(self.metrics))
        while len(self.metrics) < self._settings.steps and not self._guards.stop:
            self._step(len(self.metrics) + 1)
        if self._guards.stop:
            self._progress.say(self._guards.stop)
        restore_model(self.model, load_file(self._checkpoints.folder / _best(self._guards.best_step)))
        return [each.model_copy(update={"result": each.step == self._guards.best_step}) for each in self.metrics]

    def trajectory_files(self) -> list[Path]:
        """One JSONL file per step, in order: every episode played for training."""
        return [self._checkpoints.folder / _trajectories(each.step) for each in self.metrics]

    def _step(self, step: int) -> None:
        groups = self._collect(step, 0, self._settings.prompts_per_step)
        for draw in range(1, 1 + self._settings.refills):
            if missing := self._settings.prompts_per_step - sum(group.advantages is not None for group in groups):
                groups += self._collect(step, draw, missing)
        update = self._update(groups)
        self._updates += update is not None
        metrics = describe(step, groups, len(groups) - self._settings.prompts_per_step, update)
        self._guards.not_finite += metrics.skipped is Skipped.not_finite
        if step % self._settings.dev_every == 0 or step == self._settings.steps:
            score = self._judge(step)
            metrics = metrics.model_copy(update={"dev": score.value, "dev_episodes": len(self._dev) * DEV_TRIALS})
        self.metrics.append(metrics.model_copy(update={"dev_start": self._dev_start}))
        trajectories = [played.trajectory for group in groups for played in group.played]
        self._checkpoints.attach(_trajectories(step), partial(write_jsonl, records=trajectories))
        self._save(step)
        self._report(metrics)

    def _collect(self, step: int, draw: int, prompts: int) -> list[Group]:
        """Draw prompts, play their groups, tell the curriculum."""
        tasks = self.curriculum.draw(prompts, generator(*self._purpose(step, draw, "draw")))
        size = self._settings.group_size
        assignments = []
        for number, task in enumerate(tasks):
            for episode in range(size):
                trial = FIRST_TRIAL + (self._groups + number) * size + episode
                assignments.append(Assignment(task, trial, derive(*self._purpose(step, draw, number, episode))))
        self._groups += len(tasks)
        played = self._play(assignments, policy=self._signature())
        groups = []
        for number, task in enumerate(tasks):
            episodes = played[number * size : (number + 1) * size]
            rewards = [reward_of(each.trajectory) for each in episodes]
            groups.append(Group(task, episodes, group_advantages(rewards)))
            known = [each.trajectory.reward.total for each in episodes if each.trajectory.reward]
            self.curriculum.observe(task.id, round(sum(known)), len(known))
        return groups

    def _update(self, groups: Sequence[Group]) -> Update | None:
        samples = [
            Sample(tokens, advantage)
            for group in groups
            for played, advantage in zip(group.played, group.advantages or (), strict=False)
            if advantage is not None
            for tokens in played.samples
        ]
        return self._updater.update(samples) if samples else None

    def _judge(self, step: int) -> DevScore:
        """Evaluate the policy on the dev tasks and keep its weights where it is the best so far."""
        assignments = [
            Assignment(task, trial, derive(*self._purpose("dev", task.id, trial)))
            for task in self._dev
            for trial in range(DEV_TRIALS)
        ]
        score = dev_score(self._play(assignments, policy=self._signature()))
        before = self._guards.best_step
        if self._guards.improved(step, score):
            if before is not None:
                self._checkpoints.detach(_best(before))
            self._checkpoints.attach(_best(step), partial(save_tensors, tensors=model_tensors(self.model)))
        return score

    def _signature(self) -> str:
        return f"{self._name}+{self._updates}" if self._updates else self._name

    def _purpose(self, *parts: int | str) -> tuple[int | str, ...]:
        seed, iteration = self._seed
        return (seed, "train", iteration, *parts)

    def _save(self, step: int) -> None:
        state: dict[str, Json] = {
            "metrics": [each.model_dump(mode="json") for each in self.metrics],
            "curriculum": self.curriculum.state(),
            "guards": asdict(self._guards),
            "groups": self._groups,
            "dev_start": self._dev_start,
        }
        self._checkpoints.save(step, training_tensors(self.model, self._updater.optimizer), state)

    def _resume(self, manifest: Manifest, tensors: dict[str, torch.Tensor]) -> None:
        state = manifest.state
        self.metrics = [StepMetrics.model_validate(each) for each in state["metrics"]]
        self.curriculum.restore(state["curriculum"])
        self._guards = Guards(**state["guards"])
        self._groups, self._dev_start = state["groups"], state["dev_start"]
        self._updates = sum(each.skipped is None for each in self.metrics)
        restore_training(self.model, self._updater.optimizer, tensors)
        self._progress.say(f"continuing after step {manifest.step}")

    def _report(self, metrics: StepMetrics) -> None:
        if metrics.skipped is Skipped.no_information:
            self._progress.say(
                f"step {metrics.step}: no group with different rewards among {metrics.groups} "
                f"({sum(metrics.void.values())} of {metrics.episodes} episodes void): nothing learnt, policy unchanged"
            )
        if metrics.skipped is Skipped.not_finite:
            self._progress.say(f"step {metrics.step}: loss or gradient is not finite: skipped, policy unchanged")
        shown = ("reward", "informative_share", "loss", "kl", "entropy", "dev")
        figures = {name: value for name in shown if (value := getattr(metrics, name)) is not None}
        self._progress.advance(1, **figures)


def _best(step: int | None) -> str:
    return f"best-{step:04d}.safetensors"


def _trajectories(step: int) -> str:
    return f"trajectories-{step:04d}.jsonl"
