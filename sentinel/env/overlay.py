"""Private worlds for thousands of episodes: tau2's own tools over a copy-on-write view of one shared database.

    world = World.tau2()
    session = world.open(task.records)
    result = session.call(ToolCall(name="get_order_details", arguments={"order_id": "#W2890441"}))
    session.delta()        # {"orders": {"#W2890441": {...}}}, or {} after reads only

tau2 builds, copies and hashes the whole database for every episode and twice more for its score (0.3 to 0.6 CPU s).
Here the tools run on a database-shaped view: a task's own records lie over the shared base, a write copies the records
it touches, and the records that differ from the start are the whole result. The tool code, its quirks and its error
texts are tau2's. One exception: `calculate` refuses powers, because `9**9**9` would hang a run.
"""

from __future__ import annotations

import gc
import json
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from contextlib import suppress
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from sentinel.artifacts import canonical
from sentinel.env.retail import (
    RETAIL_DATA_DIR,
    TOOL_TYPE_ATTR,
    Environment,
    Order,
    Product,
    RetailDB,
    RetailTools,
    ToolType,
    User,
)
from sentinel.records import Json, ToolCall, digest

R = TypeVar("R", bound=BaseModel)
Records = Mapping[str, Mapping[str, Json]]
"""Records of a task as JSON: `{"users": {id: record}, "orders": {...}, "products": {...}}`, every kind optional."""
Delta = dict[str, dict[str, Json]]
"""Changed records as JSON, by kind and id; kinds without a change are absent."""

KINDS: Mapping[str, type[BaseModel]] = MappingProxyType({"users": User, "orders": Order, "products": Product})

_TYPES: dict[str, ToolType] = {
    name: getattr(function, TOOL_TYPE_ATTR)
    for name, function in vars(RetailTools).items()
    if hasattr(function, TOOL_TYPE_ATTR)
}
TOOLS: tuple[str, ...] = tuple(_TYPES)
"""All tools of the domain, in tau2's order."""
WRITE_TOOLS: frozenset[str] = frozenset(name for name, kind in _TYPES.items() if kind is ToolType.WRITE)
"""The tools that can change the world."""
TRANSFER_TOOL = "transfer_to_human_agents"


class ToolResult(NamedTuple):
    """What a tool answered."""

    text: str
    """As tau2 renders it: JSON of a record, a plain string, or `Error: …`."""
    error: bool
    value: Any
    """The Python value (a tau2 model or a string), good until the next call and not to be changed; `None` on error."""


class Shelf(dict[str, R]):
    """Records of one kind that nobody changes, with what was once written of each, for all sessions that share them."""

    def __init__(self, records: Mapping[str, R]) -> None:
        super().__init__(records)
        self._values: dict[str, dict[str, Json]] = {}
        self._reprs: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    def value(self, key: str) -> dict[str, Json]:
        """A record as a JSON value, not to be changed."""
        if key not in self._values:
            self._values[key] = self[key].model_dump()
        return self._values[key]

    def repr(self, key: str) -> str:
        """What Python writes of the JSON value."""
        if key not in self._reprs:
            self._reprs[key] = repr(self.value(key))
        return self._reprs[key]

    def text(self, key: str) -> str:
        """A record as tau2 renders it."""
        if key not in self._texts:
            self._texts[key] = Environment.to_json_str(self[key])
        return self._texts[key]


