"""The seed stage: disjoint sets from one distribution, their manifest, and refusals that leave nothing behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sentinel.artifacts import read_json, read_jsonl, write_jsonl
from sentinel.env.overlay import World
from sentinel.errors import ArtifactError, LeakageError, SentinelError, StageError
from sentinel.proposer.conditions import conditions
from sentinel.proposer.leakage import Manifest, refuse_leaks, signature
from sentinel.proposer.seed import natural_mix
from sentinel.records import Scenario, Task
from sentinel.rollout.arena import open_world
from sentinel.spec.models import Experiment
from sentinel.stages import seed
from tests.unit.builders import contents, made, small, stage_context

SIZES = {"evaluate": 29, "dev": 8, "general": 58, "demonstrations": 87}
NATURAL: dict[str, object] = {"world": {"type": "synthetic", "ids": "natural"}, "observation": "json"}


def seeded(experiment: Experiment, project: Path) -> Path:
    context = stage_context(experiment, "seed", project)
    seed.run(context)
    return context.output


def sets(folder: Path) -> dict[str, list[Task]]:
    return {name: read_jsonl(folder / f"{name}.jsonl", Task) for name in SIZES}


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded(small(root), tmp_path_factory.mktemp("seed"))


def test_every_set_has_its_size_and_the_natural_mix(folder: Path) -> None:
    for name, tasks in sets(folder).items():
        assert [task.id for task in tasks] == [f"{name}-{n:04d}" for n in range(SIZES[name])]
        mix = Counter(condition.condition for condition in natural_mix(SIZES[name], conditions()))
        assert Counter(task.knobs["condition"] for task in tasks) == mix


def test_no_two_tasks_have_the_same_solution(folder: Path) -> None:
    """And a task that was written and read again is still known by its signature."""
    world = World.from_data({})
    everything = [task for tasks in sets(folder).values() for task in tasks]
    assert all(task.signature == signature(task, world) for task in everything)
    assert len({task.signature for task in everything}) == len(everything)


def test_the_manifest_is_of_the_held_out_sets(folder: Path) -> None:
    held_out, tasks = read_json(folder / "manifest.json", Manifest), sets(folder)
    assert set(held_out.tasks) == {task.id for name in ("evaluate", "dev") for task in tasks[name]}
    assert set(held_out.solutions) == {task.signature for name in ("evaluate", "dev") for task in tasks[name]}
    assert not held_out.entities
    refuse_leaks(tasks["general"] + tasks["demonstrations"], held_out, World.from_data({}), folder)


def test_the_world_can_be_opened_by_the_stages_that_follow(folder: Path, root: Path) -> None:
    world = open_world(small(root).spec.environment, folder)
    assert {task.world for tasks in sets(folder).values() for task in tasks} == {world.hash}


def test_equal_seeds_give_equal_bytes_and_sets_do_not_depend_on_later_ones(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    again = contents(seeded(small(root), tmp_path / "again"))
    assert again == contents(folder)
    fewer = contents(seeded(small(root, seed_tasks={"demonstrations": 29}), tmp_path / "fewer"))
    assert {name for name in again if again[name] != fewer[name]} == {"demonstrations.jsonl"}
    other = contents(seeded(small(root, base={"seed": 4}), tmp_path / "other"))
    assert other["evaluate.jsonl"] != again["evaluate.jsonl"]


def test_people_of_natural_worlds_stay_on_one_side(root: Path, tmp_path: Path) -> None:
    where = seeded(small(root, environment=NATURAL), tmp_path)
    held_out, tasks = read_json(where / "manifest.json", Manifest), sets(where)
    assert held_out.entities
    seen = {user for name in ("evaluate", "dev") for task in tasks[name] for user in task.records["users"]}
    assert seen == set(held_out.users)
    for task in tasks["general"] + tasks["demonstrations"]:
        assert seen.isdisjoint(task.records["users"])
        assert set(held_out.orders).isdisjoint(task.records["orders"])


def test_tau2s_world_is_named_and_not_copied(root: Path, tmp_path: Path) -> None:
    environment: dict[str, object] = {"world": {"type": "tau2"}, "observation": "json"}
    sizes: dict[str, object] = {"evaluate": {"set": "tau2-test"}, "general": 29, "demonstrations": 29}
    where = seeded(small(root, environment=environment, seed_tasks=sizes), tmp_path)
    assert (where / "world.json").stat().st_size < 200
    assert World.tau2().hash in (where / "world.json").read_text(encoding="utf-8")
    assert len(read_jsonl(where / "evaluate.jsonl", Task)) == 40
    held_out = read_json(where / "manifest.json", Manifest)
    general = where / "general.jsonl"
    refuse_leaks(read_jsonl(general, Task), held_out, World.tau2(), general)


def extra(root: Path, project: Path, tasks: list[Task], **environment: object) -> Experiment:
    write_jsonl(project / "own.jsonl", tasks)
    return small(root, seed_tasks={"extra": "own.jsonl"}, environment=environment)


def refused(experiment: Experiment, project: Path, error: type[SentinelError], words: str) -> None:
    with pytest.raises(error, match=words):
        seeded(experiment, project)
    assert contents(stage_context(experiment, "seed", project).output) == {}


def test_own_tasks_join_the_general_ones(root: Path, tmp_path: Path) -> None:
    own = [made("cancel/plain"), made("two/return_cancel")]
    general = read_jsonl(seeded(extra(root, tmp_path, own), tmp_path) / "general.jsonl", Task)
    assert (len(general), general[-2:]) == (SIZES["general"] + 2, own)


def test_own_tasks_that_leak_are_refused_and_nothing_is_written(folder: Path, root: Path, tmp_path: Path) -> None:
    evaluate = {str(task.knobs["condition"]): task for task in sets(folder)["evaluate"]}
    write, refusal = evaluate["return/named"], evaluate["refuse/items_status"]
    renamed = [task.model_copy(update={"id": f"mine-{n}"}) for n, task in enumerate((write, refusal))]
    experiment = extra(root, tmp_path, [made("cancel/plain"), *renamed])
    first, second = (rf"task '{task.id}': solution {task.signature}" for task in renamed)
    refused(experiment, tmp_path, LeakageError, rf"own\.jsonl:2: {first}\s+\S+own\.jsonl:3: {second}")


def test_every_own_task_has_an_id_of_its_own(folder: Path, root: Path, tmp_path: Path) -> None:
    fresh, general = made("cancel/plain"), sets(folder)["general"][0]
    refused(
        extra(root, tmp_path, [fresh, fresh]), tmp_path, ArtifactError, rf"own\.jsonl:2: task '{fresh.id}': .*line 1"
    )
    taken = fresh.model_copy(update={"id": general.id})
    refused(extra(root, tmp_path, [taken]), tmp_path, ArtifactError, rf"own\.jsonl:1: task '{general.id}': .*generated")


def test_own_tasks_about_a_held_out_person_are_refused(root: Path, tmp_path: Path) -> None:
    where = seeded(small(root, environment=NATURAL), tmp_path / "first")
    victim = sets(where)["dev"][0]
    words = f"Call me back about {next(iter(victim.records['orders']))}."
    intents = made("transfer/plain", ids="natural").scenario.intents
    gossip = made("transfer/plain", ids="natural").model_copy(
        update={"scenario": Scenario(reason_for_call=words, intents=intents)}
    )
    refused(extra(root, tmp_path, [gossip], **NATURAL), tmp_path, LeakageError, "order #W")


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"world": "0" * 16}, "wrong_world"),
        ({"gold": made("address/plain").gold}, "gold_error"),
        ({"scenario": Scenario(reason_for_call="Cancel it.")}, "needs `scenario.intents`"),
    ],
)
def test_own_tasks_that_cannot_be_played_are_named_by_line(
    flaw: dict[str, object], words: str, root: Path, tmp_path: Path
) -> None:
    flawed = made("cancel/plain").model_copy(update=flaw)
    experiment = extra(root, tmp_path, [made("return/named"), flawed])
    refused(experiment, tmp_path, ArtifactError, rf"own.jsonl:2: task 'cancel/plain-0': .*{words}")


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ({"orders": 1}, r"no acceptable task of condition 'two/\w+' in 20 draws: the world is too small"),
        ({"products": 17}, "17 products are wanted, and there are only 16"),
        ({"orders": 61}, "61 order ids are wanted, and there are only 60"),
    ],
)
def test_an_impossible_world_is_explained(world: dict[str, int], words: str, root: Path, tmp_path: Path) -> None:
    impossible = {"world": {"type": "synthetic", "ids": "atomic", **world}}
    refused(small(root, environment=impossible), tmp_path, StageError, words)
