"""The stage `spec`: writes the run's `spec.yaml`, whose values are the params of every other stage.

It holds the resolved spec and, under `code`, a fingerprint of the sources behind each kind of stage. DVC compares the
values that a stage names, not the file, so writing it again with one section changed reruns only that section's stages.
"""

from __future__ import annotations

import io
from pathlib import Path

from ruamel.yaml import YAML

from sentinel import catalogue, dvcfile
from sentinel.artifacts import write_text
from sentinel.errors import StageError
from sentinel.fingerprint import fingerprint
from sentinel.plan import KINDS, plan, spec_file
from sentinel.spec.models import Experiment


def resolved_text(experiment: Experiment, source: str) -> str:
    """The resolved spec with the code's fingerprints, as YAML in a fixed order."""
    code = {kind: fingerprint(kind) for kind in KINDS}
    text = io.StringIO()
    YAML().dump({**experiment.model_dump(mode="json"), "code": code}, text)
    return f"# Resolved from {source}; written by the stage `spec`.\n{text.getvalue()}"


def write(run: str, source: Path, iterations: int, project: Path) -> None:
    """Write `spec.yaml` of a run or a base, after checking that the compiled DVC file still fits the spec."""
    item = _named(source, run, project)
    plan(item.experiment).find("spec", run)
    if item.experiment.spec.iterations != iterations or _drifted(item, source, project):
        raise StageError(
            f"{source}: {item.file} was compiled from another version of it (for {iterations} "
            f"iterations); run `sentinel compile`, or `sentinel run {item.chain[0]}`, which does it for you"
        )
    write_text(project / spec_file(run), resolved_text(item.experiment, item.chain[0]))


def _named(source: Path, run: str, project: Path) -> catalogue.Known:
    """The experiment of the file, or the member of the study, whose own or base's folder the run is."""
    items = catalogue.read_all(source, project)
    runs = [{stage.run for stage in plan(item.experiment).stages if stage.kind == "spec"} for item in items]
    return next((item for item, own in zip(items, runs, strict=True) if run in own), items[0])


def _drifted(item: catalogue.Known, source: Path, project: Path) -> bool:
    if not (project / item.file).is_file():
        return False
    known = catalogue.discover(project, [source], strict=False)
    return bool(dvcfile.difference(dvcfile.compile_one(item, known, project), project))
