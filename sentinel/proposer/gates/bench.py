"""What candidates are held against, and what the gates learn about one candidate once and share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from sentinel.env.overlay import WRITE_TOOLS, Database, Delta, Session, Shelves, ToolResult, World
from sentinel.env.retail import User
from sentinel.proposer.leakage import Manifest, signature
from sentinel.proposer.reasons import Rejection
from sentinel.records import Task, ToolCall


class Replay(NamedTuple):
    """What came of executing the gold answer."""

    results: list[ToolResult]
    error: str
    """Name and words of the first call that failed."""
    delta: Delta


class Case:
    """A candidate in its world; everything is computed once, when it is first asked for."""

    def __init__(self, task: Task, world: World) -> None:
        self.task, self._world = task, world

    @cached_property
    def _own(self) -> Shelves:
        return self._world.models(self.task.records)

    def open(self) -> Session:
        """A fresh private world."""
        return self._world.lay(self._own)

    @cached_property
    def db(self) -> Database:
        """The world as it is at first; to be read only."""
        return self.open().db

    def replay(self) -> Replay:
        """Execute the gold answer once more."""
        session = self.open()
        results = [session.call(call) for call in self.task.gold]
        named = zip(self.task.gold, results, strict=True)
        error = next((f"{call.name}: {result.text}" for call, result in named if result.error), "")
        return Replay(results, error, session.delta())

    @cached_property
    def gold(self) -> Replay:
        """What came of executing the gold answer."""
        return self.replay()

    def delta(self, calls: Sequence[ToolCall]) -> Delta | None:
        """What the writes among these calls change; `None` where one is refused."""
        session = self.open()
        for call in calls:
            if call.name in WRITE_TOOLS and session.call(call).error:
                return None
        return session.delta()

    @cached_property
    def writes(self) -> tuple[ToolCall, ...]:
        """The gold writes."""
        return tuple(call for call in self.task.gold if call.name in WRITE_TOOLS)

    @cached_property
    def customer(self) -> User | None:
        """The user whom the gold answer authenticates, or else whose records it names."""
        users = self.db.users
        for call, result in zip(self.task.gold, self.gold.results, strict=True):
            if call.name.startswith("find_user_id") and not result.error:
                return users[str(result.value)]
        for call in self.task.gold:
            if (order := call.arguments.get("order_id")) in self.db.orders:
                return users[self.db.orders[str(order)].user_id]
        return None

    @cached_property
    def said(self) -> tuple[str, ...]:
        """All that is told of the user and that it says, in lower case."""
        scenario = self.task.scenario
        spoken = [
            text
            for intent in scenario.intents
            for text in (intent.request, *intent.facts.values(), intent.correction, intent.if_refused)
        ]
        parts = (scenario.reason_for_call, scenario.known_info, scenario.instructions, scenario.identity, *spoken)
        return tuple(text.lower() for text in parts if text)

    @cached_property
    def text(self) -> str:
        """The same in one."""
        return "\n".join(self.said)

    @cached_property
    def observed(self) -> str:
        """All that the tools answer to the gold answer."""
        return "\n".join(result.text for result in self.gold.results)

    @cached_property
    def signature(self) -> str:
        """Identity of the solution."""
        return signature(self.task, self._world, self.gold.delta, self.open)


@dataclass
class Bench:
    """What candidates are held against."""

    world: World
    held_out: Manifest
    archive: set[str] = field(default_factory=set)
    """Solution signatures of all earlier tasks; grows with every accepted candidate."""
    talking: bool = False
    """Whether candidates are in our language, so that the reference agent must solve them by talking."""
    _last: Case | None = None

    def case(self, task: Task) -> Case:
        """The candidate in this world; the last one is remembered, so that gates share what they learn."""
        if self._last is None or self._last.task is not task:
            self._last = Case(task, self.world)
        return self._last

    @cached_property
    def directory(self) -> dict[tuple[str, ...], frozenset[str]]:
        """Who in the shared world answers to an e-mail, or to a name and zip code; all in lower case."""
        found: dict[tuple[str, ...], set[str]] = {}
        for key, user in self.world.db.users.items():
            name = (user.name.first_name, user.name.last_name, user.address.zip)
            for known in ((user.email.lower(),), tuple(part.lower() for part in name)):
                found.setdefault(known, set()).add(key)
        return {known: frozenset(keys) for known, keys in found.items()}


Check = Callable[[Task, Bench], Rejection | None]
