"""The last container of a run, whatever happened: says what exists, and reports the iterations that are complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sentinel.artifacts import write_text
from sentinel.evaluation.collect import collect
from sentinel.evaluation.page import html, markdown
from sentinel.evaluation.report import Report
from sentinel.plan import Plan, Stage
from sentinel.pod.baton import Baton
from sentinel.pod.bus import Bus, Store, open_store, read_job
from sentinel.pod.folder import Place
from sentinel.pod.main import Artifact, planned, reporting, working_folder
from sentinel.spec.load import load

NOTHING = "No stage was finished. The log of the first red task says why.\n"


def finish(job: str, state: str, message: str, page: Artifact, text: Artifact) -> None:
    """Show which stages are done, and the report of the complete iterations.

    Args:
        job: Kubeflow's id of the run.
        state: How the run ended, in Kubeflow's words.
        message: Kubeflow's error message, or empty.
        page: The report as a page; a line of text if there is nothing to report.
        text: The stages, then the report's tables.
    """
    with reporting():
        with _store() as store:
            baton = read_job(store, job)
        head = f"# {state.capitalize()}\n\n{message}\n\n".replace("\n\n\n", "\n")
        shown = NOTHING, f"<p>{NOTHING}</p>"
        if baton is not None:
            with working_folder(baton) as folder:
                shown = _what_exists(baton, folder, job)
        write_text(Path(text.path), head + shown[0])
        write_text(Path(page.path), shown[1])


@contextmanager
def _store() -> Iterator[Store]:
    with TemporaryDirectory() as name:
        write_text(Path(name) / ".dvc" / "config", Place.here().dvc_config())
        with open_store(Path(name)) as store:
            yield store


def _what_exists(baton: Baton, folder: Path, job: str) -> tuple[str, str]:
    """The stages and the report of what is complete, as Markdown and as a page."""
    plan_ = planned(baton, folder)
    table = stages_table(plan_, baton)
    if (count := complete(plan_, baton)) is None:
        return table, f"<pre>{table}</pre>"
    report = _report(plan_, baton, folder, job, count)
    return f"{table}\n{markdown(report)}", html(report)


def stages_table(plan_: Plan, baton: Baton) -> str:
    """Every stage, and whether it is done."""
    done = [stage for stage in plan_.stages if stage.name in baton.stages]
    rows = [f"| {stage.name} | {'done' if stage in done else 'missing'} |" for stage in plan_.stages]
    head = f"{len(done)} of {len(plan_.stages)} stages of {plan_.experiment} are done."
    return "\n".join([head, "", "| stage | |", "| --- | --- |", *rows, ""])


def complete(plan_: Plan, baton: Baton) -> int | None:
    """How many iterations are complete; `None` if not even the starting policy was evaluated."""

    def done(iteration: int, stages: tuple[Stage, ...]) -> bool:
        return all(stage.name in baton.stages for stage in stages if stage.iteration == iteration)

    if not done(0, plan_.base):
        return None
    count = 0
    while any(stage.iteration == count + 1 for stage in plan_.own) and done(count + 1, plan_.own):
        count += 1
    return count


def _report(plan_: Plan, baton: Baton, folder: Path, job: str, iterations: int) -> Report:
    """The report of the first iterations, from what the bucket has of them; policies are not fetched."""
    stage = next(stage for stage in plan_.own if stage.kind == "report")
    labels = {label: path for label, path in stage.inputs.items() if int(label[-2:]) <= iterations}
    files = [path for path in plan_.files(stage) if any(path.startswith(f"{folder_}/") for folder_ in labels.values())]
    Bus(folder, job).fetch(*files)
    with chdir(folder):
        spec = load(baton.spec).experiment.spec.model_copy(update={"iterations": iterations})
        return Report(plan_.experiment, spec, collect({name: Path(path) for name, path in labels.items()}, iterations))
