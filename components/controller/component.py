"""The Controller as Kubeflow sees it: trajectories in, a directive out."""

from kfp.dsl import Artifact, Dataset, Input, Output

from sentinel.components.wrap import component


@component
def control(run: str, job: str, trajectories: Input[Dataset], directive: Output[Artifact]) -> None:
    """Failed trajectories to patterns and a directive."""
    from sentinel.pod import main

    main("control", run, job, [trajectories], directive)
