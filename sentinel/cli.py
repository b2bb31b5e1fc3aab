"""The command line: thin verbs over the library; every heavy import stands inside the verb that needs it.

What a verb was asked for goes to stdout, progress and messages to stderr: `show` prints a result, `say` a message.
With `--json` stdout holds exactly one JSON document, and the result for people stands on stderr. A `SentinelError`
becomes its message and its exit code, never a traceback, and so does a missing optional dependency; any other exception
is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from sentinel.errors import MissingExtraError, SentinelError, SpecError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

SPECS = "Specs"
RUNS = "Experiments"
CHECKS = "Checks"


def _named(spec: Path | None) -> Path | None:
    from sentinel.catalogue import named

    return named(spec, Path()) if spec else None


Spec = Annotated[
    Path, typer.Argument(metavar="SPEC", help="An experiment or study: its file, or its name.", callback=_named)
]
OneSpec = Annotated[Path, typer.Argument(metavar="SPEC", help="An experiment: its file, or its name.", callback=_named)]
Specs = Annotated[
    list[Path], typer.Argument(metavar="SPEC...", help="Experiment, study or profile files.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def say(text: str) -> None:
    """A message beside the result."""
    print(text, file=sys.stderr, flush=True)


def show(text: str, as_json: bool = False) -> None:
    """The result for people, out of the way of a JSON document."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def emit(document: Any) -> None:
    """The one JSON document for programs."""
    print(json.dumps(document, indent=1, ensure_ascii=False))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"sentinel {version('sentinel-rl')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Train a tool-using agent from its own failures: one YAML file, one loop, every figure with its interval."""


@app.command(rich_help_panel=SPECS)
def validate(specs: Specs, as_json: Json = False) -> None:
    """Check files, also beside the other experiments of the project; report every error with its line and column."""
    from sentinel import catalogue

    faults = catalogue.validate([catalogue.named(spec, Path()) for spec in specs], Path())
    for path, found in faults.items():
        show("\n".join(map(str, found)) or f"{path}: ok", as_json)
        if (place := catalogue.outside(path, Path())) and not found and Path(catalogue.SPECS).is_dir():
            say(f"note: {path} {place}; `sentinel run` takes it once it is copied into {catalogue.SPECS}/")
    valid = not any(faults.values())
    if as_json:
        fields = ("file", "line", "column", "path", "message")
        described = {
            str(path): [{f: getattr(one, f) for f in fields} for one in found] for path, found in faults.items()
        }
        emit({"valid": valid, "files": described})
    if not valid:
        raise typer.Exit(SpecError.exit_code)


@app.command(rich_help_panel=SPECS)
def render(spec: OneSpec, as_json: Json = False) -> None:
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
    kind: Annotated[str, typer.Argument(help="experiment, profile or study.")] = "experiment",
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
    from sentinel.plan import Budget, budget
    from sentinel.plan import plan as make_plan
    from sentinel.spec.expand import members

    experiments = [one.experiment for one in members(spec)]
    stages = list({stage.name: stage for one in experiments for stage in make_plan(one).stages}.values())
    episodes = Budget(*map(sum, zip(*(budget(one.spec) for one in experiments), strict=True)))
    if as_json:
        described = [{"name": s.name, "component": s.component, "inputs": dict(s.inputs)} for s in stages]
        emit({"stages": described, "episodes": {**episodes._asdict(), "budget": episodes.spent}})
        return
    for stage in stages:
        show(f"{stage.name:<{max(len(s.name) for s in stages)}}  {stage.component:<10}  -> {stage.output}/")
    purposes = ", ".join(f"{name} {count:,}" for name, count in episodes._asdict().items())
    show(f"\n{len(stages)} stages. Episodes at most: {purposes}. Budget (all but evaluation): {episodes.spent:,}")


