"""`sentinel pull RUN`: everything that a run has made, from its bucket into this checkout; executes nothing.

    pulled = pull("8d0c6f21-…", "gpu")

The bucket holds what each container of the run handed on: its stages with the hashes of their inputs and outputs. They
become the lock entries of this checkout, as if its stages had run here, and the data comes by hash. A run that failed
or still runs gives what it has finished.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rich.console import Console
from ruamel.yaml import YAML

from sentinel import catalogue, dvcfile
from sentinel.artifacts import write_text
from sentinel.errors import SentinelError, StageError
from sentinel.fingerprint import code_hash
from sentinel.pipelines.local import here
from sentinel.pod.baton import Baton, LockEntry
from sentinel.pod.bus import jobs, open_bucket, read_job, reporting
from sentinel.pod.folder import Place, lock_text
from sentinel.runner.repro import prepare
from sentinel.spec.cluster import Bucket
from sentinel.spec.profile import load_profile
from sentinel.stages.lock import exclusive

SHOWN = 5
"""Runs that are named when there is no such run."""


class Pulled(NamedTuple):
    """What was taken."""

    experiment: str
    stages: tuple[str, ...]
    missing: tuple[str, ...]
    """Stages of the plan that the run has not finished."""
    note: str
    """What keeps this checkout from being up to date, or empty."""

    def summary(self) -> str:
        """For people."""
        total = len(self.stages) + len(self.missing)
        lines = [f"{self.experiment}: {len(self.stages)} of {total} stages are here, nothing was executed"]
        lines += [f"not finished by the run: {', '.join(self.missing)}"] if self.missing else []
        return "\n".join([*lines, *([self.note] if self.note else [])])


def pull(run: str, profile: str, root: Path = Path()) -> Pulled:
    """Take a run's outputs and lock entries.

    Args:
        run: Kubeflow's id of the run.
        profile: The profile that names its bucket.
        root: The checkout.

    Raises:
        SentinelError: There is no such run, or this checkout asks something else than it did. Nothing has changed.
        StageError: The bucket was not reached, or has lost data. Nothing has changed but DVC's cache.
    """
    if not run.strip():
        raise SentinelError("RUN: found nothing, expected the id of a run")
    cluster = load_profile(profile).spec.cluster or here(root)
    place = Place(cluster.bucket.url, cluster.bucket.endpoint or "", cluster.bucket.region or "", "")
    with open_bucket(place) as store, reporting("cannot be read"):
        baton = read_job(store, run)
        known = [] if baton else jobs(store)
    if baton is None:
        raise SentinelError(_unknown(run, cluster.bucket, known))
    require_same(baton, root)
    with exclusive("run", "a `sentinel run` works in this folder; wait for it, or stop it"):
        prepare(item := catalogue.read(root / baton.spec, root), root, Console(stderr=True, highlight=False))
        compiled = dvcfile.compile_one(item, catalogue.discover(root, [root / baton.spec], strict=False), root)
        planned = {path: YAML(typ="safe", pure=True).load(text)["stages"] for path, text in compiled.items()}
        entries = {path: _done(stages, baton) for path, stages in planned.items()}
        with _locked(entries, root):
            _fetch(place, [f"{path}:{name}" for path, done in entries.items() for name in done], root)
    taken = tuple(name for done in entries.values() for name in done)
    missing = tuple(name for stages in planned.values() for name in stages if name not in baton.stages)
    return Pulled(item.name, taken, missing, _note(baton))


def require_same(baton: Baton, root: Path) -> None:
    """Raise `SentinelError` with the difference unless the checkout's spec is the run's."""
    parts: list[str] = []  # compiled files follow from the spec
    for path, text in baton.science.items():
        if PurePosixPath(path).name != "dvc.yaml":
            found = (root / path).read_text(encoding="utf-8") if (root / path).is_file() else ""
            lines = found.splitlines(keepends=True), text.splitlines(keepends=True)
            parts += difflib.unified_diff(*lines, f"{path} (here)", f"{path} (the run's)")
    if parts:
        revision = baton.parameters.get("git_revision", "-").removesuffix("-dirty")
        raise SentinelError(
            f"this checkout asks something else than the run did:\n{''.join(parts)}"
            f"make the file the same, or look at the revision that was submitted: git checkout {revision}"
        )


def _unknown(run: str, bucket: Bucket, known: Sequence[str]) -> str:
    runs = f"the latest there: {', '.join(known[-SHOWN:])}" if known else "no run has left anything there"
    return f"run {run}: nothing of it lies in {bucket.url}; {runs}\n    is it the bucket of the run's profile?"


def _done(planned: Mapping[str, Mapping[str, object]], baton: Baton) -> dict[str, LockEntry]:
    """The run's entries of one compiled file."""
    done = {name: baton.stages[name] for name in planned if name in baton.stages}
    if other := [name for name, entry in done.items() if entry["cmd"] != planned[name]["cmd"]]:
        raise SentinelError(f"the run's {', '.join(other)} had another command than here: git checkout its revision")
    return done


@contextmanager
def _locked(entries: Mapping[str, Mapping[str, LockEntry]], root: Path) -> Iterator[None]:
    """Write the lock files; if the block fails they are again what they were."""
    locks = [(root / path).with_suffix(".lock") for path in entries]
    before = [lock.read_bytes() if lock.is_file() else None for lock in locks]
    try:
        for lock, done in zip(locks, entries.values(), strict=True):
            kept = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.is_file() else {}
            if done:
                write_text(lock, lock_text({**kept, **done}))
        yield
    except BaseException:
        for lock, content in zip(locks, before, strict=True):
            lock.unlink(missing_ok=True) if content is None else lock.write_bytes(content)
        raise


def _fetch(place: Place, targets: list[str], root: Path) -> None:
    """Bring the outputs of stages into DVC's cache, then into the folder; files that DVC does not know stay."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root), config=place.remote_config()) as repo:
            repo.fetch(targets)
            repo.checkout(targets)
    except DvcException as error:
        raise StageError(f"not everything was taken: {error}") from None


def _note(baton: Baton) -> str:
    if (there := baton.parameters.get("code", "")) == code_hash():
        return ""
    revision = baton.parameters.get("git_revision", "-")
    return f"this checkout's code is not the run's ({there}, git {revision}): `dvc repro` would run its stages again"
