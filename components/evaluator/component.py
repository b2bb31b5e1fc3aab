"""The Evaluator as Kubeflow sees it: policies in, figures out; it also begins and ends every run."""

from kfp.dsl import HTML, Artifact, Input, Markdown, Metrics, Model, Output, PipelineTaskFinalStatus

from sentinel.components.wrap import component


@component
def begin(run: str, job: str, project: str, parameters: str, spec: Output[Artifact]) -> None:
    """Resolve the spec of the experiment."""
    from sentinel.pod.main import begin as main

    main(run, job, project, parameters, spec)


@component
def resume(previous: str, job: str, project: str, parameters: str, policy: Output[Model]) -> None:
    """Take over what an earlier run has done."""
    from sentinel.pod.main import resume as main

    main(previous, job, project, parameters, policy)


@component
def base(run: str, job: str, spec: Input[Artifact], resolved: Output[Artifact]) -> None:
    """Resolve the spec of the base."""
    from sentinel.pod import main

    main("spec", run, job, [spec], resolved)


@component
def evaluate_base(run: str, job: str, policy: Input[Model], trials: Output[Artifact]) -> None:
    """Measure the starting policy."""
    from sentinel.pod import main

    main("evaluate", run, job, [policy], trials)


@component
def evaluate(run: str, job: str, policy: Input[Model], before: Input[Artifact], trials: Output[Artifact]) -> None:
    """Measure the policy of an iteration."""
    from sentinel.pod import main

    main("evaluate", run, job, [policy, before], trials)


@component
def report(
    run: str,
    job: str,
    trials: Input[Artifact],
    result: Output[Artifact],
    summary: Output[Metrics],
    page: Output[HTML],
    tables: Output[Markdown],
) -> None:
    """The figures of all iterations."""
    from sentinel.pod.report import report as main

    main(run, job, trials, result, summary, page, tables)


@component
def finish(job: str, status: PipelineTaskFinalStatus, page: Output[HTML], tables: Output[Markdown]) -> None:
    """Say what exists, however the run ended."""
    from sentinel.pod.finish import finish as main

    main(job, status.state, status.error_message or "", page, tables)
