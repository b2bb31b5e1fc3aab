"""The seed stage: the base's settings -> its world, held-out sets with their manifest, and first training tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sentinel.artifacts import canonical, read_jsonl, write_json, write_jsonl, write_text
from sentinel.env.overlay import World
from sentinel.env.tau2 import benchmark_tasks
from sentinel.errors import ArtifactError
from sentinel.proposer.gates import Bench, gold_replay, schema
from sentinel.proposer.leakage import Manifest, manifest, refuse_leaks
from sentinel.proposer.makers import ids_name_people, open_maker
from sentinel.proposer.seed import draw
from sentinel.records import Task
from sentinel.stages.context import Context

EMPTY = Manifest(entities=False, solutions=(), tasks=())


def run(context: Context) -> None:
    """Make the tasks of a base."""
    tasks = _Seeding(context)
    held_out = tasks.held_out()
    dev = tasks.draw("dev", context.spec.seed_tasks.dev, held_out)
    held_out = manifest(dev + tasks.evaluate, tasks.world, entities=ids_name_people(context.spec.environment))
    extra = tasks.extra(held_out)
    general = tasks.draw("general", context.spec.seed_tasks.general, held_out)
    tasks.refuse_taken_ids(extra, general)
    general += extra
    demonstrations = tasks.draw("demonstrations", context.spec.seed_tasks.demonstrations, held_out)
    _write_world(context, tasks.world)
    write_json(context.output / "manifest.json", held_out)
    for name, tasks_ in {
        "evaluate": tasks.evaluate,
        "dev": dev,
        "general": general,
        "demonstrations": demonstrations,
    }.items():
        write_jsonl(context.output / f"{name}.jsonl", tasks_)
    context.progress.say(f"{len(tasks.evaluate)} held-out, {len(dev)} dev, {len(general)} general tasks; no overlap")


class _Seeding:
    """The world, its generator, and what was drawn so far."""

    def __init__(self, context: Context) -> None:
        self._context = context
        environment = context.spec.environment
        self.world = World.tau2() if environment.world.type == "tau2" else World.from_data({})
        self._maker = open_maker(environment, self.world)
        self._archive: set[str] = set()
        self.evaluate: list[Task] = []

    def held_out(self) -> Manifest:
        """Fill the evaluation set; returns its manifest."""
        which = self._context.spec.seed_tasks.evaluate
        if which.set == "synthetic":
            self.evaluate = self.draw("evaluate", which.tasks or 0, EMPTY)
        else:
            self.evaluate = benchmark_tasks(which.set)
        entities = ids_name_people(self._context.spec.environment)
        return manifest(self.evaluate, self.world, entities=entities)

    def draw(self, name: str, count: int, held_out: Manifest) -> list[Task]:
        """`count` tasks, unlike all drawn before and disjoint from the held-out ones."""
        progress = self._context.progress
        progress.start(count, f"{name} tasks")
        bench = Bench(self.world, held_out, self._archive, self._maker.talking)
        return list(draw(name, count, self._maker, bench, self._context.spec.base.seed, lambda: progress.advance()))

    def extra(self, held_out: Manifest) -> list[Task]:
        """The user's own training tasks, refused if they cannot be played or overlap the held-out ones."""
        if "extra" not in self._context.inputs:
            return []
        path = self._context.inputs["extra"]
        tasks = read_jsonl(path, Task)
        bench = Bench(self.world, held_out)
        for line, task in enumerate(tasks, 1):
            if rejection := schema(task, bench) or gold_replay(task, bench):
                raise ArtifactError(path, f"task '{task.id}': {rejection.reason}: {rejection.detail}", line=line)
            if not task.scenario.intents and self._context.spec.environment.user.type == "scripted":
                raise ArtifactError(path, f"task '{task.id}': a scripted user needs `scenario.intents`", line=line)
        self.refuse_taken_ids(tasks)
        refuse_leaks(tasks, held_out, self.world, path)
        return tasks

    def refuse_taken_ids(self, own: Sequence[Task], others: Sequence[Task] = ()) -> None:
        """Every task needs an id of its own, in the user's file and beside the generated ones."""
        taken = {task.id: "a generated task has it" for task in others}
        for line, task in enumerate(own, 1):
            if task.id in taken:
                problem = f"task '{task.id}': the id is taken: {taken[task.id]}; give it another"
                raise ArtifactError(self._context.inputs["extra"], problem, line=line)
            taken[task.id] = f"line {line} has it"


def _write_world(context: Context, world: World) -> None:
    """The base world as data; tau2's stays in its package and is only named."""
    path: Path = context.output / "world.json"
    if context.spec.environment.world.type == "tau2":
        write_json(path, {"domain": context.spec.environment.domain, "world": "tau2", "hash": world.hash})
    else:
        write_text(path, canonical(world.db.model_dump(mode="json"), indent=1) + "\n")
