"""Who starts a training that is spread over processes: the container itself, or nodes of their own.

trainer: {type: deepspeed, ranks: 8, nodes: 2, launcher: {type: trainjob}}
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sentinel.spec.cluster import ObjectName
from sentinel.spec.models import Positive, Section


class PodLauncher(Section):
    """The stage runs where it is started; further nodes, if there are any, are started by hand."""

    type: Literal["pod"] = "pod"


class TrainJobLauncher(Section):
    """The container of the trainer creates a TrainJob of Kubeflow Trainer v2, whose nodes run the stage."""

    type: Literal["trainjob"]
    runtime: ObjectName = "sentinel-torch"
    """The TrainingRuntime that charts/sentinel makes (`training.runtime`)."""
    queue: ObjectName | None = None
    """Kueue's LocalQueue in which the TrainJob waits."""
    timeout_hours: Positive = 48
    """Hours from the launch until the TrainJob is suspended, time in a queue included."""


Launcher = Annotated[PodLauncher | TrainJobLauncher, Field(discriminator="type")]
