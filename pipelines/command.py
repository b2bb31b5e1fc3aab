"""`kfp run submit SPEC`: our command on upstream's group. Imports only click, as kfp imports it at every start.

Everything that is not one of our specs is upstream's: any of its ways to name a pipeline (`-f`, `-p`, `-n`, `-v`), and
any call that names no spec and has no option of ours goes to `kfp run create`, of which upstream's `submit` is an
alias. Upstream connects to the server before it looks at its command; ours checks the spec first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

UPSTREAM = ("-f", "--package-file", "-p", "--pipeline-id", "-n", "--pipeline-name", "-v", "--version")
OURS = ("--profile", "--set", "--resume-from")
VALUED = (*OURS, "-r", "--run-name", "-e", "--experiment-name")
"""Options of ours whose value is the next word."""
ALIAS = "Warning: 'submit' is deprecated, use 'create' instead."
"""What upstream says of its alias."""
LOGIN = {
    "endpoint": "host",
    "iap_client_id": "client_id",
    "namespace": "namespace",
    "other_client_id": "other_client_id",
    "other_client_secret": "other_client_secret",
    "existing_token": "existing_token",
}
"""Option of `kfp` -> argument of its client."""


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
    """Whether the arguments name a spec or have an option that is ours alone, or ask for help."""
    words = [word for before, word in pairwise(["", *args]) if before not in VALUED]
    if any(_names(word, option) for word in words for option in UPSTREAM):
        return False
    ours = (_names(word, option) for word in words for option in OURS)
    return "--help" in words or any(ours) or any(_is_spec(word) for word in words)


def _is_spec(word: str) -> bool:
    file = word.lower().endswith((".yaml", ".yml")) and not word.startswith("-")
    return file or Path("experiments", f"{word}.yaml").is_file()


def _names(word: str, option: str) -> bool:
    if option.startswith("--"):
        return word.partition("=")[0] == option
    return word.startswith(option)


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
    """Run an experiment of SENTINEL: its YAML file, or its name. Prints the run's id.

    For a compiled pipeline (-f, -p, -n or -v) this is `kfp run create`, with that command's options.
    """
    from sentinel.catalogue import named
    from sentinel.errors import SentinelError
    from sentinel.pipelines.submit import Names, connect, submit

    try:
        names = Names(run=run_name, experiment=experiment_name)
        reach = partial(connect, login=login(ctx.find_root()))
        file = named(spec, Path())
        click.echo(submit(file, profile, sets, names, reach, watch=watch, resume_from=resume_from).id)
    except SentinelError as error:
        click.echo(str(error), err=True)
        ctx.exit(error.exit_code)


def login(kfp: click.Context) -> dict[str, Any]:
    """What the user told `kfp` about the server, by options or variables (`kfp --endpoint … run submit …`)."""
    told = {option: kfp.params[option] for option in LOGIN if kfp.params.get(option) is not None}
    return {
        LOGIN[option]: value
        for option, value in told.items()
        if kfp.get_parameter_source(option) is not ParameterSource.DEFAULT
    }


def register(module: Any) -> None:
    """Put our `submit` on the group of kfp's module `kfp.cli.run`.

    Raises:
        TypeError: the group is not what this was written for.
    """
    group = module.run
    if not isinstance(group, click.Group) or "create" not in group.commands:
        raise TypeError("`kfp run` has another shape than that of kfp 2.17")
    group.add_command(SubmitCommand(submit_spec, group.commands["create"]), "submit")


def resolve_first(module: Any) -> None:
    """Have kfp's own group (module `kfp.cli.cli`) find our command by itself: only for its groups it connects.

    Raises:
        TypeError: the group is not what this was written for.
    """
    kfp = module.cli
    if not isinstance(kfp, click.Group) or not isinstance(run := kfp.commands.get("run"), click.Group):
        raise TypeError("`kfp` has another shape than that of kfp 2.17")
    resolve = kfp.resolve_command

    def resolve_command(ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = resolve(ctx, args)
        if command is run and rest[:1] == ["submit"] and is_ours(rest[1:]):
            return "run submit", run.commands["submit"], rest[1:]
        return name, command, rest

    kfp.resolve_command = resolve_command  # type: ignore[method-assign]
