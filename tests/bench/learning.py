"""How many rollouts does a gain of 10 points of Pass^1 take? `retail-cpu.yaml`, and defaults.

    python -m tests.bench.learning --json [--runs FOLDER] [--steps 12]

The base is taken from the runs of a finished demo (`--runs`, by default `runs/`); where it is not there, the real
stages make it in a folder of their own, which takes some minutes. Then one iteration is trained on the base's general
tasks, without diagnosis or targeting, and after every optimizer step the policy plays the held-out tasks, `--trials`
times each, with the same random numbers every time. `rollouts` are the episodes of training, refills included, at which
Pass^1 is 10 points above the base's, interpolated between two steps; evaluations are not counted. `null` means that the
steps did not suffice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from sentinel.artifacts import read_jsonl
from sentinel.curriculum import Curriculum
from sentinel.llm.policy import load_policy
from sentinel.records import Outcome, Task
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.players import Players, open_players
from sentinel.rollout.pool import assign
from sentinel.solver.checkpoint import Checkpoints
from sentinel.solver.trainer import FIRST_TRIAL, Trainer
from sentinel.solver.update import Updater
from sentinel.spec.load import load
from sentinel.spec.models import ExperimentSpec
from sentinel.spec.profile import ProfileSpec

SPEC = Path("experiments/retail-cpu.yaml")
GAIN = 0.10
SEED = "bench.learning"


class Point(NamedTuple):
    """The policy after a step."""

    rollouts: int
    pass_1: float
    void: int


def make_base(spec: Path, project: Path) -> Path:
    """Let the stages make the tasks and the starting policy; returns the base's folder."""
    run = f"runs/bases/{load(spec).experiment.spec.base.name}"
    stage = [sys.executable, "-m", "sentinel.cli", "stage"]
    (project / spec.name).write_text(spec.read_text(encoding="utf-8"), encoding="utf-8")
    (project / "here.yaml").write_text(
        "apiVersion: sentinel.dev/v1alpha1\nkind: Profile\nmetadata: {name: here}\n", encoding="utf-8"
    )
    here = os.environ | {"PYTHONPATH": str(Path.cwd()), "SENTINEL_PROFILE": "here.yaml"}
    for kind, more in (("spec", ["--spec", spec.name, "--iterations", "3"]), ("seed", []), ("warmup", [])):
        subprocess.run([*stage, kind, "--run", run, *more], cwd=project, env=here, check=True, stdout=sys.stderr)
    return project / run


class Watch:
    """Told of every step, it measures the policy as it is then."""

    def __init__(self, measure: Callable[[], Point]) -> None:
        self._measure = measure
        self.points: list[Point] = []

    def start(self, total: int, unit: str = "steps", done: int = 0) -> None:
        """The policy before the first step."""
        self.points.append(self._measure())

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """The policy after a step."""
        self.points.append(self._measure())
        point = self.points[-1]
        self.say(
            f"step {len(self.points) - 1}: {point.rollouts} rollouts, Pass^1 {point.pass_1:.3f}, {point.void} void"
        )

    def say(self, text: str) -> None:
        """To stderr: stdout is for the result."""
        print(text, file=sys.stderr, flush=True)


def curve(spec: ExperimentSpec, base: Path, steps: int, trials: int, state: Path) -> list[Point]:
    """Pass^1 against the episodes of training."""
    policy, tasks = load_policy(base / "policy"), base / "tasks"
    settings = spec.trainer.model_copy(update={"steps": steps})
    held_out = assign(read_jsonl(tasks / "evaluate.jsonl", Task), trials, spec.seed, SEED)
    spent = [0]

    def rollouts(players: Players, assignments: Sequence[Assignment], *, policy: str) -> list[Played]:
        spent[0] += sum(each.trial >= FIRST_TRIAL for each in assignments)
        size = settings.prompts_per_step * settings.group_size
        return players.play(assignments, settings, chunk=size, policy=policy)

    def measure(players: Players) -> Point:
        played = players.play(held_out, spec.evaluator, chunk=spec.evaluator.chunk)
        outcomes = [each.trajectory.outcome for each in played]
        scored = len(outcomes) - outcomes.count(Outcome.void)
        return Point(spent[0], outcomes.count(Outcome.success) / scored, outcomes.count(Outcome.void))

    with open_players(
        spec, policy=base / "policy", tasks=tasks, profile=ProfileSpec(), state=state, live=policy
    ) as players:
        watch = Watch(partial(measure, players))
        Trainer(
            backend=Updater(policy.model, settings),
            name=players.name,
            play=partial(rollouts, players),
            curriculum=Curriculum(read_jsonl(tasks / "general.jsonl", Task), [], spec.curriculum),
            dev=read_jsonl(tasks / "dev.jsonl", Task),
            settings=settings,
            seed=(spec.seed, 1),
            checkpoints=Checkpoints(state, say=watch.say),
            progress=watch,
            checkpoint_every=steps,
        ).train()
    return watch.points


def crossing(points: Sequence[Point], gain: float) -> float | None:
    """Rollouts at which Pass^1 first is `gain` above the first point's, between two points by a straight line."""
    goal = points[0].pass_1 + gain
    for before, after in pairwise(points):
        if after.pass_1 >= goal:
            share = (goal - before.pass_1) / (after.pass_1 - before.pass_1)
            return before.rollouts + share * (after.rollouts - before.rollouts)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--trials", type=int, default=2)
    options = parser.parse_args()
    spec = load(SPEC).experiment.spec
    torch.set_num_threads(ProfileSpec().threads)
    with tempfile.TemporaryDirectory() as name:
        base = options.runs / "bases" / spec.base.name
        if not (base / "policy").is_dir():
            base = make_base(SPEC, Path(name))
        (state := Path(name) / "state").mkdir()
        points = curve(spec, base, options.steps, options.trials, state)
    found = crossing(points, GAIN)
    result = {
        "rollouts": None if found is None else round(found),
        "base": points[0].pass_1,
        "curve": [point._asdict() for point in points],
    }
    words = "not within these steps" if found is None else f"after {found:,.0f} rollouts"
    print(
        json.dumps(result)
        if options.json
        else f"{100 * GAIN:.0f} points more Pass^1 than {points[0].pass_1:.3f} {words}"
    )


if __name__ == "__main__":
    main()
