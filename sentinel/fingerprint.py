"""A fingerprint of the code behind each kind of stage: an edit reruns the stages whose code it is, and no others.

The fingerprint hashes every `sentinel` module that `sentinel/stages/<kind>.py` imports, directly or not (imports
inside functions included, those under `TYPE_CHECKING` not), and the data files beside them (prompts, vocabularies).
It stands in the run's `spec.yaml`, where DVC reads it as a param. Left out on purpose: the spec's models, whose
values are params themselves, and the harness around a stage, which no artifact depends on.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
DATA = ("*.j2", "*.json", "*.jsonl", "*.md", "*.yaml")
HARNESS = ("sentinel.spec", "sentinel.plan", "sentinel.stages.context")


def _harness(module: str) -> bool:
    return module in ("sentinel", "sentinel.stages") or any(f"{module}.".startswith(f"{name}.") for name in HARNESS)


def _file(module: str, package: Path) -> Path | None:
    path = package.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children: Iterable[ast.AST] = node.orelse if _is_type_checking(node) else ast.iter_child_nodes(node)  # type: ignore[attr-defined]
    for child in children:
        yield from _imports(child)


def _names(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    parents = module.split(".")[: None if is_package else -1]
    relative = parents[: len(parents) - node.level + 1] if node.level else []
    source = ".".join([*relative, *([node.module] if node.module else [])])
    yield source
    yield from (f"{source}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


@cache
def _imported(source: bytes, module: str, is_package: bool) -> tuple[str, ...]:
    names = (name for node in _imports(ast.parse(source)) for name in _names(node, module, is_package))
    return tuple(dict.fromkeys(parent for name in names for parent in _with_parents(name)))


def closure(module: str, package: Path = PACKAGE) -> dict[str, Path]:
    """The `sentinel` modules that importing `module` may execute, itself included: dotted name -> file."""
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found or name.split(".")[0] != "sentinel" or _harness(name) or not (file := _file(name, package)):
            continue
        found[name] = file
        pending.extend(_imported(file.read_bytes(), name, file.name == "__init__.py"))
    return found


def _data(files: Iterable[Path], package: Path) -> Iterator[Path]:
    for folder in {file.parent for file in files}:
        for pattern in DATA:
            yield from folder.glob(pattern) if folder == package else folder.rglob(pattern)


def sources(kind: str, package: Path = PACKAGE) -> list[Path]:
    """Every file that a stage's fingerprint covers, relative to the package, sorted."""
    modules = closure(f"sentinel.stages.{kind}", package).values()
    return sorted(path.relative_to(package) for path in {*modules, *_data(modules, package)})


def fingerprint(kind: str, package: Path = PACKAGE) -> str:
    """16 hex digits over the names and contents of the stage's sources; line endings do not matter."""
    sha = hashlib.sha256()
    for path in sources(kind, package):
        content = (package / path).read_bytes().replace(b"\r\n", b"\n")
        sha.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
    return sha.hexdigest()[:16]


def code_hash(package: Path = PACKAGE) -> str:
    """One fingerprint over those of all stages: whether two copies of the package make the same artifacts."""
    kinds = sorted(path.stem for path in (package / "stages").glob("*.py"))
    return hashlib.sha256("".join(fingerprint(kind, package) for kind in kinds).encode()).hexdigest()[:16]
