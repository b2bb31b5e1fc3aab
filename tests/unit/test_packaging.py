"""What the package says about itself: its dependencies are those it imports, and the command starts without extras."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any


def requirements(root: Path) -> set[str]:
    """The names of everything that pyproject.toml asks for, extras included."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = [line for extra in table["optional-dependencies"].values() for line in extra]
    return {requirement_name(line) for line in [*table["dependencies"], *extras]} - {"sentinel-rl"}


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """`dvc[s3]>=3.67` is about `dvc`."""
    return canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


def imported(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_every_import_is_declared(root: Path) -> None:
    """What is not installed here (DeepSpeed) is held to be of the distribution of its name."""
    declared = requirements(root)
    distributions = packages_distributions()
    names = {name for path in (root / "sentinel").rglob("*.py") for name in imported(path)}
    undeclared = {
        name
        for name in names - set(sys.stdlib_module_names) - {"sentinel"}
        if not declared & {canonical(distribution) for distribution in distributions.get(name, [name])}
    }
    assert undeclared == set()


def test_every_requirement_is_pinned(root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    assert requirements(root) - {requirement_name(line) for line in lines if not line.startswith("#")} == set()
