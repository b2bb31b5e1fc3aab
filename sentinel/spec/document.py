"""One typed document from a chain of YAML files: the machinery that experiments and profiles share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from sentinel.spec.explain import explain
from sentinel.spec.extends import Chain, read_chain
from sentinel.spec.source import Node, Problem, also, did_you_mean, failure

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Document(Generic[M]):
    """A validated document and the files it came from."""

    content: M
    chain: Chain


def read(
    path: Path, models: Mapping[str, type[M]], prepare: Callable[[Node], list[Problem]] | None = None
) -> Document[M]:
    """Read, merge and validate a document as the model of its `kind`.

    Args:
        path: The file.
        models: The models by the `kind` that the caller accepts.
        prepare: Checks the models cannot make, such as files that must exist; may replace values of the tree.

    Raises:
        SpecError: Every fault, each with its line.
    """
    return validate(read_chain(path), models, prepare)


def validate(
    chain: Chain, models: Mapping[str, type[M]], prepare: Callable[[Node], list[Problem]] | None = None
) -> Document[M]:
    """Validate what was read and merged; see `read`."""
    with also(chain.problems):
        model = _model(chain.root, models)
    problems = [*chain.problems, *(prepare(chain.root) if prepare else [])]
    try:
        # JSON is the mode in which a strict model still takes a list for a tuple and 1 for 1.0.
        content = model.model_validate_json(json.dumps(chain.root.plain()))
    except ValidationError as error:
        told = {problem.path for problem in chain.problems}
        problems += [problem for problem in explain(error, model, chain.root) if problem.path not in told]
    if problems:
        raise failure(problems, chain.sources)
    return Document(content, chain)


def _model(root: Node, models: Mapping[str, type[M]]) -> type[M]:
    allowed = " or ".join(f"'{kind}'" for kind in models)
    node = root.get("kind")
    if node is None:
        raise failure([Problem(root.head, "kind", f"missing, expected {allowed}")])
    if not isinstance(node.value, str) or node.value not in models:
        hint = did_you_mean(str(node.plain()), models)
        raise failure([Problem(node.place, "kind", f"found '{node.plain()}', expected {allowed}{hint}")])
    return models[node.value]
