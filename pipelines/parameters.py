"""A spec as flat run parameters: what Kubeflow's compare page lines up.

    shown(experiment.spec)["trainer_learning_rate"]     # '1e-06'

The keys come from the models and not from the values, so every run of every spec has the same ones; a key that a
spec's variant lacks shows `-`. Values are text without quotes: Kubeflow joins them by plain substitution.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from sentinel.spec.models import ExperimentSpec

ABSENT = "-"
UNSAFE = re.compile(r'["\\\n\r]|\{\{')


def shown(spec: ExperimentSpec) -> dict[str, str]:
    """Every knob of the spec: parameter name -> value as text."""
    values = dict(_leaves(spec.model_dump(mode="json"), ""))
    return {path.replace(".", "_"): _text(values.get(path)) for path in paths(ExperimentSpec)}


def paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted paths of all leaves of a model; of a union, those of all its variants."""
    found: dict[str, None] = {}
    for name, field in model.model_fields.items():
        sections = list(_models(field.annotation))
        inner = [path for section in sections for path in paths(section, f"{prefix}{name}.")]
        found.update(dict.fromkeys(inner or [prefix + name]))
    return list(found)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _models(argument)


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def _text(value: Any) -> str:
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    return UNSAFE.sub("'", str(value))
