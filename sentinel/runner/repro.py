"""`sentinel run`: drives `dvc repro` for one experiment, shows how far it is, and leaves nothing running behind it.

DVC decides what has to run; this module prepares the ground (compiled file, DVC folder, stale locks and runs), starts
it in a process group of its own, turns its output into progress, and prints the result's table.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from sentinel import catalogue, dvcfile, summary
from sentinel.errors import MissingExtraError, SentinelError, StageError
from sentinel.plan import RUNS, Plan, plan
from sentinel.runner.child import ending, environment, start
from sentinel.runner.narrator import Narrator
from sentinel.runner.recovery import discard_broken, release_dead
from sentinel.spec.needs import require
from sentinel.spec.profile import load_profile, profile_file
from sentinel.stages.lock import exclusive

AGAIN = "Run the same command again to continue from there."


def run(spec: Path, profile: str | None) -> None:
    """Run every stage of the experiment that is not up to date, and show the result.

    Raises:
        SentinelError: the spec is wrong, another run holds the folder, or a stage failed.
    """
    project = Path()
    items = catalogue.read_all(spec, project)
    for item in items:
        require(item.experiment.spec, load_profile(profile).spec, profile_file(profile))
    plans = [plan(item.experiment) for item in items]
    if find_spec("dvc") is None:
        raise MissingExtraError("dvc")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    stages = {stage.name for planned in plans for stage in planned.stages}
    console.print(f"{spec}: {len(stages)} stages; looking for those that have to run", markup=False)
    with exclusive("run", "another `sentinel run` works in this folder; wait for it, or stop it"):
        file = prepare(items[0], project, console)
        narrator = Narrator(console, len(stages))
        began = time.monotonic()
        with narrator:
            code = _repro(file, profile, narrator)
    if code:
        raise _failure(code, narrator)
    console.print(f"\n{narrator.outcome()} in {time.monotonic() - began:.0f} s", markup=False)
    if items[0].study:
        from sentinel.stages.arms import study_scores  # scipy, which a run that refuses its spec need not wait for

        print(f"\n{study_scores(spec, project / RUNS).summary()}")
    else:
        _show(plans[0], project)


def prepare(item: catalogue.Known, project: Path, console: Console) -> str:
    """Bring the compiled file, the DVC folder and the locks in order; returns the DVC file to reproduce."""
    known = catalogue.discover(project, [project / item.chain[0]], strict=False)
    compiled = dvcfile.compile_one(item, known, project)
    for name in dvcfile.write(compiled, project):
        console.print(f"compiled {name}", markup=False)
    _initialise(project)
    release_dead(project)
    for name in compiled:
        lock = (project / name).with_suffix(".lock")
        if discard_broken(lock):
            console.print(f"{lock} was cut short by a kill: finished stages come back from DVC's cache", markup=False)
        for stage in dvcfile.prune(project / name, project, dvcfile.outputs(known)):
            console.print(f"dropped {stage}: no longer in the plan", markup=False)
    return item.file


def _dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"dvc {' '.join(arguments)} failed:\n{done.stderr.strip()}")


def _initialise(project: Path) -> None:
    """Make the folder a DVC project; a git checkout is used where there is one, and not required."""
    root = project.resolve()
    git = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    if not (project / ".dvc").is_dir():
        how = ["--no-scm"] if git is None else [] if git == root else ["--subdir"]
        _dvc("init", "--quiet", *how)
        _dvc("config", "core.analytics", "false")
    configs = [project / ".dvc" / name for name in ("config", "config.local")]
    if git is None and not any("no_scm" in file.read_text(encoding="utf-8") for file in configs if file.is_file()):
        _dvc("config", "--local", "core.no_scm", "true")


def _repro(file: str, profile: str | None, narrator: Narrator) -> int:
    variables = environment(profile)
    if shutil.which("sentinel", path=variables["PATH"]) is None:
        raise SentinelError("the command `sentinel`, which the stages run, is not on PATH: install the package")
    process = start([sys.executable, "-m", "dvc", "repro", file], variables)
    try:
        with ending(process), process:
            assert process.stdout is not None
            for line in process.stdout:
                narrator.hear(line.rstrip("\n"))
    except SystemExit:
        narrator.console.print(f"stopped. {AGAIN}", markup=False)
        raise
    return process.returncode


def _failure(code: int, narrator: Narrator) -> SentinelError:
    """What to tell; a stage that refused its input ends the run with its own code, 2."""
    if narrator.busy:
        return StageError(f"another DVC process works in this folder: {narrator.busy}\n    wait for it, or stop it")
    where = f"stage {narrator.current} failed" if narrator.current else f"DVC failed with code {code}"
    if narrator.code == SentinelError.exit_code:
        return SentinelError(f"{where}; its message above says what to mend. Then run the same command again.")
    if narrator.code is not None and (narrator.code < 0 or narrator.code > 128):
        number = -narrator.code if narrator.code < 0 else narrator.code - 128
        why = "; for want of memory, perhaps" if number == signal.SIGKILL else ""
        return StageError(f"{where}: it was ended by {_signal(number)}{why}. {AGAIN}")
    return StageError(f"{where}; its message stands above. {AGAIN}")


def _signal(number: int) -> str:
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"signal {number}")


def _show(planned: Plan, project: Path) -> None:
    """The result, on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    report = next(stage for stage in planned.own if stage.kind == "report").output
    for renderable in summary.tables(project / report / "metrics.json", summary.seconds(planned, project)):
        console.print(renderable)
    console.print(f"\nReport: {report}/report.html", markup=False)