class Overlay(Mapping[str, R]):
    """The records of one kind: the task's own over the base, and over both the private copies of what a write touched.

    While `writing` is set, a record is copied on its first access; otherwise it is shared, since readers only read.
    """

    def __init__(self, base: Shelf[R], own: Shelf[R]) -> None:
        self._base = base
        self._own = own
        self._copies: dict[str, R] = {}
        self.writing = False

    def __getitem__(self, key: str) -> R:
        if key in self._copies:
            return self._copies[key]
        shelf = self._shelf(key)
        return self._copied(key, shelf) if self.writing else shelf[key]

    def _copied(self, key: str, shelf: Shelf[R]) -> R:
        """A private copy, in a tenth of `model_copy(deep=True)`'s time; originals are validated: nothing is coerced."""
        copy = self._copies[key] = type(shelf[key]).model_validate(shelf.value(key))
        return copy

    def text(self, key: str, record: R) -> str:
        """A record as tau2 renders it, anew only if it is a private copy."""
        shelf = self._shelf(key)
        return shelf.text(key) if shelf.get(key) is record else Environment.to_json_str(record)

    def items(self) -> ItemsView[str, R]:
        """Keys and records as a dict has them, which is many times faster to read through."""
        return super().items() if self.writing else self._merged().items()

    def values(self) -> ValuesView[R]:
        """Records in the order of keys."""
        return super().values() if self.writing else self._merged().values()

    def _merged(self) -> Mapping[str, R]:
        return {**self._base, **self._own, **self._copies} if self._own or self._copies else self._base

    def _shelf(self, key: str) -> Shelf[R]:
        return self._own if key in self._own else self._base

    def __contains__(self, key: object) -> bool:
        return key in self._own or key in self._base

    def __iter__(self) -> Iterator[str]:
        """Keys in tau2's order: the base's, then those that only the task has."""
        return iter({**self._base, **self._own} if self._own else self._base)

    def __len__(self) -> int:
        return len(self._base) + sum(key not in self._base for key in self._own)

    def delta(self) -> dict[str, Json]:
        """Records whose JSON differs from the start: the comparison that tau2 makes by hashing."""
        changed = {}
        for key, copy in self._copies.items():
            shelf, after = self._shelf(key), copy.model_dump()
            if _differ(shelf, key, after):
                changed[key] = after
        return changed


def _differ(shelf: Shelf[Any], key: str, after: Json) -> bool:
    """Whether a record has changed, or equal values have another text, as 1 and 1.0 have; equal `repr`s are quick."""
    before = shelf.value(key)
    return bool(before != after) or (shelf.repr(key) != repr(after) and canonical(before) != canonical(after))


Shelves = Mapping[str, Shelf[Any]]
"""Records by kind."""
_EMPTY: Shelf[Any] = Shelf({})


class _Tools(RetailTools):  # type: ignore[misc]
    """tau2's tools, found by name; its own way lists all of them, twice, at every call."""

    def use_tool(self, tool_name: str, **kwargs: Any) -> Any:
        if tool_name in _TYPES:
            return getattr(self, tool_name)(**kwargs)
        return super().use_tool(tool_name, **kwargs)


class Database:
    """A database-shaped object: what `RetailTools` reads of a `RetailDB`."""

    def __init__(self, base: Shelves, own: Shelves) -> None:
        self.users: Overlay[User] = Overlay(base["users"], own.get("users", _EMPTY))
        self.orders: Overlay[Order] = Overlay(base["orders"], own.get("orders", _EMPTY))
        self.products: Overlay[Product] = Overlay(base["products"], own.get("products", _EMPTY))

    def text(self, value: Any) -> str:
        """What a tool answered, as tau2 renders it; a whole record that is as it was at first is rendered only once."""
        match value:
            case User():
                return self.users.text(value.user_id, value)
            case Order():
                return self.orders.text(value.order_id, value)
            case Product():
                return self.products.text(value.product_id, value)
        return str(Environment.to_json_str(value))


