"""Submit an experiment: one run, or several one after the other where it is too long for one.

submit(Path("experiments/retail.yaml"), "gpu", (), Names(), server, watch=True, resume_from=None)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

from sentinel.artifacts import write_text
from sentinel.errors import SentinelError
from sentinel.pipelines.parameters import ABSENT
from sentinel.pipelines.server import Run, Server, ServerError
from sentinel.pipelines.submission import Submission, prepare

SAME = ("experiment", "spec_hash")
"""Parameters in which a run must agree with the spec that continues it."""
SUFFIX = ".yaml"
"""Of a compiled pipeline."""
HEADER = "# PIPELINE DEFINITION"
"""How kfp begins one."""


class Unwatched(SentinelError):
    """The user has seen enough."""

    exit_code = 130


class Names(NamedTuple):
    """Names that the user chose."""

    run: str | None = None
    experiment: str | None = None


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def submit(
    spec: Path,
    profile: str,
    sets: Sequence[str],
    names: Names,
    server: Server | Callable[[Submission], Server],
    *,
    watch: bool,
    resume_from: str | None,
) -> Run:
    """Create the run on the server; with `watch`, follow it and submit what comes after it.

    Args:
        spec: The experiment's file.
        profile: Name or path of the profile.
        sets: `key=value` changes of the spec.
        names: Names that the user chose.
        server: The server, or how to reach the one that a submission's profile names.
        watch: Whether to wait for the end.
        resume_from: Kubeflow's id of a run to continue; with `watch`, one that still runs is followed.

    Raises:
        SentinelError: Nothing was created, or (with `watch`) the run failed.
    """
    made = prepare(spec, profile, sets)
    reached = server if isinstance(server, Server) else server(made)
    run = None
    if resume_from is not None:
        before = _same(reached, resume_from, made)
        run = before if watch and not before.ended else None
        number, previous = _place(before) if run else _continuing(before, made)
        made = prepare(spec, profile, sets, number=number, previous=previous)
    while True:
        run = run or _create(made, names, reached)
        if not watch:
            if not made.part.last:
                say(f"part {made.part.text}: when it has succeeded, submit again with --resume-from {run.id}")
            return run
        run = _follow(run, reached)
        if made.part.last:
            say(f"{run.name}: succeeded")
            return run
        made, run = prepare(spec, profile, sets, number=made.part.number + 1, previous=run.id), None


def _follow(run: Run, server: Server) -> Run:
    """Watch a run to its good end."""
    url = server.url(run.id)
    meanwhile = f"the run goes on: {url}\n    follow it again with --watch --resume-from {run.id}"
    try:
        ended = server.watch(run.id, say)
    except KeyboardInterrupt:
        raise Unwatched(meanwhile) from None
    except ServerError as error:
        raise ServerError(f"{error}\n{meanwhile}") from None
    if ended.state != "SUCCEEDED":
        raise ServerError(
            f"the run ended as {ended.state.lower()}: {ended.error or 'its first red task says why'}\n"
            f"    {url}\n    submit again, or with --resume-from {run.id}: what it finished is kept"
        )
    return ended


def connect(made: Submission, login: Mapping[str, Any] = MappingProxyType({})) -> Server:
    """The server that a submission's profile names, or the one that kfp finds by itself (`Server.connect`)."""
    return Server.connect(made.cluster.endpoint, made.cluster.namespace, login)


def compile_only(spec: Path, profile: str, sets: Sequence[str], package: Path) -> Submission:
    """Check everything and write the pipeline; no server is asked."""
    if package.suffix != SUFFIX:
        raise SentinelError(f"--output {package}: expected a name that ends in {SUFFIX}, since kfp takes no other")
    if package.is_file() and not package.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise SentinelError(f"--output {package}: is no compiled pipeline, and is not overwritten; name another file")
    made = prepare(spec, profile, sets)
    with _compiled(made) as pipeline:
        write_text(package, pipeline.read_text(encoding="utf-8"))
    say(f"{package}: {made.name}, {package.stat().st_size:,} bytes")
    return made


@contextmanager
def _compiled(made: Submission) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        package = Path(folder) / f"pipeline{SUFFIX}"
        made.compile(package)
        yield package


def _create(made: Submission, names: Names, server: Server) -> Run:
    experiment = names.experiment or made.experiment
    with _compiled(made) as package:
        run = server.create(experiment, names.run or made.name, package, made.parameters, made.cluster.service_account)
    say(f"{run.name}: submitted to '{experiment}' as {run.id}\n{server.url(run.id)}")
    return run


def _same(server: Server, identity: str, made: Submission) -> Run:
    """The run of this id, if it is one of this spec."""
    if not identity.strip():
        raise SentinelError("--resume-from: found nothing, expected the id of a run")
    run = server.get(identity)
    other = [key for key in SAME if run.parameters.get(key) != made.parameters[key]]
    if other:
        found = ", ".join(f"{key} {run.parameters.get(key, 'absent')}, here {made.parameters[key]}" for key in other)
        raise SentinelError(f"run {run.id} is of another spec ({found}): submit without --resume-from")
    return run


def _place(run: Run) -> tuple[int, str]:
    """Which part a run is, and the run that it continues."""
    before = run.parameters.get("continues", ABSENT)
    return int(run.parameters["part"].split()[0]), "" if before == ABSENT else before


def _continuing(run: Run, made: Submission) -> tuple[int, str]:
    """Which part comes after a run, and the run that it continues."""
    if not run.ended:
        raise SentinelError(f"run {run.id} is {run.state.lower()}: follow it with --watch, or terminate it")
    number, before = _place(run)
    if run.state != "SUCCEEDED":
        return number, before
    if number == made.part.of:
        raise SentinelError(f"run {run.id} finished the experiment: nothing is left to do")
    return number + 1, run.id
