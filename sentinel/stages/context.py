"""The harness around a stage: what it gets, and what must hold before, during and after it.

    with stage_context("train", "runs/retail-cpu/02") as context:
        train.run(context)

Before: the plan is recomputed from the run's `spec.yaml`, the lock taken, old outputs removed. During: SIGTERM ends
the stage cleanly with code 143, and on Linux the stage dies with the process that started it. After: the resume
state is deleted and the duration noted outside the artifacts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sentinel.artifacts import canonical, require, write_json
from sentinel.errors import ArtifactError, SentinelError
from sentinel.plan import KINDS, Plan, Stage, plan, spec_file
from sentinel.spec.models import Experiment, ExperimentSpec
from sentinel.spec.profile import ProfileSpec, load_profile
from sentinel.stages.lock import exclusive
from sentinel.stages.progress import Progress

HOME = Path(".sentinel")


@dataclass(frozen=True)
class Context:
    """All that a stage may know."""

    name: str
    kind: str
    iteration: int
    """0 for the stages of the base and for the report."""
    spec: ExperimentSpec
    """Only the sections that the plan names for this kind; another one is an `AttributeError`: it would not rerun."""
    inputs: Mapping[str, Path]
    """Label -> file or folder."""
    output: Path
    """The folder to write into; what the stage writes is not there yet."""
    state: Path
    """Journals and checkpoints: survives a kill, and is only ever seen again with the same params and inputs."""
    profile: ProfileSpec
    progress: Progress


def set_environment(profile: ProfileSpec) -> None:
    """Fix what numeric libraries read once, when they are imported: float results depend on the thread count."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(profile.threads)
    os.environ["GOMP_SPINCOUNT"] = "10000"  # threads wait for one another awake, but not long: others need the machine
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def visible(spec: ExperimentSpec, sections: tuple[str, ...]) -> ExperimentSpec:
    """A copy of the spec that has these sections and no others."""
    copy = spec.model_copy()
    for name in ExperimentSpec.model_fields:
        if name not in sections:
            del copy.__dict__[name]
    return copy


def _hash_file(path: Path) -> str:
    with require(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _input_files(stage: Stage, plan_: Plan) -> Iterator[Path]:
    for name in plan_.files(stage):
        found = require(Path(name))
        yield from sorted(path for path in found.rglob("*") if path.is_file()) if found.is_dir() else [found]


def content_key(stage: Stage, plan_: Plan, values: Mapping[str, Any]) -> str:
    """Identity of a stage's work: its name, its params and the bytes of its inputs."""
    params = {param: _value(values, param) for param in stage.params}
    inputs = {str(path): _hash_file(path) for path in _input_files(stage, plan_)}
    return hashlib.sha256(canonical([stage.name, params, inputs]).encode()).hexdigest()[:16]


def _value(values: Mapping[str, Any], param: str) -> Any:
    value: Any = values
    for part in param.split("."):
        value = value[part]
    return value


def _clear(stage: Stage) -> None:
    """Remove earlier outputs and what a killed attempt left under temporary names."""
    for output in stage.outputs:
        path = Path(output.path)
        for stale in (path, *path.parent.glob(f".{path.name}.*.tmp")):
            if stale.is_dir() and not stale.is_symlink():
                shutil.rmtree(stale)
            else:
                stale.unlink(missing_ok=True)
    Path(stage.output).mkdir(parents=True, exist_ok=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _check_outputs(stage: Stage) -> None:
    if missing := [output.path for output in stage.outputs if not Path(output.path).exists()]:
        raise RuntimeError(f"stage {stage.name} ended without writing {', '.join(missing)}")


@contextmanager
def stage_context(kind: str, run: str, profile: ProfileSpec) -> Iterator[Context]:
    """Everything that must hold around a stage; see the module."""
    experiment, values = read_run(run)
    plan_ = plan(experiment)
    stage = plan_.find(kind, run)
    label = f"{kind} {stage.iteration:02d}" if stage.iteration else kind
    progress = Progress(label)
    began = time.monotonic()
    with exclusive(stage.name, f"{stage.name}: another process runs this stage; wait for it, or stop it"):
        key = content_key(stage, plan_, values)
        state = HOME / "state" / stage.name / key
        resumed = state.exists() and any(state.iterdir())
        state.mkdir(parents=True, exist_ok=True)
        _clear(stage)
        inputs = {name: Path(path) for name, path in stage.inputs.items()}
        spec = visible(experiment.spec, stage.sections)
        try:
            yield Context(stage.name, kind, stage.iteration, spec, inputs, Path(stage.output), state, profile, progress)
        finally:
            progress.close()
        _check_outputs(stage)
        seconds = round(time.monotonic() - began, 2)
        write_json(HOME / "timings" / f"{stage.name}.json", {"seconds": seconds, "resumed": resumed})
        shutil.rmtree(state.parent)


def read_run(run: str) -> tuple[Experiment, dict[str, Any]]:
    """The experiment that a run folder belongs to, and its `spec.yaml` as plain data (with the code fingerprints)."""
    path = require(Path(spec_file(run)))
    try:
        values = YAML(typ="safe", pure=True).load(path)
        envelope = {key: value for key, value in values.items() if key != "code"}
        return Experiment.model_validate_json(json.dumps(envelope)), values
    except (YAMLError, AttributeError, TypeError, ValidationError) as error:
        raise ArtifactError(
            path, f"not a resolved spec: {error}", hint="delete it and run again to rebuild it"
        ) from None


def execute(kind: str, run: str, spec: Path | None, iterations: int, profile: str | None) -> None:
    """Run one stage: what `sentinel stage` does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _terminate)
    if kind == "spec":
        if spec is None:
            raise SentinelError("the stage `spec` needs the experiment file: --spec FILE")
        importlib.import_module("sentinel.stages.spec").write(run, spec, iterations, Path())
        return
    if kind not in KINDS:
        raise SentinelError(f"no stage '{kind}'; there are: spec, {', '.join(KINDS)}")
    place = load_profile(profile).spec
    set_environment(place)
    module = importlib.import_module(f"sentinel.stages.{kind}")
    with stage_context(kind, run, place) as context:
        module.run(context)
