"""Mends what a killed DVC leaves behind, so that it never blocks the next run.

DVC's repository lock is a file lock and dies with its holder. Two files do not:

- `.dvc/tmp/rwlock`, a JSON file of process ids. DVC forgets dead ones, but is blocked by a foreign process that was
  given the same id later (usual in containers), and by a file cut short. An entry is dropped here only if its process
  is gone or is no DVC.
- `dvc.lock`, which DVC writes in place. One that was cut short is deleted: DVC then finds every finished stage in its
  run cache, and runs none of them again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sentinel.artifacts import write_text


def _alive(holder: Mapping[str, Any]) -> bool:
    """Whether it is a running DVC; a zombie has no command line any more."""
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError):
        return False
    except PermissionError:
        pass
    command = Path(f"/proc/{holder['pid']}/cmdline")
    return b"dvc" in command.read_bytes() if command.is_file() else True


def _living(locks: Mapping[str, Any]) -> dict[str, Any]:
    write = {path: holder for path, holder in locks.get("write", {}).items() if _alive(holder)}
    read = {path: [h for h in holders if _alive(h)] for path, holders in locks.get("read", {}).items()}
    sides = {"write": write, "read": {path: holders for path, holders in read.items() if holders}}
    return {side: held for side, held in sides.items() if held}


def release_dead(project: Path) -> None:
    """Drop the entries of dead holders; wait for no one: where DVC is editing the file, it is in order."""
    path = project / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return
    with path.with_name("rwlock.lock").open("a") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            locks = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            path.unlink()
            return
        if (living := _living(locks)) != locks:
            write_text(path, json.dumps(living))


def discard_broken(lock: Path) -> bool:
    """Delete a `dvc.lock` that DVC would refuse to read; returns whether it was one."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not lock.is_file():
        return False
    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(lock))
    except (YAMLError, Invalid, UnicodeDecodeError):
        lock.unlink()
        return True
    return False
