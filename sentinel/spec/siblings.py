"""Whether experiments that live side by side get along: one name each, and one meaning of every base.

    conflicts(loaded, named=[Path("experiments/arm.yaml")])

Two experiments of one name would overwrite each other's runs. Experiments that name the same base share its tasks and
starting policy on disk, so they must agree on what these are made of. A conflict takes two: it is reported at the
experiment that was named, and says where the other stands.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sentinel.errors import Fault
from sentinel.spec.load import Loaded
from sentinel.spec.source import Place

BASE_SECTIONS = ("base", "environment", "policy", "warmup", "seed_tasks", "evaluator")
"""What experiments that name the same base must agree on."""
MORE = 3
"""Further differences that a message names."""
WIDTH = 60
"""Characters of a value that a message shows."""


class Pair(NamedTuple):
    """An experiment and another one that it has to agree with."""

    here: Loaded
    there: Loaded


def conflicts(loaded: Iterable[Loaded], named: Collection[Path]) -> dict[Path, list[Fault]]:
    """The conflicts in which a named file takes part, by that file."""
    known = sorted(loaded, key=lambda one: str(one.sources[0]))
    wanted = {path.resolve() for path in named}
    faults: dict[Path, list[Fault]] = {}
    for group, fault in ((_name, _same_name), (_base, _unequal_bases)):
        for pair in _pairs(known, group, wanted):
            if made := fault(pair):
                faults.setdefault(pair.here.sources[0], []).append(made)
    return faults


def _name(one: Loaded) -> str:
    return one.experiment.metadata.name


def _base(one: Loaded) -> str:
    return one.experiment.spec.base.name


def _pairs(known: Sequence[Loaded], group: Callable[[Loaded], str], wanted: Collection[Path]) -> Iterator[Pair]:
    """Every member of a group against its first, which for a base is the experiment of the same name."""
    for key, members in itertools.groupby(sorted(known, key=group), group):
        first, *others = sorted(members, key=lambda one: _name(one) != key)
        for other in others:
            if other.sources[0].resolve() in wanted:
                yield Pair(other, first)
            elif first.sources[0].resolve() in wanted:
                yield Pair(first, other)


def _same_name(pair: Pair) -> Fault:
    path = "metadata.name"
    here, there = (one.origins[path] for one in pair)
    text = f"'{_name(pair.here)}' is the name of {there} too; their runs would overwrite each other: choose another"
    return _fault(here, path, text)


def _unequal_bases(pair: Pair) -> Fault | None:
    values = [dict(_leaves(one)) for one in pair]
    differing = [path for path in values[0] | values[1] if _value(values[0], path) != _value(values[1], path)]
    if not differing:
        return None
    path, *more = sorted(differing, key=lambda path: _distance(pair.here, path))
    mine, theirs = (_value(side, path) for side in values)
    place, other = (one.origins.get(path) for one in pair)
    where = f"at {other}" if other else f"by default in {pair.there.sources[0]}"
    also = f"; they differ in {', '.join(more[:MORE])}{' and more' if more[MORE:] else ''} too" if more else ""
    text = (
        f"{mine} here{'' if place else ' by default'}, {theirs} {where}, and both name the base "
        f"'{_base(pair.here)}', which has one set of tasks and one starting policy{also}\n"
        f"       make them equal, or give '{_name(pair.here)}' a base of its own: spec.base.name"
    )
    return _fault(place or pair.here.origins["metadata.name"], path, text)


def _fault(place: Place, path: str, text: str) -> Fault:
    return Fault(text, str(place.source.path), place.line, place.column, path, place.picture())


def _leaves(one: Loaded) -> Iterator[tuple[str, Any]]:
    plain = one.experiment.spec.model_dump(mode="json")
    for section in BASE_SECTIONS:
        yield from _flat(f"spec.{section}", plain[section])


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(f"{path}.{key}", inner)


def _value(values: Mapping[str, Any], path: str) -> str:
    return json.dumps(values[path], ensure_ascii=False)[:WIDTH] if path in values else "nothing"


def _distance(one: Loaded, path: str) -> tuple[int, str]:
    """0 for a value in the file itself, then inherited ones, then defaults."""
    place = one.origins.get(path)
    sources = [str(source) for source in one.sources]
    return (sources.index(str(place.source.path)) if place else len(sources), path)
