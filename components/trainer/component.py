"""The Solver as Kubeflow sees it: tasks in, a policy out."""

from kfp.dsl import Dataset, Input, Model, Output

from sentinel.components.wrap import component


@component
def warmup(run: str, job: str, tasks: Input[Dataset], policy: Output[Model]) -> None:
    """The starting policy of a base."""
    from sentinel.launch import main

    main("warmup", run, job, [tasks], policy)


@component
def train(run: str, job: str, tasks: Input[Dataset], policy: Output[Model]) -> None:
    """One iteration of reinforcement learning."""
    from sentinel.launch import main

    main("train", run, job, [tasks], policy)
