"""The Proposer as Kubeflow sees it: a directive in, tasks out; and the tasks before the loop starts."""

from kfp.dsl import Artifact, Dataset, Input, Output

from sentinel.components.wrap import component


@component
def seed(run: str, job: str, spec: Input[Artifact], tasks: Output[Dataset]) -> None:
    """The world, the held-out tasks and the first training tasks."""
    from sentinel.pod import main

    main("seed", run, job, [spec], tasks)


@component
def propose(run: str, job: str, directive: Input[Artifact], tasks: Output[Dataset]) -> None:
    """A directive to tasks that passed every gate."""
    from sentinel.pod import main

    main("propose", run, job, [directive], tasks)