class Session:
    """The private world of one episode; sessions of one `World` never see one another."""

    def __init__(self, db: Database) -> None:
        self.db = db
        """What the tools see; to be read, never written."""
        self._environment = Environment("retail", policy="", tools=_Tools(db))

    def call(self, call: ToolCall) -> ToolResult:
        """Execute a tool; whatever is wrong with the call comes back as an error in tau2's words."""
        try:
            value = self._execute(call)
        except Exception as error:  # as tau2's Environment.get_response: a bad call is an observation
            return ToolResult(f"Error: {error}", True, None)
        return ToolResult(self.db.text(value), False, value)

    def apply(self, call: ToolCall) -> None:
        """Execute a tool for its effect alone: what only reads, or fails, is passed over, and no answer is rendered."""
        if call.name in WRITE_TOOLS:
            with suppress(Exception):
                self._execute(call)

    def _execute(self, call: ToolCall) -> Any:
        self._writing(call.name in WRITE_TOOLS)
        try:
            _refuse_powers(call)
            return self._environment.make_tool_call(call.name, requestor="assistant", **call.arguments)
        finally:
            self._writing(False)

    def _writing(self, state: bool) -> None:
        self.db.users.writing = self.db.orders.writing = state

    def delta(self) -> Delta:
        """Records that differ from the start of the episode."""
        changed = {"orders": self.db.orders.delta(), "users": self.db.users.delta()}
        return {kind: records for kind, records in changed.items() if records}


def _refuse_powers(call: ToolCall) -> None:
    if call.name == "calculate" and "**" in str(call.arguments.get("expression")):
        raise ValueError("Invalid characters in expression")


class World:
    """A shared, read-only database in which any number of sessions can be opened."""

    def __init__(self, db: RetailDB) -> None:
        self.db = db

        self._latest: tuple[Records, Shelves] = ({}, {})

    def models(self, records: Records) -> Shelves:
        """`validated` records; the last ones are remembered: generator and gates look at the same ones in turn."""
        latest, models = self._latest
        if not _same(records, latest):
            models = validated(records)
            self._latest = ({kind: dict(entries) for kind, entries in records.items()}, models)
        return models

    @cached_property
    def _shelves(self) -> Shelves:
        return {kind: Shelf(getattr(self.db, kind)) for kind in KINDS}

    @classmethod
    def tau2(cls) -> World:
        """tau2-bench's retail database (500 users, 1000 orders, 50 products), loaded once per process."""
        return _tau2_world()

    @classmethod
    def from_data(cls, data: Records) -> World:
        """A world of JSON records; all kinds may be empty where every task brings its own."""
        return cls(RetailDB.model_validate({kind: data.get(kind, {}) for kind in KINDS} | dict(data)))

    @cached_property
    def hash(self) -> str:
        """Content hash of the database."""
        return digest(self.db.model_dump())

    def open(self, records: Records | None = None) -> Session:
        """A fresh private world with a task's own records laid over the base (whole records, not merged).

        Raises:
            ValueError: a record does not fit tau2's data model, or its kind is unknown.
        """
        return self.lay(validated(records or {}))

    def lay(self, own: Shelves) -> Session:
        """The same with records that are `validated` already, which is most of the work where a task has many."""
        return Session(Database(self._shelves, own))


def validated(records: Records) -> Shelves:
    """A task's records as tau2's models; raises `ValueError` for what does not fit."""
    return {
        kind: Shelf({key: _model(kind).model_validate(record) for key, record in entries.items()})
        for kind, entries in records.items()
    }


def _same(records: Records, others: Records) -> bool:
    """Whether these are the very same record objects."""
    if records.keys() != others.keys() or any(records[kind].keys() != others[kind].keys() for kind in records):
        return False
    return all(record is others[kind][key] for kind, entries in records.items() for key, record in entries.items())


def _model(name: str) -> type[BaseModel]:
    if name not in KINDS:
        raise ValueError(f"unknown kind of records '{name}'; expected one of {', '.join(KINDS)}")
    return KINDS[name]


@cache
def _tau2_world() -> World:
    world = World.from_data(json.loads((RETAIL_DATA_DIR / "db.json").read_text(encoding="utf-8")))
    gc.freeze()  # it stays for good: a full collection need not look through it, which takes 65 ms each time
    return world
