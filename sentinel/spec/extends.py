"""`extends`, the only inheritance between specs: maps merge, lists replace, `null` deletes what was inherited.

    chain = read_chain(Path("experiments/retail-general.yaml"))
    chain.root.find("spec", "seed").place         # experiments/retail.yaml:11:9, where the value stands

There is no other rule, so a map that changes its `type` still inherits its parent's other keys, and those that the new
type does not know are errors: write `model: null` to drop one. Nothing is lost silently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from sentinel.spec.migrate import check_version
from sentinel.spec.source import Node, Place, Problem, Reader, Source, also, did_you_mean, failure, read_source


@dataclass(frozen=True)
class Chain:
    """A file and what it extends, merged."""

    root: Node
    sources: tuple[Source, ...]
    """The file itself first, then its parent, and so on."""
    problems: tuple[Problem, ...] = ()
    """What YAML would have let pass silently in them."""


def merge(parent: Node, child: Node) -> Node:
    """The child over the parent: maps merge, anything else replaces, `null` deletes an inherited key."""
    if not isinstance(parent.value, dict) or not isinstance(child.value, dict):
        return child
    merged = dict(parent.children)
    for key, node in child.children.items():
        if key not in merged:
            merged[key] = node
        elif node.value is None:
            del merged[key]
        else:
            merged[key] = merge(merged[key], node)
    return replace(child, value=merged)


def _parent(root: Node, extends: Node, chain: list[tuple[Path, Place]]) -> Path:
    """The file that `extends` names, checked: text, existing, not yet in the chain, and the child has its own name."""
    problems: list[Problem] = []
    path = root.place.source.path
    if not isinstance(extends.value, str) or not extends.value:
        raise failure([Problem(extends.place, "extends", "found no text, expected a file, relative to this one")])
    target = Path(os.path.normpath(path.parent / extends.value))
    if not target.is_file():
        hint = did_you_mean(target.name, (other.name for other in target.parent.glob("*.yaml")))
        problems.append(Problem(extends.place, "extends", f"no such file {target}{hint}"))
    elif target.resolve() in (known.resolve() for known, _ in chain):
        circle = " -> ".join(f"{place.source.path}:{place.line}" for _, place in chain)
        problems.append(Problem(extends.place, "extends", f"a cycle: {circle} -> {target}"))
    elif not root.find("metadata", "name"):
        text = "missing; a file with `extends` names itself, or it would write into the run of the file it extends"
        problems.append(Problem((root.get("metadata") or extends).head, "metadata.name", text))
    if problems:
        raise failure(problems)
    return target


def read_chain(path: Path) -> Chain:
    """Read a file and everything it extends, and merge them."""
    layers: list[Node] = []
    sources: list[Source] = []
    problems: list[Problem] = []
    chain: list[tuple[Path, Place]] = []
    following: Path | None = path
    while following:
        source = read_source(following)
        reader = Reader(source)
        root = reader.read()
        problems += reader.problems
        with also(problems):
            check_version(root)
        extends = root.get("extends")
        sources.append(source)
        layers.append(replace(root, value={key: node for key, node in root.children.items() if key != "extends"}))
        if extends:
            chain.append((following, extends.place))
        with also(problems):
            following = _parent(root, extends, chain) if extends else None
    merged = layers.pop()
    while layers:
        merged = merge(merged, layers.pop())
    return Chain(merged, tuple(sources), tuple(problems))
