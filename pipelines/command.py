"""`kfp run submit SPEC`: our command on upstream's group. Imports only click, as kfp imports it at every start.

Everything that is not one of our specs is upstream's: any of its ways to name a pipeline (`-f`, `-p`, `-n`, `-v`), and
any call without a YAML file goes to `kfp run create`, of which upstream's `submit` is an alias.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

UPSTREAM = ("-f", "--package-file", "-p", "--pipeline-id", "-n", "--pipeline-name", "-v", "--version")
ALIAS = "Warning: 'submit' is deprecated, use 'create' instead."
"""What upstream says of its alias."""


class SubmitCommand(click.Command):
    """Ours if it is given a spec, upstream's otherwise."""

    def __init__(self, ours: click.Command, upstream: click.Command) -> None:
        super().__init__("submit", help=ours.help, params=ours.params)
        self._ours, self._upstream = ours, upstream

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Choose before parsing, since each command parses its own options."""
        if is_ours(args):
            return self._ours.make_context(info_name, args, parent=parent, **extra)
        click.echo(ALIAS, err=True)
        return self._upstream.make_context(self._upstream.name, args, parent=parent, **extra)


def is_ours(args: Sequence[str]) -> bool:
    """Whether the arguments name a spec, or ask for help."""
    if any(_names(arg, option) for arg in args for option in UPSTREAM):
        return False
    return any(arg.endswith((".yaml", ".yml")) and not arg.startswith("-") for arg in args) or "--help" in args


def _names(arg: str, option: str) -> bool:
    if option.startswith("--"):
        return arg.partition("=")[0] == option
    return arg.startswith(option)


@click.command("submit")
@click.argument("spec", metavar="SPEC", type=click.Path(path_type=Path))
@click.option("--profile", envvar="SENTINEL_PROFILE", default="gpu", show_default=True, help="Where it runs.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change the spec: trainer.steps=24.")
@click.option("-r", "--run-name", help="Name of the run.  [default: the experiment and its hash]")
@click.option("-e", "--experiment-name", help="Kubeflow experiment.  [default: the spec's name]")
@click.option("-w", "--watch", is_flag=True, help="Follow the run to its end.")
@click.option("--resume-from", metavar="RUN", help="Continue this run: what it finished is not done again.")
@click.pass_context
def submit_spec(
    ctx: click.Context,
    spec: Path,
    profile: str,
    sets: tuple[str, ...],
    run_name: str | None,
    experiment_name: str | None,
    watch: bool,
    resume_from: str | None,
) -> None:
    """Run an experiment of SENTINEL from its YAML file.

    For a compiled pipeline (-f, -p, -n or -v) this is `kfp run create`, with that command's options.
    """
    from sentinel.errors import SentinelError
    from sentinel.pipelines.server import Server
    from sentinel.pipelines.submit import Names, submit

    try:
        names = Names(run=run_name, experiment=experiment_name)
        submit(spec, profile, sets, names, Server.of(ctx.obj["client"]), watch=watch, resume_from=resume_from)
    except SentinelError as error:
        click.echo(str(error), err=True)
        ctx.exit(error.exit_code)


def register(group: Any) -> None:
    """Put our `submit` on kfp's group `run`.

    Raises:
        TypeError: the group is not what this was written for.
    """
    if not isinstance(group, click.Group) or "create" not in group.commands:
        raise TypeError("`kfp run` has another shape than that of kfp 2.17")
    group.add_command(SubmitCommand(submit_spec, group.commands["create"]), "submit")
