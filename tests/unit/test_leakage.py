"""Planted leaks are all found; people the held-out tasks never mention are free."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from sentinel.env.overlay import World
from sentinel.env.tau2 import benchmark_tasks, benchmark_users
from sentinel.errors import LeakageError
from sentinel.proposer.conditions import conditions
from sentinel.proposer.leakage import (
    _WORD,
    Manifest,
    _words,
    manifest,
    refuse_leaks,
    signature,
    signed,
    violations,
)
from sentinel.proposer.trajectory import Scenes, generate, shared_scenes, synthetic_scenes
from sentinel.records import Origin, OriginKind, Task, ToolCall
from sentinel.seeds import generator
from sentinel.spec.models import SyntheticWorld
from tests.unit.builders import benchmark_orders

GENERAL = Origin(kind=OriginKind.general)


@cache
def held_out() -> Manifest:
    return manifest(benchmark_tasks("tau2-base"), World.tau2(), entities=True)


@cache
def empty_world() -> World:
    return World.from_data({})


def scenes(ids: str) -> Scenes:
    match ids:
        case "tau2":
            return shared_scenes(World.tau2(), benchmark_users())
        case "natural":
            return synthetic_scenes(empty_world(), SyntheticWorld(type="synthetic", ids="natural"))
        case _:
            return synthetic_scenes(empty_world(), SyntheticWorld(type="synthetic", ids="atomic"))


@cache
def drawn(ids: str, count: int = 2) -> tuple[Task, ...]:
    """Tasks of every condition."""
    return tuple(
        task
        for condition in conditions()
        for n in range(count)
        if (task := _draw(condition.condition, ids, n)) is not None
    )


def _draw(name: str, ids: str, number: int) -> Task | None:
    condition = next(condition for condition in conditions() if condition.condition == name)
    rng = generator("leakage", name, number)
    return generate(condition, scenes(ids), rng, task_id=f"{name}-{number}", origin=GENERAL)


def test_manifest_of_the_benchmark_lists_all_its_people() -> None:
    """Found from the wording alone here, and from the data files in `sentinel.env.tau2`: both must agree."""
    assert set(held_out().users) == benchmark_users()
    assert set(held_out().orders) == benchmark_orders()
    assert "mei.kovacs8232@example.com" in held_out().identities


def test_manifest_does_not_depend_on_the_order_of_tasks() -> None:
    tasks = benchmark_tasks("tau2-test")
    backwards = manifest(reversed(tasks), World.tau2(), entities=True)
    assert backwards == manifest(tasks, World.tau2(), entities=True)


def test_unused_people_are_no_leak() -> None:
    tasks = drawn("tau2")
    assert len(tasks) > 40
    found = [leak for task in tasks for leak in violations(task, held_out(), World.tau2())]
    assert {leak.split()[0] for leak in found} <= {"items"}
    assert len(found) < len(tasks) / 10


@pytest.mark.parametrize("task", benchmark_tasks("tau2-base"), ids=lambda task: task.id)
def test_benchmark_tasks_under_another_id_are_leaks(task: Task) -> None:
    renamed = task.model_copy(update={"id": "01-explore-000"})
    assert any(found.startswith("solution ") for found in violations(renamed, held_out(), World.tau2()))


def test_the_first_half_of_the_benchmark_leaks_into_the_second() -> None:
    """22 users stand in both official splits (facts/tau2.md §2)."""
    test = manifest(benchmark_tasks("tau2-test"), World.tau2(), entities=True)
    leaks = [found for task in benchmark_tasks("tau2-train") for found in violations(task, test, World.tau2())]
    assert len({found for found in leaks if found.startswith("user ")}) >= 15
    assert any(found.startswith("solution ") for found in leaks)


def _say(task: Task, **words: str) -> Task:
    return task.model_copy(update={"scenario": task.scenario.model_copy(update=words)})


def _do(task: Task, name: str, **arguments: str) -> Task:
    return task.model_copy(update={"gold": (ToolCall(name=name, arguments=arguments), *task.gold)})


PLANTED: dict[str, tuple[str, Callable[[Task], Task]]] = {
    "task id": ("task 6", lambda t: t.model_copy(update={"id": "6"})),
    "user in the request": ("user mei_kovacs_8020", lambda t: _say(t, reason_for_call="Ask for mei_kovacs_8020.")),
    "user in capitals": ("user mei_kovacs_8020", lambda t: _say(t, known_info="MEI_KOVACS_8020")),
    "user in the identity": ("user mei_kovacs_8020", lambda t: _say(t, identity="I'm (mei_kovacs_8020)")),
    "user after a line break": ("user mei_kovacs_8020", lambda t: _say(t, known_info="You are\nmei_kovacs_8020\n")),
    "user in the gold answer": (
        "user mei_kovacs_8020",
        lambda t: _do(t, "get_user_details", user_id="mei_kovacs_8020"),
    ),
    "order in the request": ("order #W6390527", lambda t: _say(t, reason_for_call="Where is #W6390527?")),
    "order at the end": ("order #W6390527", lambda t: _say(t, unknown_info="not #W6390527.")),
    "order in the gold answer": ("order #W6390527", lambda t: _do(t, "get_order_details", order_id="#W6390527")),
    "order never asked for": ("order #W8065207", lambda t: _do(t, "get_order_details", order_id="#W8065207")),
    "e-mail in words": (
        "identity mei.kovacs8232@example.com",
        lambda t: _say(t, known_info="You write from mei.kovacs8232@example.com."),
    ),
    "e-mail in the gold answer": (
        "identity mei.kovacs8232@example.com",
        lambda t: _do(t, "find_user_id_by_email", email="Mei.Kovacs8232@example.com"),
    ),
    "name and zip in words": (
        "identity 28236 kovacs mei",
        lambda t: _say(t, known_info="You are Mei Kovacs and live in 28236."),
    ),
    "name and zip in the gold answer": (
        "identity 28236 kovacs mei",
        lambda t: _do(t, "find_user_id_by_name_zip", first_name="Mei", last_name="Kovacs", zip="28236"),
    ),
    "record of a user": (
        "user mei_kovacs_8020",
        lambda t: t.model_copy(update={"records": {"users": {"mei_kovacs_8020": _user("mei_kovacs_8020")}}}),
    ),
    "record of an order under a new id": (
        "user mei_kovacs_8020",
        lambda t: t.model_copy(update={"records": {"orders": {"#W1": _order("#W6390527")}}}),
    ),
}


def _user(user: str) -> object:
    return World.tau2().db.users[user].model_dump(mode="json")


def _order(order: str) -> object:
    return World.tau2().db.orders[order].model_dump(mode="json") | {"order_id": "#W1"}


@pytest.mark.parametrize("where", PLANTED)
def test_planted_leaks_are_found(where: str) -> None:
    leak, plant = PLANTED[where]
    task = drawn("tau2")[0]
    assert leak in violations(plant(task), held_out(), World.tau2())


@pytest.mark.parametrize(
    "harmless",
    [
        "You are Mei and know nobody called Kovacs.",
        "Zip code 28236.",
        "Order #W63905271 or #W639052.",
        "You are mei_kovacs_80201.",
        "Write to amei.kovacs8232@example.com.",
    ],
)
def test_near_misses_are_no_leaks(harmless: str) -> None:
    assert violations(_say(drawn("tau2")[0], known_info=harmless), held_out(), World.tau2()) == []


def test_natural_synthetic_worlds_are_checked_by_their_people() -> None:
    first, second = drawn("natural")[:2]
    own = manifest([first], empty_world(), entities=True)
    assert violations(second, own, empty_world()) == []
    same_world = second.model_copy(update={"records": first.records, "gold": second.gold[:0]})
    assert {found.split()[0] for found in violations(same_world, own, empty_world())} == {"user", "order", "identity"}


def test_atomic_worlds_are_checked_by_solutions_alone() -> None:
    """The same sixty order ids recur in every world there: sharing one is no leak, the same solution is."""
    evaluation, training = drawn("atomic")[::2], drawn("atomic")[1::2]
    own = manifest(evaluation, empty_world(), entities=False)
    assert (own.users, own.orders, own.identities) == ((), (), ())
    assert [violations(task, own, empty_world()) for task in training] == [[]] * len(training)
    for task in evaluation:
        renamed = _say(task, known_info="in other words").model_copy(update={"id": "new"})
        assert [found.split()[0] for found in violations(renamed, own, empty_world())] == ["solution"]


@pytest.mark.parametrize("ids", ["atomic", "natural", "tau2"])
def test_signatures_tell_solutions_apart(ids: str) -> None:
    world = World.tau2() if ids == "tau2" else empty_world()
    tasks = drawn(ids)
    assert len({signature(task, world) for task in tasks}) >= 0.95 * len(tasks)
    assert all(signed(task, world).signature == signature(task, world) for task in tasks)


def test_refusing_leaks_counts_them_and_shows_the_first_with_their_lines() -> None:
    clean, *_ = drawn("tau2")
    leaky = _say(clean, known_info="mei_kovacs_8020").model_copy(update={"id": "own-7"})
    source = Path("own.jsonl")
    refuse_leaks([clean], held_out(), World.tau2(), source)
    with pytest.raises(LeakageError) as caught:
        refuse_leaks([clean, *[leaky] * 7], held_out(), World.tau2(), source)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("own.jsonl: 7 of 8 tasks share something with the evaluation sets (user 7); remove them")
    assert lines[0] == "    own.jsonl:2: task 'own-7': user mei_kovacs_8020"
    assert (len(lines), lines[-1]) == (6, "    and 2 more")


@pytest.mark.parametrize(
    "text",
    ["plain words", "after\na line", 'a "quoted" name', "back\\slash", "Zürich ünd 東京", "a.b@c.example, #W12!"],
)
def test_records_are_read_word_by_word_whatever_their_strings_hold(text: str) -> None:
    records = {"users": {"ada_1": {"name": {"first": text}, "orders": ["#W1", text], "n": 12.5}}, "orders": {text: {}}}
    keys = {"users", "ada_1", "name", "first", "orders", "n"}
    assert _words(records) == {*keys, "#w1", *_WORD.findall(text.lower())}
