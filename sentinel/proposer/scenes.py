"""Which scenes an experiment's tasks may play in: where a kind of world is turned into a source of tasks."""

from __future__ import annotations

from sentinel.env.overlay import World
from sentinel.env.tau2 import benchmark_users
from sentinel.proposer.trajectory import Scenes, shared_scenes, synthetic_scenes
from sentinel.spec.models import Environment


def open_scenes(environment: Environment, world: World) -> Scenes:
    """A fresh synthetic world per task, or users of tau2's database that no benchmark task uses."""
    if environment.world.type == "tau2":
        return shared_scenes(world, benchmark_users())
    return synthetic_scenes(world, environment.world)


def ids_name_people(environment: Environment) -> bool:
    """Whether an id means the same person everywhere; in atomic worlds the same few ids recur in every task."""
    return environment.world.type == "tau2" or environment.world.ids == "natural"
