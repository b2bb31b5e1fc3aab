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
        resume_from: Kubeflow's id of a run to continue.

    Raises:
        SentinelError: Nothing was created, or (with `watch`) the run failed.
    """
    made = prepare(spec, profile, sets)
    reached = server if isinstance(server, Server) else server(made)
    if resume_from:
        number, previous = _continuing(reached.get(resume_from), made)
        made = prepare(spec, profile, sets, number=number, previous=previous)
    while True:
        run = _create(made, names, reached)
        if not watch:
            if not made.part.last:
                say(f"part {made.part.text}: when it has succeeded, submit again with --resume-from {run.id}")
            return run
        run = reached.watch(run.id, say)
        if run.state != "SUCCEEDED":
            raise ServerError(
                f"the run ended as {run.state.lower()}: {run.error or 'its first red task says why'}\n"
                f"    {reached.url(run.id)}\n    submit again, or with --resume-from {run.id}: what it finished is kept"
            )
        if made.part.last:
            say(f"{run.name}: succeeded")
            return run
        made = prepare(spec, profile, sets, number=made.part.number + 1, previous=run.id)


def connect(made: Submission, login: Mapping[str, Any] = MappingProxyType({})) -> Server:
    """The server that a submission's profile names, or the one that kfp finds by itself (`Server.connect`)."""
    return Server.connect(made.cluster.endpoint, made.cluster.namespace, login)


def compile_only(spec: Path, profile: str, sets: Sequence[str], package: Path) -> Submission:
    """Check everything and write the pipeline; no server is asked."""
    if package.suffix != SUFFIX:
        raise SentinelError(f"--output {package}: expected a name that ends in {SUFFIX}, since kfp takes no other")
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


def _continuing(run: Run, made: Submission) -> tuple[int, str]:
    """Which part comes after a run, and the run that it continues."""
    other = [key for key in SAME if run.parameters.get(key) != made.parameters[key]]
    if other:
        found = ", ".join(f"{key} {run.parameters.get(key, 'absent')}, here {made.parameters[key]}" for key in other)
        raise SentinelError(f"run {run.id} is of another spec ({found}): submit without --resume-from")
    if not run.ended:
        raise SentinelError(f"run {run.id} is {run.state.lower()}: wait for its end, or terminate it")
    number, before = int(run.parameters["part"].split()[0]), run.parameters.get("continues", ABSENT)
    if run.state != "SUCCEEDED":
        return number, "" if before == ABSENT else before
    if number == made.part.of:
        raise SentinelError(f"run {run.id} finished the experiment: nothing is left to do")
    return number + 1, run.id
