"""Rollouts as Kubeflow sees them: a policy in, trajectories out."""

from kfp.dsl import Dataset, Input, Model, Output

from sentinel.components.wrap import component


@component
def rollout(run: str, job: str, policy: Input[Model], trajectories: Output[Dataset]) -> None:
    """The policy plays tasks of its pool."""
    from sentinel.pod import main

    main("rollout", run, job, [policy], trajectories)
