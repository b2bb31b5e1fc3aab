"""Pydantic's errors as problems of the file: on the line where the value stands, in words about what to write.

Three things make a pydantic location useless to the author of a file, and are mended here: it contains the tags of
unions, it cannot point at what is missing, and its messages speak of Python. The walk along the models mends the first
and gives the candidates of "did you mean".
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sentinel.spec.migrate import MISPLACED
from sentinel.spec.source import Node, Problem, did_you_mean, nearest

EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a map",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "at least {min_length} characters",
}
"""What each of pydantic's error types wanted, with the names of its context."""
NOT_CALLED = "default_factory_not_called"
"""No fault of its own: a default could not be computed because of another."""


def explain(error: ValidationError, model: type[BaseModel], root: Node) -> list[Problem]:
    """One problem per error of validating the tree's plain data as `model`."""
    misplaced = MISPLACED.get(model.__name__, {})
    errors = [found for found in error.errors(include_url=False) if found["type"] != NOT_CALLED]
    spots = [(details, _follow(details["loc"], model, root)) for details in errors]
    mistyped = {name for details, spot in spots if details["type"] == "extra_forbidden" and (name := _meant(spot))}
    return [
        _problem(details, spot, misplaced)
        for details, spot in spots
        if not (details["type"] == "missing" and spot.path in mistyped)
    ]


def _meant(spot: Spot) -> str | None:
    """The path of the key that an unknown one was probably meant to be."""
    section, _, key = spot.path.rpartition(".")
    name = nearest(key, _fields(spot.above.kind)) if spot.above else None
    return f"{section}.{name}".lstrip(".") if name else None


@dataclass(frozen=True)
class Spot:
    """Where a location leads: the deepest node that exists, and what is not there below it."""

    path: str
    node: Node
    kind: Any
    """The annotation of the node's value."""
    above: Spot | None = None
    missing: str = ""


def _follow(loc: tuple[int | str, ...], model: type[BaseModel], root: Node) -> Spot:
    spot = Spot("", root, model)
    for part in loc:
        if part == "[key]":
            return replace(spot, node=Node(spot.path.rpartition(".")[2], spot.node.head))
        tags = _tags(spot.kind)
        if part in tags:
            spot = replace(spot, kind=tags[str(part)])
            continue
        path = f"{spot.path}[{part}]" if isinstance(part, int) else f"{spot.path}.{part}".lstrip(".")
        child = spot.node.get(part)
        if child is None:
            return replace(spot, path=path, missing=str(part))
        spot = Spot(path, child, _inside(spot.kind, part), above=spot)
    return spot


def _members(kind: Any) -> list[Any]:
    """The members of a union other than None; of anything else, itself."""
    if get_origin(kind) in (Union, types.UnionType):
        return [member for member in get_args(kind) if member is not type(None)]
    return [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tags(kind: Any) -> dict[str, type[BaseModel]]:
    """The variants of a union of models by the value of their `type`."""
    models = [member for member in _members(kind) if _is_model(member)]
    return {get_args(m.model_fields["type"].annotation)[0]: m for m in models} if len(models) > 1 else {}


def _inside(kind: Any, part: str | int) -> Any:
    """The annotation of a child; None where the models say nothing about it."""
    (member, *others) = _members(kind)
    if others:
        return None
    if _is_model(member):
        return member.model_fields[part].annotation if part in member.model_fields else None
    return get_args(member)[1] if get_origin(member) is dict else None


def _fields(kind: Any) -> dict[str, str]:
    """The keys of the section that an annotation allows, with what they hold."""
    (member, *others) = _members(kind)
    if others or not _is_model(member):
        return {}
    return {name: field.description or "" for name, field in member.model_fields.items()}


def found(value: Any) -> str:
    """A value in the words of a YAML author."""
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return f"the text {text[:60]}" if isinstance(value, str) else text


def _problem(details: ErrorDetails, spot: Spot, misplaced: Mapping[str, str]) -> Problem:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return _missing(spot)
    if kind == "extra_forbidden":
        return _unknown(spot, misplaced)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _variant(spot)
    if kind == "value_error":
        return _rule(spot, str(context["error"]))
    value = spot.node.plain()
    if kind == "literal_error":
        allowed = context["expected"]
        hint = did_you_mean(str(value), allowed.replace(" or ", ", ").replace("'", "").split(", "))
        return Problem(spot.node.place, spot.path, f"found {found(value)}, expected {allowed}{hint}")
    if kind in ("model_type", "model_attributes_type"):
        keys = ", ".join(_fields(spot.kind)) or "type"
        return Problem(spot.node.place, spot.path, f"found {found(value)}, expected a map with {keys}")
    if tags := _tags(spot.kind):
        expected = " or ".join(f"`{{type: {tag}, …}}`" for tag in tags)
        return Problem(spot.node.place, spot.path, f"found {found(value)}, expected a map: {expected}")
    expected = EXPECTED[kind].format(**context) if kind in EXPECTED else details["msg"]
    return Problem(spot.node.place, spot.path, f"found {found(value)}, expected {expected}{_unquote(kind, value)}")


def _unquote(kind: str, value: Any) -> str:
    """The hint for a number that was written as text."""
    if kind not in ("int_type", "float_type") or not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return f"; it is written as text: remove the quotes, {value.strip()}"


def _missing(spot: Spot) -> Problem:
    meaning = _fields(spot.kind).get(spot.missing, "").rstrip(".").replace("\n", " ")
    return Problem(spot.node.head, spot.path, "missing" + (f", expected: {meaning}" if meaning else ""))


def _unknown(spot: Spot, misplaced: Mapping[str, str]) -> Problem:
    key, above = spot.path.rpartition(".")[2], spot.above
    fields = _fields(above.kind) if above else {}
    hint = did_you_mean(key, fields) or f", expected one of {', '.join(fields)}"
    text = f"unknown key; {misplaced[key]}" if key in misplaced else f"unknown key{hint}"
    if above and above.node.place.source != spot.node.head.source:
        text += f"\n       inherited by {above.node.place}; `{key}: null` there deletes it"
    return Problem(spot.node.head, spot.path, text)


def _variant(spot: Spot) -> Problem:
    tags = _tags(spot.kind)
    allowed = ", ".join(f"'{tag}'" for tag in tags)
    chosen = spot.node.get("type")
    if chosen is None:
        return Problem(spot.node.head, f"{spot.path}.type", f"missing, expected one of {allowed}")
    value = chosen.plain()
    hint = did_you_mean(str(value), tags)
    return Problem(chosen.place, f"{spot.path}.type", f"found {found(value)}, expected one of {allowed}{hint}")


def _rule(spot: Spot, message: str) -> Problem:
    """A rule of a section begins with the field it is about; it is put as near to that field as the file goes."""
    field, colon, text = message.partition(": ")
    names = field.split(".")
    if not colon or names[0] not in _fields(spot.kind):
        return Problem(spot.node.head if spot.node.children else spot.node.place, spot.path, message)
    node = spot.node
    for name in names:
        if (child := node.get(name)) is None:
            break
        node = child
    return Problem(node.head if node.children else node.place, f"{spot.path}.{field}".lstrip("."), text)
