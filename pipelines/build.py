"""Plan -> pipeline: a pure function, as `sentinel.dvcfile` is of the same plan.

    begin ─ base ─ seed ─ warmup ─┬─ evaluate ──────────────┐
                                  └─ iteration 01 ─ … ─ iteration N ─ report          finish, whatever happens

Each task hands the next a baton (`sentinel.pod.baton`), so its inputs are those of the plan, directly or through it.
An iteration is a nested pipeline of rollout, control, propose, train and evaluate. Caching is off: DVC decides.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kfp import dsl

from sentinel.artifacts import canonical
from sentinel.components.controller.component import control
from sentinel.components.evaluator.component import base, begin, evaluate, evaluate_base, finish, report, resume
from sentinel.components.proposer.component import propose, seed
from sentinel.components.rollout.component import rollout
from sentinel.components.trainer.component import train, warmup
from sentinel.pipelines.parts import Part
from sentinel.pipelines.place import Placement
from sentinel.pipelines.project import Project
from sentinel.plan import Stage
from sentinel.pod.parameters import to_text
from sentinel.spec.cluster import Role

Pipeline = Any
"""A pipeline of kfp, which has no types."""
JOB = dsl.PIPELINE_JOB_ID_PLACEHOLDER


class Step(NamedTuple):
    """What an iteration hands on."""

    policy: dsl.Model
    trials: dsl.Artifact


@dataclass(frozen=True)
class Builder:
    """The pipeline of one part."""

    project: Project
    placement: Placement
    part: Part

    def build(self, parameters: Mapping[str, str]) -> Pipeline:
        """The pipeline; the parameters are its inputs, with these values as defaults."""
        iterations = {
            i: self._iteration(i) for i in self.part.iterations(self.project.experiment.spec.iterations)
        }  # before, as a pipeline cannot be defined in another

        def body(*values: Any) -> None:
            end = self._put(finish(job=JOB), "evaluator", "finish").set_retry(0)
            with dsl.ExitHandler(end, name="experiment"):
                self._experiment(dict(zip(parameters, values, strict=True)), parameters, iterations)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        body.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind, annotation=str, default=value) for name, value in parameters.items()]
        )
        about = f"SENTINEL experiment {self.project.plan.experiment}, part {self.part.text}"
        return dsl.pipeline(name=self.project.plan.experiment, description=about)(body)

    def _experiment(
        self, given: Mapping[str, Any], parameters: Mapping[str, str], iterations: Mapping[int, Pipeline]
    ) -> None:
        baton = self.project.baton.model_copy(update={"parameters": dict(parameters)})
        first = {"project": canonical(baton.model_dump(mode="json")), "parameters": to_text(given), "job": JOB}
        if self.part.first:
            last = self._base(first)
        else:
            taken = self._put(resume(previous=self.part.previous, **first), "evaluator", "resume")
            last = Step(taken.outputs["policy"], taken.outputs["policy"])
        for i, pipeline in iterations.items():
            task = pipeline(number=i, policy=last.policy, trials=last.trials).set_display_name(f"iteration {i:02d}")
            task.set_caching_options(False)
            last = Step(task.outputs["policy"], task.outputs["trials"])
        if self.part.last:
            self._stage(report, self._find("report"), trials=last.trials)

    def _base(self, first: Mapping[str, Any]) -> Step:
        spec = self._put(begin(run=self._find("spec").run, **first), "evaluator", self._find("spec").name)
        made = {stage.kind: stage for stage in self.project.plan.base}
        resolved = self._stage(base, made["spec"], spec=spec.outputs["spec"])
        tasks = self._stage(seed, made["seed"], spec=resolved.outputs["resolved"])
        policy = self._stage(warmup, made["warmup"], tasks=tasks.outputs["tasks"]).outputs["policy"]
        trials = self._stage(evaluate_base, made["evaluate"], policy=policy).outputs["trials"]
        return Step(policy, trials)

    def _iteration(self, number: int) -> Pipeline:
        stages = {stage.kind: stage for stage in self.project.plan.own if stage.iteration == number}

        # A parameter, since kfp.local forgets the artifacts of a nested pipeline that has none (task_spec_utils.py).
        def iteration(number: int, policy: dsl.Input[dsl.Model], trials: dsl.Input[dsl.Artifact]) -> Step:
            played = self._stage(rollout, stages["rollout"], policy=policy)
            directive = self._stage(control, stages["control"], trajectories=played.outputs["trajectories"])
            tasks = self._stage(propose, stages["propose"], directive=directive.outputs["directive"])
            better = self._stage(train, stages["train"], tasks=tasks.outputs["tasks"]).outputs["policy"]
            measured = self._stage(evaluate, stages["evaluate"], policy=better, before=trials)
            return Step(better, measured.outputs["trials"])

        return dsl.pipeline(name=f"iteration-{number:02d}")(iteration)

    def _find(self, kind: str) -> Stage:
        return next(stage for stage in self.project.plan.own if stage.kind == kind)

    def _stage(self, component: Callable[..., Any], stage: Stage, **inputs: Any) -> Any:
        task = component(run=stage.run, job=JOB, **inputs)
        return self._put(task, stage.component, stage.name)

    def _put(self, task: Any, role: Role | str, name: str) -> Any:
        return self.placement.put(task, role, name)  # type: ignore[arg-type]
