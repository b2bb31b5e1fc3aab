"""A node of a TrainJob: `python -m sentinel.pod.node`, the command of the TrainingRuntime in charts/sentinel.

Node 0 does what a pod does: it lays out a folder from the baton that the launcher left in the bucket, runs the stage
through DVC, and sends what it made. The others take the policy from the bucket and serve as ranks until that is done.
What a node must know stands in its environment: `SENTINEL_ORDER` from the launcher, `PET_*` from Kubeflow Trainer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from sentinel.artifacts import write_text
from sentinel.errors import StageError
from sentinel.plan import Stage
from sentinel.pod.baton import Baton
from sentinel.pod.bus import Bus, noted, open_bucket
from sentinel.pod.folder import Place
from sentinel.pod.main import perform, planned, reporting, working_folder
from sentinel.runner.child import environment
from sentinel.spec.launcher import PodLauncher
from sentinel.spec.profile import DeepSpeedTrainer, load_profile, profile_file
from sentinel.stages.parent import die_with

ORDER = "SENTINEL_ORDER"
"""Environment variable with the order, as JSON."""
LOOK = 15.0
"""Seconds between two looks of a further node whether the stage is done."""
GRACE = 30.0
"""Seconds that ranks have to end by themselves once the stage is done."""


class Told(BaseModel):
    """What the launcher says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    run: str
    stage: str
    job: str


class Seat(NamedTuple):
    """Where this node sits, as Kubeflow Trainer's torch runtime says."""

    node: int
    nodes: int
    rendezvous: str

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Seat:
        """From `PET_NODE_RANK`, `PET_NNODES`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`."""
        try:
            rendezvous = f"{variables['PET_MASTER_ADDR']}:{variables['PET_MASTER_PORT']}"
            return cls(int(variables["PET_NODE_RANK"]), int(variables["PET_NNODES"]), rendezvous)
        except (KeyError, ValueError) as error:
            raise StageError(
                f"this is no node of a TrainJob ({type(error).__name__}: {error})\n"
                "    Kubeflow Trainer sets PET_NODE_RANK, PET_NNODES, PET_MASTER_ADDR and PET_MASTER_PORT"
            ) from None


@dataclass
class Nowhere:
    """An output that nobody is shown: the launcher takes the baton from the bucket."""

    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


def before(stage: str) -> str:
    """Name of the baton that the launcher leaves for a stage."""
    return f"{stage}-before"


def main() -> None:
    """Be a node.

    Raises:
        SystemExit: The stage failed, or a rank did; the message is on stderr.
    """
    with reporting():
        if ORDER not in os.environ:
            raise StageError(f"{ORDER} is not set: nodes are started by the launcher of a training")
        told, seat, place = Told.model_validate_json(os.environ[ORDER]), Seat.read(os.environ), Place.here()
        baton = _baton(told, place)
        with working_folder(baton) as folder:
            stage = planned(baton, folder).find(told.kind, told.run)
            trainer = settle(folder, seat)
            if seat.node == 0:
                with TemporaryDirectory() as scratch:
                    perform(stage, baton, Bus(folder, told.job), folder, Nowhere(f"{scratch}/baton"))
            else:
                assist(stage, told.job, folder, seat, trainer, place)


def _baton(told: Told, place: Place) -> Baton:
    """What the launcher left for this stage."""
    with open_bucket(place) as store:
        found = noted(store, told.job, before(told.stage))
    if found is None:
        raise StageError(f"run {told.job} left no baton for {told.stage} in the bucket: is it the launcher's?")
    return found


def settle(folder: Path, seat: Seat) -> DeepSpeedTrainer:
    """Have the stage in this folder meet its nodes where the TrainJob says; returns the trainer's section."""
    with chdir(folder):
        profile, path = load_profile(), profile_file()
        trainer = profile.spec.trainer
        if not isinstance(trainer, DeepSpeedTrainer):
            raise StageError(f"{path}: only `trainer: {{type: deepspeed}}` is spread over nodes")
        here = {"launcher": PodLauncher(), "rendezvous": seat.rendezvous, "nodes": seat.nodes}
        met = trainer.model_copy(update=here)
        placed = profile.model_copy(update={"spec": profile.spec.model_copy(update={"trainer": met})})
        write_text(path, placed.model_dump_json(exclude_none=True))
    return met


def assist(stage: Stage, job: str, folder: Path, seat: Seat, trainer: DeepSpeedTrainer, place: Place) -> None:
    """Serve as ranks until the stage is done."""
    if policy := stage.inputs.get("policy"):
        Bus(folder, job).fetch(policy)
    with chdir(folder):
        spec = load_profile().spec
    command = [sys.executable, "-m", "sentinel.solver.rank", f"--node={seat.node}", f"--nodes={seat.nodes}"]
    command += [f"--ranks={trainer.ranks}", f"--rendezvous={seat.rendezvous}", f"--device={spec.device}"]
    threads = str(max(1, spec.threads // trainer.ranks))
    ranks = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(), "OMP_NUM_THREADS": threads},
        start_new_session=True,
        preexec_fn=partial(die_with, os.getpid()),
    )
    try:
        _until_done(ranks, stage, job, place)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(ranks.pid, signal.SIGKILL)
        ranks.wait()


def _until_done(ranks: subprocess.Popen[bytes], stage: Stage, job: str, place: Place) -> None:
    """Wait for the ranks to end, or for the stage to be done without them (its result was in the bucket already)."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            if code := ranks.wait(LOOK):
                raise StageError(f"{stage.name}: a rank of this node ended with code {code}; see above")
            return
        with open_bucket(place) as store:
            done = noted(store, job, stage.name) is not None
        if done:
            with suppress(subprocess.TimeoutExpired):
                ranks.wait(GRACE)
            return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
