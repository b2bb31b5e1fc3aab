"""The working folder of a pod: a DVC project without git, laid out from a baton."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import sentinel
from sentinel.artifacts import write_text
from sentinel.errors import StageError
from sentinel.pod.baton import Baton, LockEntry
from sentinel.stages.context import HOME

SEPARATE = ("pipelines", "components")
"""Folders of the repository that the package shows as its own; no stage depends on them."""


@dataclass(frozen=True)
class Place:
    """What the environment variables of the container say; the profile of the run sets them."""

    remote: str
    """The DVC remote: `s3://bucket/prefix`, or a folder."""
    endpoint: str
    """S3 endpoint, or empty."""
    region: str
    """S3 region, or empty."""
    state: str
    """A mounted folder for what survives a kill, or empty."""

    @classmethod
    def here(cls) -> Place:
        """The place of this container; raises `StageError` if a secret that its profile names did not reach it."""
        require_secrets(os.environ)
        return cls.read(os.environ)

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Place:
        """The place from `SENTINEL_REMOTE`, `…_ENDPOINT`, `…_REGION` and `SENTINEL_STATE`."""
        if not (remote := variables.get("SENTINEL_REMOTE", "")):
            raise StageError("SENTINEL_REMOTE is not set: it names the bucket that pods exchange their results through")
        names = ("SENTINEL_REMOTE_ENDPOINT", "SENTINEL_REMOTE_REGION", "SENTINEL_STATE")
        return cls(remote, *(variables.get(name, "") for name in names))

    def remote_config(self) -> dict[str, Any]:
        """The bucket as DVC's default remote, as plain data."""
        remote = {"url": self.remote, "endpointurl": self.endpoint, "region": self.region}
        bus = {key: value for key, value in remote.items() if value}
        return {"core": {"remote": "bus"}, "remote": {"bus": bus}}

    def dvc_config(self) -> str:
        """The text of `.dvc/config`."""
        lines = [f"    {key} = {value}" for key, value in self.remote_config()["remote"]["bus"].items()]
        core = ["    no_scm = true", "    analytics = false", "    check_update = false", "    remote = bus"]
        cache = ["    type = reflink,hardlink,copy"]
        return "\n".join(["[core]", *core, "[cache]", *cache, "['remote \"bus\"']", *lines, ""])


def require_secrets(variables: Mapping[str, str]) -> None:
    """Raise `StageError` unless every variable of `SENTINEL_SECRETS` (`VARIABLE=secret/key …`) has a value."""
    wanted = (pair.partition("=") for pair in variables.get("SENTINEL_SECRETS", "").split())
    if missing := [(name, *source.split("/")) for name, _, source in wanted if not variables.get(name)]:
        lines = [f"    {name}: secret '{secret}' or its key '{key}' is missing" for name, secret, key in missing]
        mend = "    `sentinel doctor` shows what there is, and what makes it; without a cluster, export the variables"
        raise StageError("\n".join(["this container has no credentials:", *lines, mend]))


def keep_unsent(folder: Path, stage: str) -> Path | None:
    """Have DVC's cache outlive this pod, where there is a volume for that: results that could not be sent are kept.

    Returns the cache, to be deleted when all of it is in the bucket.
    """
    if not (home := folder / HOME).is_symlink():
        return None
    cache = home.resolve() / "unsent" / stage
    cache.mkdir(parents=True, exist_ok=True)
    (folder / ".dvc" / "cache").symlink_to(cache, target_is_directory=True)
    return cache


def lay_out(baton: Baton, folder: Path, place: Place) -> None:
    """Fill an empty folder with everything but data: specs, DVC files with their locks, code, configuration."""
    for name, text in baton.files.items():
        write_text(folder / name, text)
    if baton.code:
        package = Path(sentinel.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__", *(name for name in SEPARATE if (package / name).is_symlink()))
        shutil.copytree(package, folder / "sentinel", ignore=ignored)
    write_text(folder / ".dvc" / "config", place.dvc_config())
    for path, text in baton.compiled():
        planned = YAML(typ="safe", pure=True).load(text)["stages"]
        done = {name: entry for name, entry in baton.stages.items() if name in planned}
        if done:
            write_text((folder / path).with_suffix(".lock"), lock_text(done))
    if place.state:
        Path(place.state).mkdir(parents=True, exist_ok=True)
        (folder / HOME).symlink_to(place.state, target_is_directory=True)


def lock_text(stages: Mapping[str, LockEntry]) -> str:
    """The text of a `dvc.lock`."""
    text = io.StringIO()
    YAML().dump({"schema": "2.0", "stages": dict(stages)}, text)
    return text.getvalue()


def lock_entry(folder: Path, dvc_file: str, stage: str) -> LockEntry:
    """What DVC noted about a stage."""
    lock = (folder / dvc_file).with_suffix(".lock")
    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(lock)["stages"]
    entry: LockEntry = stages[stage]
    return entry
