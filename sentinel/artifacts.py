"""Reading and writing artifacts: JSON and JSONL with a schema, sorted keys, and no half-written file.

    write_jsonl(folder / "tasks.jsonl", tasks)
    tasks = read_jsonl(folder / "tasks.jsonl", Task)

A file is written under a temporary name, flushed to disk and renamed, so a killed process or a full disk leaves
either the old artifact or none. Artifacts hold no clock and no host name: equal runs give equal bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sentinel.errors import ArtifactError
from sentinel.records import SCHEMA_VERSION, Record

R = TypeVar("R", bound=Record)
REBUILD = "delete the artifact's folder and run again to rebuild it"
"""What to do about a broken artifact; a file of the user's own is never to be deleted."""


def canonical(value: Any, *, indent: int | None = None) -> str:
    """JSON text with sorted keys; numbers and strings as Python writes them."""
    separators = (",", ":") if indent is None else None
    return json.dumps(value, sort_keys=True, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the system says against writing, with the path: no space, no rights, no such folder."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise ArtifactError(path, problem, hint="nothing half-written is left; mend that, and run again") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is synced and renamed over it, on any error removed."""
    with _named(path), _beside(path) as temporary:
        yield temporary


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; on success it takes the place of `path`, on any error it is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _named(path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document (a record, or plain data) atomically, indented, with sorted keys."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write_text(path, canonical(plain, indent=1) + "\n")


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records, one per line, atomically."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(canonical(record.model_dump(mode="json")) + "\n")


def _explain(error: ValidationError) -> str:
    """The first fault in our words; a foreign version explains all others, so it alone is told."""
    faults = error.errors(include_url=False)
    for fault in faults:
        if fault["loc"] == ("schema_version",):
            return f"schema_version: found {fault['input']!r}, this release reads {SCHEMA_VERSION}"
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"]) or "the record"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {'missing' if first['type'] == 'missing' else first['msg']}{more}"


def _rebuild(path: Path) -> str:
    return REBUILD if "runs" in path.parts else ""


def _parse(path: Path, text: bytes, model: type[R], line: int | None, hint: str | None = None) -> R:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problem = f"not a valid {model.__name__}: {_explain(error)}"
        raise ArtifactError(path, problem, line=line, hint=_rebuild(path) if hint is None else hint) from None


def require(path: Path) -> Path:
    """The path itself, or an `ArtifactError` that names what is missing."""
    if not path.exists():
        raise ArtifactError(
            path, "missing artifact", hint="the stage that writes it has not run: try `sentinel run SPEC`"
        )
    return path


def read_json(path: Path, model: type[R]) -> R:
    """Read one record; errors name the path."""
    return _parse(path, require(path).read_bytes(), model, None)


def read_jsonl(path: Path, model: type[R], *, may_be_empty: bool = False, hint: str | None = None) -> list[R]:
    """Read all records of a JSONL file; errors name path and line.

    Args:
        path: The file.
        model: What a line holds.
        may_be_empty: Whether finding none is an answer; else a file without a record is refused as cut short.
        hint: What to do about a broken file; by default an artifact of a run is to be made again.
    """
    with require(path).open("rb") as file:
        return parse_jsonl(path, file, model, may_be_empty=may_be_empty, hint=hint)


def parse_jsonl(
    path: Path, lines: Iterable[bytes], model: type[R], *, may_be_empty: bool = False, hint: str | None = None
) -> list[R]:
    """The same of lines that were read already."""
    records = [_parse(path, text, model, number, hint) for number, text in enumerate(lines, 1)]
    if not records and not may_be_empty:
        problem = f"an empty file, expected one {model.__name__} or more, one a line"
        raise ArtifactError(path, problem, hint=_rebuild(path) if hint is None else hint)
    return records
