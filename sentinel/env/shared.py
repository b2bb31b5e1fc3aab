"""One parsed database for thousands of tau2's environments, equal to a fresh one at every start.

    databases = pair(db)                       # two in turn: tau2's evaluator has two environments at a time
    tools = SharedTools(next(databases))       # class SharedTools(Shared, RetailTools)

tau2 parses and hashes the whole database for every environment. Here the records that the last environment accessed are
put back, and only their JSON is written anew for the hash, which is that of the same bytes. For databases that are
dicts of records by id, and whose tools access by id what they change: retail's and airline's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel


class _Accessed(dict[str, Any]):
    """A dict that remembers which of its records were handed out, or put in, by id."""

    def __init__(self, records: dict[str, Any]) -> None:
        super().__init__(records)
        self.ids: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.ids.add(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, record: Any) -> None:
        self.ids.add(key)
        super().__setitem__(key, record)

    def restore(self, originals: dict[str, BaseModel]) -> None:
        """Put back what was accessed, in its place, and throw out what is new."""
        for key in self.ids - originals.keys():
            self.pop(key, None)
        self.update(_copies({key: originals[key] for key in self.ids & originals.keys()}))
        self.ids.clear()


class SharedDatabase:
    """A whole database in which only accessed records are restored, and only their JSON is written anew."""

    def __init__(self, original: BaseModel) -> None:
        self._originals: dict[str, dict[str, BaseModel]] = {
            kind: dict(getattr(original, kind)) for kind in type(original).model_fields
        }
        records: dict[str, Any] = {k: _Accessed(_copies(originals)) for k, originals in self._originals.items()}
        self.db = type(original).model_construct(**records)
        self._texts = {
            kind: {key: _json(key, record) for key, record in sorted(originals.items())}
            for kind, originals in self._originals.items()
        }

    def restore(self) -> Any:
        """The database as it was at first."""
        for kind, originals in self._originals.items():
            getattr(self.db, kind).restore(originals)
        return self.db

    def hash(self) -> str:
        """What tau2's `get_dict_hash(db.model_dump())` gives."""
        return hashlib.sha256("".join(self._text()).encode()).hexdigest()

    def _text(self) -> list[str]:
        kinds = []
        for kind in sorted(self._originals):
            records: _Accessed = getattr(self.db, kind)
            changed = {key: _json(key, dict.__getitem__(records, key)) for key in records.ids & records.keys()}
            texts = self._texts[kind] | changed
            ordered = texts.values() if changed.keys() <= self._originals[kind].keys() else _by_key(texts)
            kinds.append(f'"{kind}": {{{", ".join(ordered)}}}')
        return ["{", ", ".join(kinds), "}"]


def _by_key(texts: dict[str, str]) -> list[str]:
    return [texts[key] for key in sorted(texts)]


def pair(original: BaseModel) -> Iterator[SharedDatabase]:
    """Two databases in turn: tau2's evaluator hashes the predicted environment after it has run the gold one."""
    return itertools.cycle([SharedDatabase(original), SharedDatabase(original)])


def _copies(records: dict[str, BaseModel]) -> dict[str, BaseModel]:
    return {key: record.model_copy(deep=True) for key, record in records.items()}


def _json(key: str, record: BaseModel) -> str:
    return f"{json.dumps(key)}: {json.dumps(record.model_dump(), sort_keys=True, default=str)}"


class Shared:
    """Stands before a toolkit of tau2's in the bases of a class: its database is a restored shared one."""

    def __init__(self, shared: SharedDatabase) -> None:
        super().__init__(shared.restore())  # type: ignore[call-arg]
        self._shared = shared

    def get_db_hash(self) -> str:
        """The hash of the database."""
        return self._shared.hash()
