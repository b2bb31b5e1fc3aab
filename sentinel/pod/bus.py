"""The bucket as the bus between pods: outputs by hash, the run-cache, and each job's batons.

    bus = Bus(folder, job)
    bus.check()                          # before hours of work: can we write there at all?
    executed = bus.reproduce(target)     # exactly one stage, or its result from the run-cache
    bus.publish(stage, target, entry)    # objects first, then the run-cache's record, then the baton

The order of publishing matters: whoever finds a record finds its objects. DVC's own `push --run-cache` sends the
records first, all of them, and only logs what fails; so the one new record is sent, and looked up afterwards, here.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sentinel.artifacts import canonical, write_text
from sentinel.errors import SentinelError, StageError
from sentinel.pod.baton import Baton, LockEntry, merge
from sentinel.pod.folder import Place
from sentinel.runner.child import ending, environment, start
from sentinel.runner.narrator import RUNNING

JOBS = "sentinel/jobs"
"""Where the batons of jobs lie in the bucket, beside DVC's own folders."""
UNSENT = "with a volume for state (`cluster.state`) it is kept, and the next attempt sends it without running again"
ATTEMPTS, PAUSE = 4, 5.0
"""How often sending is tried, and the first pause in seconds; each pause is twice the last."""


class Store(NamedTuple):
    """A folder of the bucket through DVC's file systems, whatever the kind of storage."""

    fs: Any
    root: str

    def path(self, *parts: str) -> str:
        """A path below the root."""
        joined: str = self.fs.join(self.root, *parts)
        return joined

    def put(self, text: bytes, *parts: str) -> None:
        """Write one small object."""
        target = self.path(*parts)
        self.fs.makedirs(self.fs.parent(target), exist_ok=True)
        self.fs.pipe_file(target, text)

    def read(self, path: str) -> bytes:
        """Read one small object."""
        found: bytes = self.fs.cat_file(path)
        return found


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """The root of the remote that the folder's DVC configuration names."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        odb = repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix")
        yield Store(odb.fs, odb.path)


@contextmanager
def open_bucket(place: Place) -> Iterator[Store]:
    """The root of a bucket, for those who have no folder with DVC's configuration."""
    with TemporaryDirectory() as name, reporting("cannot be read"):
        write_text(Path(name) / ".dvc" / "config", place.dvc_config())
        with open_store(Path(name)) as store:
            yield store


def record_path(entry: LockEntry) -> tuple[str, str, str, str]:
    """Where DVC's run-cache keeps the record of a lock entry: the key is what went in, the name also what came out."""
    from dvc.stage.cache import _get_cache_hash

    key = _get_cache_hash(copy.deepcopy(entry), key=True)
    return "runs", key[:2], key, _get_cache_hash(copy.deepcopy(entry))


class Bus:
    """The bucket, as a working folder sees it."""

    def __init__(self, folder: Path, job: str) -> None:
        self._folder, self.job = folder, job

    def check(self, stage: str) -> None:
        """Fail now, not after hours of work, if the bucket cannot be written; leaves a note that the stage began."""
        with reporting("cannot be written"), open_store(self._folder) as store:
            store.put(b"{}", JOBS, self.job, f"{stage}.begun")

    def reproduce(self, target: str) -> bool:
        """Run the stage through DVC, unless the bucket has its result; returns whether it ran."""
        return self._dvc("repro", "--single-item", "--pull", target)

    def fetch(self, *targets: str) -> None:
        """Take outputs of stages that are done."""
        self._dvc("pull", *targets)

    def publish(self, stage: str, target: str, baton: Baton) -> None:
        """Send a stage's outputs, its record and the baton; on return all of it is in the bucket.

        Raises:
            StageError: It was not taken, though tried again with growing pauses.
        """
        for attempt in range(ATTEMPTS):
            try:
                self._dvc("push", target)
                with reporting("took the outputs but not their record"), open_store(self._folder) as store:
                    self._send(store, stage, baton)
                return
            except StageError as error:
                if attempt == ATTEMPTS - 1:
                    raise StageError(f"{stage} is done, but its result was not sent. {error}\n    {UNSENT}") from error
                print(f"{stage}: not sent yet, trying again. {error}", file=sys.stderr, flush=True)
                time.sleep(PAUSE * 2**attempt)

    def _send(self, store: Store, stage: str, baton: Baton) -> None:
        record = record_path(baton.stages[stage])
        if not store.fs.exists(store.path(*record)):
            store.put(self._folder.joinpath(".dvc", "cache", *record).read_bytes(), *record)
        note(store, self.job, stage, baton)

    def _dvc(self, *arguments: str) -> bool:
        ran = False
        process = start([sys.executable, "-m", "dvc", *arguments], environment(), self._folder)
        try:
            with ending(process), process:
                assert process.stdout is not None
                for line in process.stdout:
                    ran = ran or bool(RUNNING.match(line.rstrip()))
                    print(line, end="", flush=True)
        except SystemExit:
            print(f"stopped by a signal: {self._ended(process.returncode, *arguments)}", file=sys.stderr, flush=True)
            raise
        if process.returncode:
            raise StageError(f"{self._ended(process.returncode, *arguments)}; see above")
        return ran

    @staticmethod
    def _ended(code: int, *arguments: str) -> str:
        return f"dvc {' '.join(arguments)} ended with code {code}"


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Errors of a dozen storage libraries, as one of ours."""
    try:
        yield
    except SentinelError:
        raise
    except Exception as error:
        raise StageError(
            f"the bucket {what}: {type(error).__name__}: {error}\n"
            "    check SENTINEL_REMOTE, its endpoint, and the secret with the credentials (`sentinel doctor`)"
        ) from error


def note(store: Store, job: str, name: str, baton: Baton) -> None:
    """Leave a baton in the job's folder."""
    store.put(canonical(baton.model_dump(mode="json")).encode(), JOBS, job, f"{name}.json")


def noted(store: Store, job: str, name: str) -> Baton | None:
    """The baton of this name that a job has left, if it has."""
    path = store.path(JOBS, job, f"{name}.json")
    return Baton.model_validate(json.loads(store.read(path))) if store.fs.exists(path) else None


def jobs(store: Store) -> list[str]:
    """The jobs that left something, the latest last."""
    folder = store.path(JOBS)
    if not store.fs.exists(folder):
        return []
    batons = sorted(path for path in store.fs.find(folder) if path.endswith(".json"))
    one = {PurePosixPath(path).parent.name: path for path in batons}
    return sorted(one, key=lambda job: (store.fs.modified(one[job]), job))


def read_job(store: Store, job: str) -> Baton | None:
    """What a job has done so far, from its batons; `None` if it has done nothing."""
    folder = store.path(JOBS, job)
    if not store.fs.exists(folder):
        return None
    batons = [
        Baton.model_validate(json.loads(store.read(path)))
        for path in sorted(store.fs.find(folder))
        if path.endswith(".json")
    ]
    return merge(batons) if batons else None