@app.command(rich_help_panel=RUNS)
def compile(check: Annotated[bool, typer.Option("--check", help="Only compare; exit 1 with a diff.")] = False) -> None:
    """Write dvc.yaml and experiments/*/dvc.yaml from the experiments."""
    from sentinel import catalogue, dvcfile

    project = Path()
    known = catalogue.discover(project)
    compiled = dvcfile.compile_all(known, project)
    if not known and not dvcfile.orphans(compiled, project):
        raise SentinelError(
            f"no experiments here: expected {catalogue.SPECS}/*.yaml in {project.resolve()}; go to the project's folder"
        )
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
    from sentinel.runner.repro import run as run_experiment

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


@app.command(rich_help_panel=RUNS)
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A finished experiment, its name or file; or a study.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one on the same held-out tasks.")] = "",
    iteration: Annotated[int | None, typer.Option(help="Compare these policies; by default the last ones.")] = None,
    as_json: Json = False,
) -> None:
    """Show Pass^k of two experiments, and B minus A paired by task with intervals; or of all arms of a study."""
    from sentinel.catalogue import named
    from sentinel.plan import RUNS as FOLDER
    from sentinel.stages.arms import compare_runs, study_scores

    runs = Path(FOLDER)
    if second:
        found: Any = compare_runs(first, second, runs, iteration)
    else:
        found = study_scores(named(Path(first), Path()), runs, iteration)
    show(found.summary(), as_json)
    if as_json:
        emit(found.model_dump(mode="json"))


@app.command(rich_help_panel=RUNS)
def trace(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of an experiment that was run.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Id of a task, or of a pattern.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Follow a task from its pattern through probes and training to the updates it took part in."""
    from sentinel.evaluation.trace import trace
    from sentinel.plan import RUNS as FOLDER

    found = trace(Path(FOLDER) / run, name)
    show(found.summary(), as_json)
    if as_json:
        emit(found.model_dump(mode="json"))


@app.command(rich_help_panel=RUNS)
def submit(
    spec: OneSpec,
    profile: Annotated[str | None, typer.Option(envvar="SENTINEL_PROFILE", help="Where it runs: gpu, kind, …")] = None,
    sets: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change the spec.")] = [],  # noqa: B006
    run_name: Annotated[str | None, typer.Option("--run-name", "-r", help="Name of the run.")] = None,
    experiment: Annotated[str | None, typer.Option("--experiment-name", "-e", help="Kubeflow experiment.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the run to its end.")] = False,
    resume_from: Annotated[str | None, typer.Option(metavar="RUN", help="Continue this run.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Only write the pipeline to this file.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run the pipeline on this machine, without a cluster.")
    ] = False,
    runner: Annotated[str | None, typer.Option(help="With --local: subprocess (the default) or docker.")] = None,
    as_json: Json = False,
) -> None:
    """Run an experiment on Kubeflow Pipelines: the same as `kfp run submit SPEC`. Prints the run's id."""
    from sentinel.pipelines.verbs import Options, submit

    chosen = Options(profile, tuple(sets), run_name, experiment, watch, resume_from, output, local, runner)
    document = submit(spec, chosen)
    if as_json:
        emit(document)
    elif "run" in document:
        print(document["run"])


@app.command(rich_help_panel=RUNS)
def pull(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Kubeflow's id of a run.", show_default=False)],
    profile: Annotated[str, typer.Option(envvar="SENTINEL_PROFILE", help="The profile that names its bucket.")] = "gpu",
    as_json: Json = False,
) -> None:
    """Take everything that a run has made into this checkout; nothing is executed."""
    from sentinel.pipelines.pull import pull

    pulled = pull(run, profile)
    show(pulled.summary(), as_json)
    if as_json:
        emit(pulled._asdict())


@app.command(rich_help_panel=RUNS)
def propose(
    pattern: Annotated[str, typer.Option(help="The weakness, in words that the generator knows, or as knob=value.")],
    count: Annotated[int, typer.Option("--n", min=1, max=10_000, help="Tasks wanted.")] = 20,
    world: Annotated[Literal["tau2", "synthetic"], typer.Option(help="Whose users and orders.")] = "tau2",
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The file, in tau2's format.")] = Path(
        "tasks.json"
    ),
    seed: Annotated[int, typer.Option(help="Another seed gives other tasks.")] = 0,
    as_json: Json = False,
) -> None:
    """Make tasks for a weakness, through all gates that need no policy; tau2 itself can run them."""
    from sentinel.artifacts import write_json
    from sentinel.proposer.tool import propose_for

    made = propose_for(pattern, count, world, seed)
    write_json(output, made.document["tasks"])
    show(f"{made.summary()}\nwrote {output}", as_json)
    if as_json:
        emit(made.document)


