"""The command line: thin verbs over the library; every heavy import stands inside the verb that needs it.

People read stderr, programs read stdout: a verb speaks through `say`, and with `--json` it prints exactly one JSON
document through `emit`. A `SentinelError` becomes its message and its exit code, never a traceback; any other
exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sentinel.errors import SentinelError, SpecError

app = typer.Typer(
    help="Train a tool-using agent from its own failures: one YAML file, one loop, every figure with its interval.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

SPECS = "Specs"
RUNS = "Experiments"
CHECKS = "Checks"

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="An experiment file.", show_default=False)]
Specs = Annotated[
    list[Path], typer.Argument(metavar="SPEC...", help="Experiment or profile files.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def say(text: str) -> None:
    """One plain line for people."""
    print(text, file=sys.stderr, flush=True)


def emit(document: Any) -> None:
    """The one JSON document for programs."""
    print(json.dumps(document, indent=1, ensure_ascii=False))


@app.command(rich_help_panel=SPECS)
def validate(specs: Specs, as_json: Json = False) -> None:
    """Check files; report every error with its line and column."""
    from sentinel.spec import check

    problems: dict[str, list[str]] = {}
    for path in specs:
        try:
            check(path)
        except SpecError as error:
            problems[str(path)] = error.problems
            say(str(error))
        else:
            say(f"{path}: ok")
    if as_json:
        emit({"valid": not problems, "files": {str(path): problems.get(str(path), []) for path in specs}})
    if problems:
        raise typer.Exit(SpecError.exit_code)


@app.command(rich_help_panel=SPECS)
def render(spec: Spec, as_json: Json = False) -> None:
    """Print the resolved spec, each value with the file and line it comes from."""
    from sentinel.spec import load, spec_hash
    from sentinel.spec.render import render

    loaded = load(spec)
    if not as_json:
        print(render(loaded), end="")
        return
    origins = {path: str(place) for path, place in loaded.origins.items()}
    sources = [str(source) for source in loaded.sources]
    emit({"resolved": loaded.resolved(), "hash": spec_hash(loaded.experiment), "origins": origins, "sources": sources})


@app.command(rich_help_panel=SPECS)
def schema(
    kind: Annotated[str, typer.Argument(help="experiment or profile.")] = "experiment",
    write: Annotated[Path | None, typer.Option(help="Write the schemas of all kinds into this folder instead.")] = None,
) -> None:
    """Print the JSON Schema that editors check a file with."""
    from sentinel.artifacts import write_text
    from sentinel.spec.schema import KINDS, schema_text

    if kind not in KINDS:
        raise typer.BadParameter(f"found '{kind}', expected one of {', '.join(KINDS)}")
    if write is None:
        print(schema_text(kind), end="")
        return
    for name in KINDS:
        write_text(write / f"{name}.json", schema_text(name))
        say(f"wrote {write / name}.json")


@app.command(rich_help_panel=SPECS)
def migrate(
    specs: Specs, write: Annotated[bool, typer.Option("--write", "-w", help="Rewrite the files in place.")] = False
) -> None:
    """Bring files of an older version up to the current one; comments stay."""
    from sentinel.artifacts import write_text
    from sentinel.spec.migrate import migrate

    migrated = [(path, migrate(path)) for path in specs]
    for path, text in migrated:
        if not write:
            print(text, end="")
        elif text == path.read_text(encoding="utf-8"):
            say(f"{path}: already current")
        else:
            write_text(path, text)
            say(f"{path}: migrated")


@app.command(rich_help_panel=RUNS)
def plan(spec: Spec, as_json: Json = False) -> None:
    """Show the stages of an experiment, and how many episodes it plays for what."""
    from sentinel.plan import budget
    from sentinel.plan import plan as make_plan
    from sentinel.spec.load import load

    experiment = load(spec).experiment
    planned, episodes = make_plan(experiment), budget(experiment.spec)
    if as_json:
        stages = [{"name": s.name, "component": s.component, "inputs": dict(s.inputs)} for s in planned.stages]
        emit({"stages": stages, "episodes": {**episodes._asdict(), "budget": episodes.spent}})
        return
    for stage in planned.stages:
        say(f"{stage.name:<{max(len(s.name) for s in planned.stages)}}  {stage.component:<10}  -> {stage.output}/")
    purposes = ", ".join(f"{name} {count:,}" for name, count in episodes._asdict().items())
    say(
        f"\n{len(planned.stages)} stages. Episodes at most: {purposes}. Budget (all but evaluation): {episodes.spent:,}"
    )


@app.command(rich_help_panel=RUNS)
def compile(check: Annotated[bool, typer.Option("--check", help="Only compare; exit 1 with a diff.")] = False) -> None:
    """Write dvc.yaml and experiments/*/dvc.yaml from the experiments."""
    from sentinel import dvcfile

    project = Path()
    known = dvcfile.discover(project)
    compiled = dvcfile.compile_all(known, project)
    if check:
        dvcfile.require_no_drift(compiled, project)
        say(f"{len(compiled)} DVC files match their experiments")
        return
    gone, keep = dvcfile.orphans(compiled, project), dvcfile.outputs(known)
    dvcfile.remove(gone, project, keep)
    changed = dvcfile.write(compiled, project)
    for name in compiled:
        dvcfile.prune(project / name, project, keep)
    say("\n".join([*(f"wrote {name}" for name in changed), *(f"removed {name}" for name in gone)]) or "nothing changed")


@app.command(rich_help_panel=RUNS)
def run(
    spec: Spec,
    profile: Annotated[str | None, typer.Option(help="Name or path of the profile: where it runs.")] = None,
) -> None:
    """Run an experiment: every stage whose inputs, params or code changed, and no other."""
    from sentinel.runner import run as run_experiment

    run_experiment(spec, profile)


@app.command(rich_help_panel=RUNS)
def stage(
    kind: Annotated[str, typer.Argument(help="Kind of the stage, for example train.")],
    run: Annotated[str, typer.Option(help="Its folder, for example runs/retail-cpu/02.")],
    spec: Annotated[Path | None, typer.Option(help="For the kind spec: the experiment file.")] = None,
    iterations: Annotated[int, typer.Option(help="For the kind spec: iterations of the compiled DAG.")] = 0,
    profile: Annotated[str | None, typer.Option(help="Name or path of the profile: where it runs.")] = None,
) -> None:
    """Run one stage: what DVC and Kubeflow execute."""
    from sentinel.stages.parent import die_with_dvc

    die_with_dvc()
    from sentinel.stages.context import execute

    execute(kind, run, spec, iterations, profile)


@app.command("check-env", rich_help_panel=CHECKS)
def check_env(spec: Spec, as_json: Json = False) -> None:
    """Compare our reward with tau2's official evaluator on every real task: gold, do-nothing and wrong agents."""
    from sentinel.env import check
    from sentinel.spec.load import load
    from sentinel.stages.progress import Progress

    tasks, world = check.subject(load(spec).experiment.spec)
    progress = Progress("check-env")
    progress.start(len(tasks), "tasks")
    report = check.check_env(tasks, world, advance=progress.advance)
    progress.close()
    say(report.summary())
    if as_json:
        emit(report.model_dump(mode="json"))
    if report.disagreements:
        raise typer.Exit(1)


@app.command(rich_help_panel=CHECKS)
def regrade(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tau2 result file, or a trajectories.jsonl of ours.")],
    as_json: Json = False,
) -> None:
    """Score stored episodes again without inference, and compare with the rewards in the file."""
    from time import perf_counter

    from sentinel.evaluation.regrade import regrade

    began = perf_counter()
    result = regrade(file)
    seconds = round(perf_counter() - began, 3)
    say(f"{result.summary()}\n{seconds} s")
    if as_json:
        emit({**result.model_dump(mode="json"), "seconds": seconds})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 a stage failed, 2 something the user can mend."""
    try:
        app(arguments, prog_name="sentinel")
    except SentinelError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
