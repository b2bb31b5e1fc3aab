"""Plan -> the text of dvc.yaml, and everything that keeps it true: drift check, stale lock entries, stale runs.

`dvc repro` in a fresh clone must be safe on a laptop, so the root `dvc.yaml` holds one small experiment and its base;
every other experiment has `experiments/<name>/dvc.yaml`, and a study `experiments/studies/<name>/dvc.yaml` with all its
members, which run only when they are named. A base stands in exactly one file: that of the experiment that bears its
name, or else of the first that names it; DVC finds it from the others.
"""

from __future__ import annotations

import difflib
import io
import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sentinel.artifacts import write_text
from sentinel.catalogue import HEADER, Known, compiled_files
from sentinel.errors import SentinelError
from sentinel.plan import RUNS, Plan, Stage, plan

COMMAND = "sentinel stage"
CODE = "sentinel"


class DriftError(SentinelError):
    """A compiled file is not what the experiments say; the message is the difference."""

    exit_code = 1


def owners(known: Iterable[Known]) -> dict[str, str]:
    """Base -> the experiment whose file holds its stages."""
    users: dict[str, list[str]] = {}
    for item in known:
        users.setdefault(item.experiment.spec.base.name, []).append(item.name)
    return {base: base if base in names else min(names) for base, names in users.items()}


def command(stage: Stage, item: Known) -> str:
    """The one command of a stage, the same on a laptop and in a pod.

    A spec stage carries the number of iterations, so that `dvc exp run -S …spec.iterations=…`, which changes the
    spec but not this file, fails instead of running the old ones.
    """
    line = f"{COMMAND} {stage.kind} --run {stage.run}"
    if stage.kind != "spec":
        return line
    return f"{line} --spec {item.chain[0]} --iterations {item.experiment.spec.iterations}"


def _rendered(stage: Stage, plan_: Plan, item: Known, folder: str, code: bool) -> dict[str, Any]:
    rendered: dict[str, Any] = {"wdir": "../" * folder.count("/") + ".."} if folder else {}
    rendered["cmd"] = command(stage, item)
    if stage.kind == "spec":
        rendered["deps"] = [*item.chain, *([CODE] if code else [])]
    elif deps := plan_.files(stage):
        rendered["deps"] = list(deps)
    if stage.params:
        rendered["params"] = [{stage.spec: list(stage.params)}]
    plots = [output.path for output in stage.outputs if output.plot]
    metrics = [output.path for output in stage.outputs if output.metric]
    outs = [output.path for output in stage.outputs if not output.plot and not output.metric]
    sections: dict[str, list[Any]] = {
        "outs": outs,
        "metrics": metrics,
        "plots": [{path: {"x": "iteration", "y": "pass_hat_1"}} for path in plots],
    }
    return rendered | {key: value for key, value in sections.items() if value}


def render(items: Sequence[Known], *, bases: Container[str], code: bool = True) -> str:
    """The text of the DVC file of one experiment, or of all members of a study.

    Args:
        items: what the file holds.
        bases: names of the experiments among them that bring the stages of their base.
        code: whether the package's sources lie in the project.
    """
    folder, stages = items[0].file.rpartition("/")[0], {}
    for item in items:
        plan_ = plan(item.experiment)
        for stage in plan_.stages if item.name in bases else plan_.own:
            stages[stage.name] = _rendered(stage, plan_, item, folder, code)
    document = {"stages": stages}
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(document, text)
    return f"{HEADER}{items[0].chain[0]}\n# Do not edit: change the spec and compile again.\n{text.getvalue()}"


def compile_all(known: Sequence[Known], project: Path) -> dict[str, str]:
    """Path -> text of the DVC file of every experiment and study."""
    bases = set(owners(known).values())
    code = (project / CODE / "plan.py").is_file()
    files: dict[str, list[Known]] = {}
    for item in known:
        files.setdefault(item.file, []).append(item)
    return {file: render(items, bases=bases, code=code) for file, items in files.items()}


def compile_one(item: Known, known: Sequence[Known], project: Path) -> dict[str, str]:
    """What one experiment needs: its own file, and those that hold the bases of all that stand there."""
    holds, files = owners(known), {each.name: each.file for each in known}
    bases = {each.experiment.spec.base.name for each in known if each.file == item.file}
    needed = {item.file, *(files[holds[base]] for base in bases)}
    return {path: text for path, text in compile_all(known, project).items() if path in needed}


def orphans(compiled: Mapping[str, str], project: Path) -> list[str]:
    """Compiled files whose experiment is gone."""
    names = (file.relative_to(project).as_posix() for file in compiled_files(project))
    return [name for name in names if name not in compiled]


def difference(compiled: Mapping[str, str], project: Path) -> str:
    """A unified diff from the files on disk to what they should be; empty if there is none."""
    parts: list[str] = []
    for name, text in compiled.items():
        path = project / name
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        parts += difflib.unified_diff(
            found.splitlines(keepends=True), text.splitlines(keepends=True), f"{name} (found)", f"{name} (expected)"
        )
    return "".join(parts)


def require_no_drift(compiled: Mapping[str, str], project: Path) -> None:
    """Raise `DriftError` with the difference unless the compiled files on disk are what they should be."""
    faults = [f"{name}: its experiment is gone\n" for name in orphans(compiled, project)]
    if diff := difference(compiled, project):
        faults.append(diff)
    if faults:
        raise DriftError("".join(faults) + "compiled files do not match experiments/: run `sentinel compile`")


def write(compiled: Mapping[str, str], project: Path) -> list[str]:
    """Write the files that differ; returns their paths."""
    changed = [name for name, text in compiled.items() if difference({name: text}, project)]
    for name in changed:
        write_text(project / name, compiled[name])
    return changed


def remove(names: Iterable[str], project: Path, keep: Container[str]) -> None:
    """Delete compiled files whose experiment is gone, with their locks and the runs recorded there."""
    for name in names:
        path = project / name
        path.write_text("stages: {}\n", encoding="utf-8")
        prune(path, project, keep)
        for file in (path, path.with_suffix(".lock")):
            file.unlink(missing_ok=True)
        if path.parent != project and not any(path.parent.iterdir()):
            path.parent.rmdir()


def outputs(known: Iterable[Known]) -> set[str]:
    """Everything that the experiments write."""
    return {output.path for item in known for stage in plan(item.experiment).stages for output in stage.outputs}


def prune(dvcfile: Path, project: Path, keep: Container[str]) -> list[str]:
    """Drop lock entries of stages that left the plan, and their outputs from the workspace (DVC's cache keeps them).

    DVC itself leaves both behind when an experiment shrinks. Outputs in `keep` stay: another file's stage writes them.
    Returns the names of the stages that were dropped.
    """
    lock = dvcfile.with_suffix(".lock")
    yaml = YAML()
    try:
        document = yaml.load(lock)
        stages = document["stages"]
        planned = YAML(typ="safe", pure=True).load(dvcfile)["stages"]
    except (FileNotFoundError, YAMLError, KeyError, TypeError):
        return []
    stale = [name for name in stages if name not in planned]
    for name in stale:
        for output in stages.pop(name).get("outs", ()):
            if output["path"] not in keep:
                _remove_output(project, output["path"])
    if stale:
        text = io.StringIO()
        yaml.dump(document, text)
        write_text(lock, text.getvalue())
    return stale


def _remove_output(project: Path, name: str) -> None:
    path, runs = project / name, (project / RUNS).resolve()
    if not path.resolve().is_relative_to(runs):
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent.resolve() == runs or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()