@app.command(rich_help_panel=CHECKS)
def doctor(
    profile: Annotated[str, typer.Option(envvar="SENTINEL_PROFILE", help="Where runs shall happen.")] = "gpu",
    as_json: Json = False,
) -> None:
    """Check what submitting needs (hook, versions, endpoint, bucket, secrets, GPUs), and say how to mend it."""
    from sentinel.pipelines.doctor import examine
    from sentinel.pipelines.findings import State

    findings = list(examine(profile))
    for name, state, found, mend in findings:
        show(f"{state:<8} {name}: {found}" + (f"\n         {mend}" if mend else ""), as_json)
    if as_json:
        emit([finding._asdict() for finding in findings])
    if any(finding.state is State.broken for finding in findings):
        raise typer.Exit(1)


@app.command("check-env", rich_help_panel=CHECKS)
def check_env(
    spec: Annotated[Path | None, typer.Argument(metavar="[SPEC]", help="An experiment.", show_default=False)] = None,
    domain: Annotated[str | None, typer.Option(help="Or a domain of tau2: retail, airline, telecom.")] = None,
    as_json: Json = False,
) -> None:
    """Compare our reward with tau2's on every real task; or, of any domain, replay and score the gold agent."""
    from sentinel.stages.progress import Progress

    if (spec is None) is (domain is None):
        raise typer.BadParameter("name either an experiment file or, with --domain, a domain")
    progress = Progress("check-env")
    if domain:
        from sentinel.env.domains import Domain, check_domain

        subject = Domain(domain)
        progress.start(len(subject.tasks), "tasks")
        report: Any = check_domain(subject, progress.advance)
    elif spec:
        from sentinel.env import check
        from sentinel.spec.load import load

        tasks, world = check.subject(load(spec).experiment.spec)
        progress.start(len(tasks), "tasks")
        report = check.check_env(tasks, world, advance=progress.advance)
    progress.close()
    show(report.summary(), as_json)
    if as_json:
        emit(report.model_dump(mode="json"))
    if not report.sound:
        raise typer.Exit(1)


@app.command(rich_help_panel=CHECKS)
def regrade(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tau2 result file, or a trajectories.jsonl of ours.")],
    as_json: Json = False,
) -> None:
    """Score stored episodes again without inference; exit code 1 if a reward in the file differs from ours."""
    from time import perf_counter

    from sentinel.evaluation.regrade import regrade

    began = perf_counter()
    result = regrade(file)
    seconds = round(perf_counter() - began, 3)
    show(f"{result.summary()}\n{seconds} s", as_json)
    if as_json:
        emit({**result.model_dump(mode="json"), "seconds": seconds})
    if result.agreeing < result.compared:
        raise typer.Exit(1)


@app.command(rich_help_panel=CHECKS)
def diagnose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tau2 result file, or a trajectories.jsonl of ours.")],
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the failed dialogues to this file.")] = None,
    min_support: Annotated[int, typer.Option(min=1, help="Failures that make a recurring error.")] = 2,
) -> None:
    """Explain every failed episode: the decisive step, whose fault it was, and which errors recur."""
    from sentinel.controller.page import check_target, write_page
    from sentinel.controller.report import diagnose_file, table

    if html is not None:
        check_target(html, file)
    report = diagnose_file(file, min_support)
    show(table(report.document), as_json)
    if html is not None:
        write_page(html, report)
        say(f"wrote {html}")
    if as_json:
        emit(report.document.model_dump(mode="json"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 a stage failed, 2 something the user can mend."""
    try:
        app(arguments, prog_name="sentinel")
    except SentinelError as error:
        _refuse(error)
    except ModuleNotFoundError as error:
        if not (missing := MissingExtraError.of(error)):
            raise
        _refuse(missing)


def _refuse(error: SentinelError) -> NoReturn:
    say(str(error))
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
