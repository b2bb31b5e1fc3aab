"""No training task may share an entity or a solution with an evaluation set; checked against a manifest.

    held_out = manifest(evaluate + dev, world, entities=True)
    violations(task, held_out, world)        # [] or ["user mei_kovacs_8020", "solution 5f3a…"]

Where ids are natural (tau2's database and worlds like it) a user is a person: the manifest lists every user that a
held-out task mentions, all orders of that user, the e-mail and the name with the zip code. In worlds with atomic ids
every task has a world of its own and the same few ids recur everywhere, so ids identify nothing (`entities: false`);
there, two tasks are the same if they have the same solution. Runs of words are compared with the benchmark's only.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from sentinel.env.overlay import WRITE_TOOLS, Delta, Session, ToolResult, World
from sentinel.env.scoring import gold_delta
from sentinel.errors import LeakageError
from sentinel.records import Json, OriginKind, Record, Task, digest

_WORD = re.compile(r"[#\w@+-]+(?:\.[\w@+-]+)*")

RUN = 10
"""Words of a run that no two writers hit on by accident."""
SHOWN = 5
"""Leaking tasks, and what one shares, that a message shows."""


class Manifest(Record):
    """What the held-out tasks are made of; sorted, so that equal sets give equal bytes."""

    entities: bool
    """Whether ids name people and orders; `False` for atomic worlds, whose lists of ids stay empty."""
    users: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    """E-mails, and `first last zip`, in lower case."""
    items: tuple[str, ...] = ()
    """Items that change hands together, as `handling` writes them; empty for atomic worlds."""
    words: tuple[str, ...] = ()
    """Hashes of the runs of words of benchmark requests; our own grammar repeats itself, so its runs tell nothing."""
    solutions: tuple[str, ...]
    """Solution signatures."""
    tasks: tuple[str, ...]
    """Ids of the held-out tasks."""

    @cached_property
    def look_up(self) -> _Held:
        """The same as sets."""
        return _held(self)


class _Person(NamedTuple):
    user: str
    orders: frozenset[str]
    email: str
    name: frozenset[str]
    """First name, last name and zip code, in lower case."""


def signature(task: Task, world: World, delta: Delta | None = None, opened: Callable[[], Session] | None = None) -> str:
    """Identity of a task's solution: the records it leaves behind, whoever worded the request.

    `delta` is what the gold answer changes, where that is known already; `opened` opens the task's world, where its
    records were validated before.

    The end state holds the whole touched records, so two tasks with equal signatures change the same things in the same
    way. A task that changes nothing is identified by its gold calls, what they read, and what has to be said.
    """
    if delta is None:
        delta = gold_delta(world, task)
    if delta and any(call.name in WRITE_TOOLS for call in task.gold):
        return digest({"delta": delta, "communicate": task.communicate})
    session = opened() if opened else world.open(task.records)
    calls = [[call.name, call.arguments, _content(session.call(call))] for call in task.gold]
    return digest({"calls": calls, "communicate": task.communicate, "request": task.scenario.reason_for_call})


def _content(result: ToolResult) -> Json:
    """What a tool answered, whatever the order of keys: a task that was written and read again has them sorted."""
    return result.value.model_dump(mode="json") if isinstance(result.value, BaseModel) else result.text


def signed(task: Task, world: World) -> Task:
    """The task with its solution signature filled in."""
    return task.model_copy(update={"signature": signature(task, world)})


def _words(*values: Json) -> frozenset[str]:
    """Every word of every string in JSON values, keys among them, in lower case."""
    texts: set[str] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if type(value) is dict:
            texts.update(value)
            value = value.values()
        elif isinstance(value, str):
            texts.add(value)
            continue
        elif not isinstance(value, Sequence):
            continue
        for each in value:
            if type(each) is str:
                texts.add(each)
            else:
                pending.append(each)
    return frozenset(_WORD.findall("\n".join(texts).lower()))


def _mentions(task: Task) -> frozenset[str]:
    """Every word of what the task says, does and brings along, in lower case."""
    return _words(task.scenario.model_dump(mode="json"), [call.arguments for call in task.gold], task.records)


def _person(user: Mapping[str, Json]) -> _Person:
    name = _words(user["name"]["first_name"], user["name"]["last_name"], user["address"]["zip"])
    return _Person(user["user_id"], frozenset(user["orders"]), user["email"].lower(), name)


def _people(world: World, tasks: Iterable[Task]) -> Iterator[_Person]:
    yield from (_person(user.model_dump(mode="json")) for user in world.db.users.values())
    yield from (_person(user) for task in tasks for user in task.records.get("users", {}).values())


def _is_in(person: _Person, words: frozenset[str]) -> bool:
    """Whether a text names the person: by id, e-mail, name with zip code, or one of the orders."""
    names = {person.user.lower(), person.email, *(order.lower() for order in person.orders)}
    return not names.isdisjoint(words) or person.name <= words


def manifest(tasks: Iterable[Task], world: World, *, entities: bool) -> Manifest:
    """The manifest of held-out tasks.

    Args:
        tasks: All evaluation and dev tasks.
        world: The world they are played in.
        entities: Whether its ids name people and orders (`False` for worlds with atomic ids).
    """
    tasks = list(tasks)
    texts = [_mentions(task) for task in tasks] if entities else []
    people = [person for person in _people(world, tasks) if any(_is_in(person, words) for words in texts)]
    return Manifest(
        entities=entities,
        users=_sorted(person.user for person in people),
        orders=_sorted(order for person in people for order in person.orders),
        identities=_sorted(name for person in people for name in (person.email, " ".join(sorted(person.name)))),
        items=_sorted(name for task in tasks for name in handling(task)) if entities else (),
        words=_sorted(run for task in tasks if task.origin.kind is OriginKind.benchmark for run in _runs(task)),
        solutions=_sorted(signature(task, world) for task in tasks),
        tasks=_sorted(task.id for task in tasks),
    )


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def handling(task: Task) -> Iterator[str]:
    """Which items change hands together: every exchange and change of items, and returns of more than one item."""
    for call in task.gold:
        old, new = call.arguments.get("item_ids"), call.arguments.get("new_item_ids")
        if isinstance(old, list) and (new or len(old) > 1):
            yield ">".join(",".join(sorted(map(str, side))) for side in (old, new or ()))


def _runs(task: Task) -> Iterator[str]:
    """Hashes of all runs of `RUN` words in what the scenario tells."""
    told = task.scenario
    for text in (told.reason_for_call, told.instructions):
        words = _WORD.findall(text.lower())
        for start in range(len(words) - RUN + 1):
            yield run_hash(" ".join(words[start : start + RUN]))


@lru_cache(maxsize=65536)
def run_hash(words: str) -> str:
    """A short hash of a run of words: 12 hex digits are enough for a few ten thousand runs."""
    return hashlib.sha256(words.encode()).hexdigest()[:12]


class _Held(NamedTuple):
    """A manifest made for look-ups."""

    users: Mapping[str, str]
    orders: Mapping[str, str]
    identities: Mapping[str, list[tuple[str, frozenset[str]]]]
    """First word (a zip code, mostly) -> names, with their words."""
    items: frozenset[str]
    words: frozenset[str]
    solutions: frozenset[str]


def _held(held_out: Manifest) -> _Held:
    identities: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for name in held_out.identities:
        identities[min(name.split())].append((name, frozenset(name.split())))
    return _Held(
        users={user.lower(): user for user in held_out.users},
        orders={order.lower(): order for order in held_out.orders},
        identities=identities,
        items=frozenset(held_out.items),
        words=frozenset(held_out.words),
        solutions=frozenset(held_out.solutions),
    )


def violations(task: Task, held_out: Manifest, world: World, solution: str = "") -> list[str]:
    """What a training task shares with the held-out ones, each as `kind what`; `solution`: its signature, if known."""
    held = held_out.look_up
    words = _mentions(task) if held_out.entities else frozenset[str]()
    found = [f"task {task.id}"] * (task.id in held_out.tasks)
    found += [f"user {held.users[user]}" for user in sorted(words & held.users.keys())]
    found += [f"order {held.orders[order]}" for order in sorted(words & held.orders.keys())]
    near = (held.identities[first] for first in words & held.identities.keys())
    found += sorted(f"identity {name}" for name, parts in itertools.chain(*near) if parts <= words)
    found += [f"items {name}" for name in handling(task) if name in held.items]
    found += [f"words {run}" for run in sorted(held.words.intersection(_runs(task)))] if held.words else []
    solution = solution or signature(task, world)
    if solution in held.solutions:
        found.append(f"solution {solution}")
    return found


def refuse_leaks(tasks: Sequence[Task], held_out: Manifest, world: World, source: Path) -> None:
    """Raise `LeakageError` if training tasks share something with the held-out ones.

    The message counts what is shared, and shows the first tasks with their lines in `source`, one task a line.
    """
    shared = {line: found for line, task in enumerate(tasks, 1) if (found := violations(task, held_out, world))}
    if not shared:
        return
    kinds = Counter(kind for found in shared.values() for kind in {violation.partition(" ")[0] for violation in found})
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    shown = [f"{source}:{line}: task '{tasks[line - 1].id}': {_some(found)}" for line, found in shared.items()][:SHOWN]
    more = [f"and {len(shared) - SHOWN} more"] if len(shared) > SHOWN else []
    raise LeakageError(
        f"{source}: {len(shared)} of {len(tasks)} tasks share something with the evaluation sets ({counts}); "
        "remove them:\n    " + "\n    ".join(shown + more)
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
