"""What `sentinel submit` does with its options: a run on a server, on this machine, or only the compiled pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, get_args

from sentinel.errors import SentinelError
from sentinel.pipelines.local import Runner, run_local
from sentinel.pipelines.submit import Names, compile_only, connect, say
from sentinel.pipelines.submit import submit as submit_to

AWAY, HERE = "gpu", "local"
"""Profiles by default: on a cluster, and on this machine."""
ON_A_SERVER = ("run_name", "experiment_name", "watch", "resume_from")
"""Options that are about a run on a server."""


class Options(NamedTuple):
    """The options of `sentinel submit`."""

    profile: str | None = None
    sets: tuple[str, ...] = ()
    run_name: str | None = None
    experiment_name: str | None = None
    watch: bool = False
    resume_from: str | None = None
    output: Path | None = None
    local: bool = False
    runner: str | None = None


def submit(spec: Path, options: Options) -> dict[str, Any]:
    """Do it; returns what to tell a program.

    Raises:
        SentinelError: the options exclude one another, or what is asked for failed.
    """
    if options.local:
        _refuse(options, "there is no server with --local", *ON_A_SERVER, "output")
        profile = options.profile or HERE
        here, identity = run_local(spec, profile, options.sets, _runner(options.runner or "subprocess"))
        say(f"{here.name}: succeeded; `sentinel pull {identity} --profile {profile}` brings its results here")
        return {"run": identity, "name": here.name, "parameters": dict(here.parameters)}
    _refuse(options, "it goes with --local", "runner")
    profile = options.profile or AWAY
    if options.output:
        _refuse(options, "no server is asked with --output", *ON_A_SERVER)
        made = compile_only(spec, profile, options.sets, options.output)
        return {"name": made.name, "package": str(options.output), "parameters": dict(made.parameters)}
    names = Names(options.run_name, options.experiment_name)
    run = submit_to(spec, profile, options.sets, names, connect, watch=options.watch, resume_from=options.resume_from)
    return {"run": run.id, "name": run.name, "state": run.state, "parameters": dict(run.parameters)}


def _refuse(options: Options, why: str, *names: str) -> None:
    if wrong := [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)]:
        raise SentinelError(f"{', '.join(wrong)}: {why}; leave it out")


def _runner(name: str) -> Runner:
    for runner in get_args(Runner):
        if runner == name:
            return runner  # type: ignore[no-any-return]
    raise SentinelError(f"--runner {name}: expected {' or '.join(get_args(Runner))}")
