"""The shape of the code base: limits of size, docstrings, and places that must not be named (DESIGN, section 6)."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCIENCE = [path for pattern in ("*.yaml", "studies/*.yaml") for path in sorted((ROOT / "experiments").glob(pattern))]
PLACE = re.compile(r"\bimages?\s*:|\b\w+://|\bendpoint\s*:|\bgpus?\s*:", re.IGNORECASE)
FOREIGN_PATH = re.compile(r"(?<![\w.\-])/(?:work|root|home)/")


class Function(NamedTuple):
    """A function and how many lines of code it has; its docstring is not counted."""

    path: Path
    name: str
    lines: int


@cache
def tracked(*patterns: str) -> list[Path]:
    """The files of this project: committed ones, and new ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def sources() -> list[Path]:
    """Python files that have content."""
    return [path for path in tracked("*.py") if path.stat().st_size]


def length(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text().splitlines())


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines that the docstring of a function takes."""
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def functions_of(path: Path) -> Iterator[Function]:
    """Every function and method in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            yield Function(path.relative_to(ROOT), node.name, lines)


@cache
def functions() -> list[Function]:
    """Every function of the project."""
    return [function for path in sources() for function in functions_of(path)]


def test_no_file_is_long() -> None:
    assert {str(path.relative_to(ROOT)): n for path in sources() if (n := length(path)) > 500} == {}


def test_no_function_is_long() -> None:
    assert [function for function in functions() if function.lines > 80] == []


def test_a_typical_file_is_short() -> None:
    assert median(length(path) for path in sources()) <= 150


def test_a_typical_function_is_short() -> None:
    assert median(function.lines for function in functions()) <= 10


def test_every_module_says_why_it_exists() -> None:
    modules = tracked("sentinel/*.py")
    assert modules
    assert [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize("path", SCIENCE, ids=lambda path: path.stem)
def test_experiments_name_no_place(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if PLACE.search(line.partition("#")[0])]
    assert found == [], "images, GPUs and addresses belong in experiments/profiles/"


@pytest.mark.parametrize(
    ("line", "names_a_place"),
    [
        ("    image: trainer:1", True),
        ("  model: s3://bucket/weights", True),
        ("  endpoint: 127.0.0.1:8000", True),
        ("  model: Qwen/Qwen3-4B-Thinking-2507", False),
        ("  user: {type: scripted}", False),
    ],
)
def test_what_names_a_place(line: str, names_a_place: bool) -> None:
    assert bool(PLACE.search(line)) is names_a_place


def test_no_file_points_into_somebodys_machine() -> None:
    def lines(path: Path) -> list[str]:
        return path.read_text(errors="ignore").splitlines()

    text = [
        path for path in tracked() if path.suffix not in {".png", ".svg", ".safetensors"} and path != Path(__file__)
    ]
    found = [f"{path.relative_to(ROOT)}: {line.strip()}" for path in text for line in lines(path)]
    assert [entry for entry in found if FOREIGN_PATH.search(entry)] == []
