"""Worlds, tasks, arenas and stage contexts shared by the tests of environment, rollouts and stages; real parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from sentinel.env.overlay import World
from sentinel.env.render import Observation
from sentinel.env.synthetic import atoms
from sentinel.env.tau2 import benchmark_users
from sentinel.env.vocabulary import vocabulary
from sentinel.llm.engine import Limits
from sentinel.llm.policy import new_policy, save_policy
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.templates import END, Hermes
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.plan import plan
from sentinel.proposer.conditions import Condition, conditions
from sentinel.proposer.seed import natural_mix
from sentinel.proposer.trajectory import Scenes, generate, shared_scenes, synthetic_scenes
from sentinel.records import Origin, OriginKind, Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Action, Demonstration
from sentinel.rollout.episode import Assignment, Played
from sentinel.seeds import generator
from sentinel.solver.demonstrations import Codebook
from sentinel.spec.load import load
from sentinel.spec.models import Experiment, SyntheticWorld
from sentinel.spec.profile import ProfileSpec
from sentinel.stages import seed
from sentinel.stages.context import Context, visible
from sentinel.stages.progress import Progress

GENERAL = Origin(kind=OriginKind.general)
CONDITIONS = {condition.condition: condition for condition in conditions()}
ROOMY = 100_000
"""A context, in tokens, that no episode fills."""


@cache
def world(ids: str = "atomic") -> World:
    """The base world: tau2's, or the empty one over which every synthetic task lays its own records."""
    return World.tau2() if ids == "tau2" else World.from_data({})


@cache
def scenes(ids: str = "atomic") -> Scenes:
    """Where generated tasks play; `ids` is atomic, natural or tau2."""
    if ids == "tau2":
        return shared_scenes(world("tau2"), benchmark_users())
    return synthetic_scenes(world(), SyntheticWorld.model_validate({"type": "synthetic", "ids": ids}))


@cache
def made(condition: str, number: int = 0, ids: str = "atomic") -> Task:
    """A generated task of this condition."""
    rng = generator("builders", ids, condition, number)
    task = generate(CONDITIONS[condition], scenes(ids), rng, task_id=f"{condition}-{number}", origin=GENERAL)
    assert task is not None, f"no task of {condition}"
    return task


def benchmark_orders() -> frozenset[str]:
    """All orders of the users that benchmark tasks name."""
    users = World.tau2().db.users
    return frozenset(order for user in benchmark_users() for order in users[user].orders)


def mixed(count: int, number: int = 0) -> list[Task]:
    """Tasks in an atomic world, in the proportions of the natural mix."""
    mix: list[Condition] = natural_mix(count, conditions())
    return [made(condition.condition, number + n) for n, condition in enumerate(mix)]


def arena(ids: str = "atomic", *, max_turns: int = 20, max_context: int = ROOMY) -> Arena:
    """An arena in which every text is one token: for what an episode does, whatever its tokens are."""
    observation: Observation = "compact" if ids == "atomic" else "json"
    return Arena(world(ids), Hermes(), Codebook(), observation, max_turns, max_context)


def spelled(*, max_turns: int = 20, max_context: int = 2048) -> Arena:
    """An arena of an atomic world with a real tokenizer of atoms and characters."""
    tokenizer = train_tokenizer([""], atoms(), max_context=max_context)
    return Arena(world(), Hermes(), tokenizer, "compact", max_turns, max_context)


def acted(task: Task, actions: Sequence[Action], where: Arena) -> Played:
    """The episode in which the agent does just this."""
    episode = Demonstration(Assignment(task, 0, 0), where, actions)
    ScriptedEngine().run([episode], Limits(1.0, ROOMY, where.max_context))
    return episode.played("reference", 0, 0)


def small(root: Path, **sections: Mapping[str, object]) -> Experiment:
    """The smallest experiment (`tests/e2e/small.yaml`), with keys of its sections replaced."""
    values = load(root / "tests/e2e/small.yaml").resolved()
    for name, changes in sections.items():
        values["spec"][name] |= dict(changes)
    return Experiment.model_validate_json(json.dumps(values))


def stage_context(experiment: Experiment, kind: str, project: Path, iteration: int = 0) -> Context:
    """What the plan gives this stage, in the folders of a project; sees only the sections that it may read."""
    stage = next(s for s in plan(experiment).stages if (s.kind, s.iteration) == (kind, iteration))
    output, state = project / stage.output, project / "state" / stage.name
    for folder in (output, state):
        folder.mkdir(parents=True, exist_ok=True)
    inputs = {label: project / path for label, path in stage.inputs.items()}
    spec = visible(experiment.spec, stage.sections)
    progress = Progress(stage.name)
    return Context(stage.name, kind, iteration, spec, inputs, output, state, ProfileSpec(threads=1), progress)


def untrained_base(root: Path, project: Path) -> Path:
    """The seed stage's tasks and a policy of the small experiment's shape that learned nothing; returns `project`."""
    experiment = small(root)
    seeding = stage_context(experiment, "seed", project)
    seed.run(seeding)
    settings = experiment.spec.policy
    assert settings.type == "tiny"
    tokenizer = train_tokenizer([phrase + END for phrase in vocabulary()["agent"].values()], atoms(), max_context=128)
    save_policy(seeding.output.parent / "policy", new_policy(settings, tokenizer, seed=0))
    return project


def copy_base(project: Path, other: Path) -> Path:
    """A project with the tasks and the policy of another one, and nothing that was played with them."""
    for folder in ("tasks", "policy"):
        shutil.copytree(project / "runs/bases/small" / folder, other / "runs/bases/small" / folder)
    return other


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
