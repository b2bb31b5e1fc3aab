"""The container of the trainer: here, or on nodes of a TrainJob, as the profile says."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path

from sentinel.artifacts import read_json
from sentinel.errors import StageError
from sentinel.launch.follow import QUEUE, Jobs, Order, follow
from sentinel.launch.trainjobs import TrainJobs
from sentinel.plan import Stage
from sentinel.pod.baton import Baton, merge
from sentinel.pod.bus import Bus, note, noted, open_store
from sentinel.pod.main import Artifact, hand_on, perform, planned, reporting, working_folder
from sentinel.pod.node import ORDER, before
from sentinel.spec.cluster import Cluster, Resources
from sentinel.spec.launcher import TrainJobLauncher
from sentinel.spec.profile import DeepSpeedTrainer, ProfileSpec, load_profile

CARRIED = "SENTINEL_"
"""Variables of this container whose names begin so are the nodes', too."""
Connect = Callable[[Cluster, TrainJobLauncher], Jobs]


def connect(cluster: Cluster, launcher: TrainJobLauncher) -> Jobs:
    """The TrainJobs of the cluster in which this container is."""
    return TrainJobs.connect(cluster.namespace, launcher.runtime)


def main(
    kind: str, run: str, job: str, inputs: Sequence[Artifact], output: Artifact, connect: Connect = connect
) -> None:
    """Run the stage `kind` of the folder `run`, here or on nodes of their own, and hand on the baton.

    Args:
        kind: Kind of the stage: `warmup` or `train`.
        run: Its folder, for example `runs/retail/02`.
        job: Kubeflow's id of the run.
        inputs: Batons of the stages before.
        output: The baton after this stage; its metadata says what the stage wrote.
        connect: Where TrainJobs run.

    Raises:
        SystemExit: The stage failed; the message is on stderr.
    """
    with reporting():
        baton = merge(read_json(Path(item.path), Baton) for item in inputs)
        with working_folder(baton) as folder:
            stage, bus = planned(baton, folder).find(kind, run), Bus(folder, job)
            with chdir(folder):
                place = load_profile().spec
            launcher, cluster = place.launches, place.cluster
            if launcher is None or cluster is None:
                perform(stage, baton, bus, folder, output)
                return
            order = ordered(stage, job, baton, place, launcher)
            after = launched(
                lambda: connect(cluster, launcher), order, stage, baton, bus, folder, launcher.timeout_hours
            )
            hand_on(stage, after, output, trainjob=order.name, run=job)


def launched(
    jobs: Callable[[], Jobs], order: Order, stage: Stage, baton: Baton, bus: Bus, folder: Path, hours: int
) -> Baton:
    """The baton after the stage: left by an earlier attempt, or by the TrainJob."""
    bus.check(stage.name)
    with open_store(folder) as store:
        if after := noted(store, bus.job, stage.name):
            return after
        note(store, bus.job, before(stage.name), baton)
    place = jobs()
    follow(place, order, hours * 3600.0)
    with open_store(folder) as store:
        made = noted(store, bus.job, stage.name)
    if made is None:
        raise StageError(f"TrainJob {order.name} is complete, but {stage.name} is not in the bucket; see its log")
    place.delete(order.name)
    return made


def ordered(stage: Stage, job: str, baton: Baton, place: ProfileSpec, launcher: TrainJobLauncher) -> Order:
    """What the TrainJob of a stage is to be; the same for the same run and stage."""
    assert isinstance(place.trainer, DeepSpeedTrainer) and place.cluster is not None
    told = {"kind": stage.kind, "run": stage.run, "stage": stage.name, "job": job}
    environment = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
    queue = {QUEUE: launcher.queue} if launcher.queue else {}
    return Order(
        name=job_name(stage.name, job),
        image=baton.parameters["image_trainer"],
        nodes=place.trainer.nodes,
        resources=_resources(place.cluster.roles.get("trainer", Resources())),
        environment={**environment, **place.cluster.environment, ORDER: json.dumps(told, sort_keys=True)},
        labels={"sentinel.dev/role": "trainer", "sentinel.dev/stage": stage.name[:63], **queue},
        seconds=launcher.timeout_hours * 3600,
    )


def job_name(stage: str, job: str) -> str:
    """A name for the TrainJob of a stage in a run; short, as names of its pods are made of it, and of RFC 1035."""
    short = hashlib.sha256(f"{job}/{stage}".encode()).hexdigest()[:8]
    return f"{'' if stage[0].isalpha() else 'x'}{stage[:30].rstrip('-')}-{short}"


def _resources(wanted: Resources) -> dict[str, str]:
    gpus = str(wanted.gpus) if wanted.gpus else None
    found = {"cpu": wanted.cpu, "memory": wanted.memory, wanted.gpu_resource: gpus}
    return {name: value for name, value in found.items() if value}
