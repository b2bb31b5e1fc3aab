"""The main functions of the containers: what the one-line bodies of the Kubeflow components call."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sentinel.artifacts import read_json, write_json
from sentinel.errors import SentinelError, StageError
from sentinel.fingerprint import code_hash
from sentinel.plan import Plan, Stage, plan
from sentinel.pod.baton import Baton, merge, pointers
from sentinel.pod.bus import Bus, note, open_store, read_job
from sentinel.pod.folder import Place, keep_unsent, lay_out, lock_entry
from sentinel.pod.parameters import require_unedited
from sentinel.spec.load import load
from sentinel.stages.lock import LOCKS, in_turn


class Artifact(Protocol):
    """What Kubeflow gives for an input or an output: a path, and metadata that its UI shows."""

    path: str
    metadata: dict[str, Any]


def main(kind: str, run: str, job: str, inputs: Sequence[Artifact], output: Artifact) -> None:
    """Run the stage `kind` of the folder `run`, and hand on the baton.

    Args:
        kind: Kind of the stage, for example `train`.
        run: Its folder, for example `runs/retail/02`.
        job: Kubeflow's id of the run: names the folder of its batons in the bucket.
        inputs: Batons of the stages before.
        output: The baton after this stage; its metadata says what the stage wrote.

    Raises:
        SystemExit: The stage failed; the message is on stderr.
    """
    with reporting():
        baton = merge(read_json(Path(item.path), Baton) for item in inputs)
        with working_folder(baton) as folder:
            perform(planned(baton, folder).find(kind, run), baton, Bus(folder, job), folder, output)


def begin(run: str, job: str, project: str, parameters: str, output: Artifact) -> None:
    """The first container: take the experiment's files, refuse edited parameters, resolve the spec.

    Args:
        run: Folder of the run, for example `runs/retail`.
        job: Kubeflow's id of the run.
        project: The first baton, as JSON.
        parameters: The run's parameters as Kubeflow has them, one `key=value` a line.
        output: The baton after the stage `spec`.
    """
    with reporting():
        baton = _first(project, parameters)
        with working_folder(baton) as folder:
            perform(planned(baton, folder).find("spec", run), baton, Bus(folder, job), folder, output)


def resume(previous: str, job: str, project: str, parameters: str, output: Artifact) -> None:
    """The first container of a run that continues another one: take over all that one has done.

    Args:
        previous: Kubeflow's id of the run to continue.
        job: Kubeflow's id of this run.
        project: The first baton, as JSON.
        parameters: The run's parameters as Kubeflow has them, one `key=value` a line.
        output: The baton of the earlier run.
    """
    with reporting():
        baton = _first(project, parameters)
        with working_folder(baton) as folder, open_store(folder) as store:
            earlier = read_job(store, previous)
            if earlier is None:
                raise StageError(f"run {previous} left nothing in the bucket: submit the experiment from its beginning")
            taken = merge([baton, earlier])
            note(store, job, "resumed", taken)
        write_json(Path(output.path), taken)
        output.metadata.update(previous=previous, stages=len(taken.stages))


def _first(project: str, parameters: str) -> Baton:
    baton = Baton.model_validate(json.loads(project))
    require_unedited(baton.parameters, parameters)
    if (submitted := baton.parameters["code"]) != (here := code_hash()):
        raise StageError(
            f"this image holds other code ({here}) than the checkout that submitted the run ({submitted}): build the "
            "images again (`make images`), or submit from the checkout that they were built from"
        )
    return baton


def perform(stage: Stage, baton: Baton, bus: Bus, folder: Path, output: Artifact) -> Baton:
    """Execute or restore a stage, publish it, and write the next baton."""
    dvc_file = baton.dvc_file(stage.name)
    target = f"{dvc_file}:{stage.name}"
    bus.check(stage.name)
    with in_turn(folder / LOCKS, f"pod-{stage.name}", "another pod is at this stage; waiting for its result"):
        unsent = keep_unsent(folder, stage.name)
        executed = bus.reproduce(target)
        after = baton.with_stage(stage.name, lock_entry(folder, dvc_file, stage.name))
        bus.publish(stage.name, target, after)
        if unsent:
            shutil.rmtree(unsent)
    hand_on(stage, after, output, executed=executed, run=bus.job)
    return after


def hand_on(stage: Stage, baton: Baton, output: Artifact, **about: Any) -> None:
    """Write the baton after a stage; the UI is shown what the stage wrote."""
    write_json(Path(output.path), baton)
    made = pointers(baton.stages[stage.name])
    output.metadata.update({path: f"md5 {md5}, {size} bytes" for path, md5, size in made})
    output.metadata.update(stage=stage.name, **about)


def planned(baton: Baton, folder: Path) -> Plan:
    """The plan of the baton's experiment, whose paths are relative to the folder."""
    with chdir(folder):
        return plan(load(baton.spec).experiment)


@contextmanager
def working_folder(baton: Baton) -> Iterator[Path]:
    """A fresh folder with everything but data; deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sentinel-"))
    try:
        lay_out(baton, folder, Place.here())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reporting() -> Iterator[None]:
    """What a person can mend becomes one message, without a traceback."""
    try:
        yield
    except SentinelError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(StageError.exit_code)
