"""The training loop of one iteration: GRPO on policy.

    step:  draw prompts -> play a group of episodes for each -> advantages -> one optimizer step -> checkpoint
              curriculum      rollout.pool                      filter, refill     update             checkpoint
    every few steps: dev evaluation; the best policy seen, the start included, is what `train` leaves in the model

Each batch is used for one update, so the policy that is trained is the one that played. Groups whose rewards are all
equal carry no information, whatever their shaping; in their place as many prompts are drawn once more, and each episode
counts in the budget. Every random number derives from what it is for, so the loop holds no random state and resumes
between any two steps. A run that is told to end (SIGTERM) writes the checkpoint of its last whole step first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file

from sentinel.artifacts import write_jsonl
from sentinel.curriculum import Curriculum, Memory
from sentinel.descent import Drawn, condition_of
from sentinel.records import Json, Task
from sentinel.rollout.episode import Assignment, Played
from sentinel.seeds import derive, generator
from sentinel.solver.advantages import group_advantages
from sentinel.solver.alarms import MEANING, Alarm
from sentinel.solver.batch import Sample
from sentinel.solver.checkpoint import (
    Checkpoints,
    Manifest,
    model_tensors,
    restore_model,
    save_tensors,
)
from sentinel.solver.guards import DevScore, Guards, alarms, dev_score
from sentinel.solver.metrics import TRUNCATED, Group, Skipped, StepMetrics, Update, describe, reward_of
from sentinel.solver.shaping import shaped
from sentinel.solver.update import Backend
from sentinel.spec.trainer import Trainer as Settings

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
        backend: Backend,
        name: str,
        play: Play,
        curriculum: Curriculum,
        dev: Sequence[Task],
        settings: Settings,
        seed: tuple[int, int],
        checkpoints: Checkpoints,
        progress: Progress,
        checkpoint_every: int = 1,
        on_step: Callable[[StepMetrics], None] = lambda metrics: None,
    ) -> None:
        """Prepare to train the backend's model in place.

        Args:
            backend: computes the steps, and holds the policy, which now is the iteration's first.
            name: its hash; after k updates the policy signs as `name+k`.
            play: the rollout pool over the same model.
            curriculum: where the prompts come from; it learns from the outcomes.
            dev: tasks that judge the policy.
            settings: the spec's section.
            seed: the experiment's seed and the iteration.
            checkpoints: where the steps are kept.
            progress: who is told.
            checkpoint_every: steps between checkpoints; the last step, and every new best policy, has one.
            on_step: hears of each step that is done.
        """
        self._backend, self._every, self._on_step = backend, checkpoint_every, on_step
        self.curriculum = curriculum
        self.metrics: list[StepMetrics] = []
        self._name = name
        self._play = play
        self._dev = dev
        self._settings = settings
        self._seed = seed
        self._checkpoints = checkpoints
        self._progress = progress
        self._guards = Guards()
        self._groups = self._updates = 0
        self._dev_start: float | None = None
        self._state: dict[str, Json] = {}
        self._saved = -1
        self._settled = False

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
            self._note()
            self._save()
        self._progress.start(self._settings.steps, done=len(self.metrics))
        try:
            while len(self.metrics) < self._settings.steps and not self._guards.stop:
                self._step(len(self.metrics) + 1)
        except SystemExit:
            self._leave()
            raise
        if self._guards.stop:
            self._progress.say(self._guards.stop)
        restore_model(self._backend.model, load_file(self._checkpoints.folder / _best(self._guards.best_step)))
        return [each.model_copy(update={"result": each.step == self._guards.best_step}) for each in self.metrics]

    def trajectory_files(self) -> list[Path]:
        """One JSONL file per step, in order: every episode played for training."""
        return [self._checkpoints.folder / _trajectories(each.step) for each in self.metrics]

    def drawn_files(self) -> list[Path]:
        """One JSONL file per step, in order: every group that the curriculum chose."""
        return [self._checkpoints.folder / _drawn(each.step) for each in self.metrics]

    def _step(self, step: int) -> None:
        groups = self._collect(step, 0, self._settings.prompts_per_step)
        for draw in range(1, 1 + self._settings.refills):
            if missing := self._settings.prompts_per_step - sum(group.advantages is not None for group in groups):
                groups += self._collect(step, draw, missing)
        trajectories = [played.trajectory for group in groups for played in group.played]
        self._settled = False
        self._checkpoints.attach(_trajectories(step), partial(write_jsonl, records=trajectories))
        update = self._update(groups)
        self._updates += update is not None
        drawn = [self._descent(step, group, update is not None) for group in groups]
        self._checkpoints.attach(_drawn(step), partial(write_jsonl, records=drawn))
        refill = len(groups) - self._settings.prompts_per_step
        self._finish(describe(step, groups, refill, update, self._settings.shaping))

    def _finish(self, metrics: StepMetrics) -> None:
        """What follows the update: the dev evaluation where it is due, alarms, the checkpoint."""
        step = metrics.step
        self._guards.not_finite += metrics.skipped is Skipped.not_finite
        if step % self._settings.dev_every == 0 or step == self._settings.steps:
            score = self._judge(step)
            metrics = metrics.model_copy(update={"dev": score.value, "dev_episodes": len(self._dev) * DEV_TRIALS})
        metrics = metrics.model_copy(update={"collapsed": self.curriculum.collapsed()})
        found = alarms([*self.metrics, metrics], self._settings.alarms, self._guards.best_value)
        self._guards.heed(found)
        metrics = metrics.model_copy(update={"alarms": found, "dev_start": self._dev_start})
        self.metrics.append(metrics)
        self._note()
        if step % self._every == 0 or step in (self._settings.steps, self._guards.best_step) or self._guards.stop:
            self._save()
        self._report(metrics)

    def _collect(self, step: int, draw: int, prompts: int) -> list[Group]:
        """Draw prompts, play their groups, tell the curriculum."""
        chosen = self.curriculum.draw(prompts, generator(*self._purpose(step, draw, "draw")))
        tasks = [prompt.task for prompt in chosen]
        size = self._settings.group_size
        assignments = []
        for number, task in enumerate(tasks):
            for episode in range(size):
                trial = FIRST_TRIAL + (self._groups + number) * size + episode
                assignments.append(Assignment(task, trial, derive(*self._purpose(step, draw, number, episode))))
        self._groups += len(tasks)
        played = self._play(assignments, policy=self._signature())
        groups = []
        for number, prompt in enumerate(chosen):
            episodes = [shaped(each, self._settings.shaping) for each in played[number * size : (number + 1) * size]]
            group = Group(prompt, draw > 0, episodes, self._advantages(episodes))
            self.curriculum.observe(prompt.task, *group.solved)
            groups.append(group)
        return groups

    def _descent(self, step: int, group: Group, updated: bool) -> Drawn:
        """The link between a group's task and the update that it took part in."""
        task, use, estimate = group.prompt
        successes, trials = group.solved
        return Drawn(
            step=step,
            refill=group.refill,
            task=task.id,
            condition=condition_of(task),
            pattern=task.origin.pattern,
            use=use,
            estimate=round(estimate, 4),
            successes=successes,
            trials=trials,
            update=self._updates if updated and group.advantages is not None else None,
        )

    def _advantages(self, episodes: Sequence[Played]) -> list[float | None] | None:
        """Of a group, shaping included; none where only the shaping differs."""
        if len({each.trajectory.reward.total for each in episodes if each.trajectory.reward}) < 2:
            return None
        rewards = [reward_of(each.trajectory) for each in episodes]
        return group_advantages(rewards, scale=self._settings.scale_advantages)

    def _update(self, groups: Sequence[Group]) -> Update | None:
        trained = [
            (played, advantage)
            for group in groups
            for played, advantage in zip(group.played, group.advantages or (), strict=False)
            if advantage is not None and not (self._settings.mask_truncated and played.trajectory.ending in TRUNCATED)
        ]
        samples = [
            Sample(tokens, advantage, episode)
            for episode, (played, advantage) in enumerate(trained)
            for tokens in played.samples
            if tokens.sampled.any()
        ]
        return self._backend.update(samples) if samples else None

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
            self._checkpoints.attach(_best(step), partial(save_tensors, tensors=model_tensors(self._backend.model)))
        return score

    def _signature(self) -> str:
        return f"{self._name}+{self._updates}" if self._updates else self._name

    def _purpose(self, *parts: int | str) -> tuple[int | str, ...]:
        seed, iteration = self._seed
        return (seed, "train", iteration, *parts)

    def _note(self) -> None:
        """Remember the state after a whole step: weights, moments and counters belong together from here on."""
        self._state = {
            "metrics": [each.model_dump(mode="json") for each in self.metrics],
            "curriculum": self.curriculum.memory().model_dump(mode="json"),
            "guards": asdict(self._guards),
            "groups": self._groups,
            "dev_start": self._dev_start,
        }
        self._settled = True

    def _save(self) -> None:
        self._saved = len(self.metrics)
        self._checkpoints.save(self._saved, self._backend.save, self._state)

    def _leave(self) -> None:
        """Told to end: what was learnt since the last checkpoint is kept, unless a step is half done."""
        if self._settled and self._saved < len(self.metrics):
            self._save()
        self._progress.say(f"told to end: the next start continues after step {self._saved}")

    def _resume(self, manifest: Manifest, tensors: Path) -> None:
        state = manifest.state
        self.metrics = [StepMetrics.model_validate(each) for each in state["metrics"]]
        self.curriculum.restore(Memory.model_validate(state["curriculum"]))
        self._guards = Guards(**state["guards"])
        self._groups, self._dev_start = state["groups"], state["dev_start"]
        self._updates = sum(each.skipped is None for each in self.metrics)
        self._backend.load(tensors)
        self._note()
        self._saved = manifest.step
        self._progress.say(f"continuing after step {manifest.step}")

    def _report(self, metrics: StepMetrics) -> None:
        self._on_step(metrics)
        if metrics.skipped is Skipped.no_information:
            self._progress.say(
                f"step {metrics.step}: no group with different rewards among {metrics.groups} "
                f"({sum(metrics.void.values())} of {metrics.episodes} episodes void): nothing learnt, policy unchanged"
            )
        if metrics.skipped is Skipped.not_finite:
            self._progress.say(f"step {metrics.step}: loss or gradient is not finite: skipped, policy unchanged")
        for alarm in metrics.alarms:
            names = f" ({', '.join(metrics.collapsed)})" if alarm is Alarm.collapse else ""
            self._progress.say(f"step {metrics.step}: alarm '{alarm}'{names}: {MEANING[alarm]}")
        shown = ("reward", "informative_share", "loss", "kl", "entropy", "dev")
        figures = {name: value for name in shown if (value := getattr(metrics, name)) is not None}
        self._progress.advance(1, **figures)


def _best(step: int | None) -> str:
    return f"best-{step:04d}.safetensors"


def _trajectories(step: int) -> str:
    return f"trajectories-{step:04d}.jsonl"


def _drawn(step: int) -> str:
    return f"drawn-{step:04d}.jsonl"
