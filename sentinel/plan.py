"""Experiment -> Plan: which stages there are, what each reads and writes, and what makes it run again. Pure.

    spec ──────────── params of every stage of the experiment
    base ─ seed ─ warmup ─┬─ evaluate                                    once per base
                          └─ rollout ─ control ─ propose ─ train ─ evaluate   per iteration
                                                             └─ the next rollout
    report                                                               over all of them

The plan is rendered to `dvc.yaml` (`sentinel.dvcfile`); whatever else will run the stages starts from it too.
A stage sees only the sections of the spec that stand in its row below: what it may read is what reruns it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sentinel.errors import SentinelError
from sentinel.spec.models import OWN_TASKS, STORED, Experiment, ExperimentSpec

RUNS = "runs"
SCORES, PLOTS = "scores.json", "curve.json"
BENCHMARK_TASKS = {"tau2-base": 114, "tau2-test": 40}


class Kind(NamedTuple):
    """A row of the table of stages: image, files written (a trailing slash marks a folder) and sections read."""

    component: str
    files: tuple[str, ...]
    sections: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "seed": Kind(
        "proposer",
        ("world.json", "general.jsonl", "dev.jsonl", "evaluate.jsonl", "demonstrations.jsonl", "manifest.json"),
        ("base", "environment", "seed_tasks"),
    ),
    "warmup": Kind("trainer", ("policy/", "warmup.jsonl"), ("base", "environment", "policy", "warmup")),
    "evaluate": Kind("evaluator", ("trials.jsonl", "metrics.json"), ("base", "environment", "policy", "evaluator")),
    "rollout": Kind("rollout", ("trajectories.jsonl", "rates.json"), ("seed", "environment", "policy", "rollout")),
    "control": Kind(
        "controller",
        ("failures.jsonl", "patterns.jsonl", "directive.json", "history.json"),
        ("seed", "environment", "controller", "proposer"),
    ),
    "propose": Kind(
        "proposer",
        ("tasks.jsonl", "parked.jsonl", "probes.jsonl", "rejected.jsonl", "yield.json", "lift.json"),
        ("seed", "environment", "policy", "rollout", "proposer"),
    ),
    "train": Kind(
        "trainer",
        (
            *("policy/", "pool.jsonl", "resting.jsonl", "memory.json"),
            *("curriculum.jsonl", "trajectories.jsonl", "metrics.jsonl"),
        ),
        ("seed", "environment", "policy", "curriculum", "trainer"),
    ),
    "report": Kind(
        "evaluator",
        ("report.html", "report.md", "metrics.json", SCORES, PLOTS),
        tuple(ExperimentSpec.model_fields),
    ),
}
"""Every stage that computes something, in the order of the data; `spec` stands apart: it makes their params."""


class Output(NamedTuple):
    """A file or folder that a stage writes; all are cached, and DVC shows scores and plots."""

    path: str
    folder: bool = False

    @property
    def metric(self) -> bool:
        """Whether DVC shows it as a metric: a row of few figures."""
        return self.path.endswith("/" + SCORES)

    @property
    def plot(self) -> bool:
        """Whether DVC shows it as a plot."""
        return self.path.endswith("/" + PLOTS)


@dataclass(frozen=True)
class Stage:
    """One command that reads files and writes files. All paths are relative to the project."""

    name: str
    kind: str
    component: str
    iteration: int
    """0 for the stages of the base, of the spec and of the report."""
    run: str
    """The folder that `sentinel stage KIND --run FOLDER` names."""
    inputs: Mapping[str, str]
    """Label -> file, or folder of which all files are read."""
    output: str
    outputs: tuple[Output, ...]
    params: tuple[str, ...]
    """Dotted paths into the run's `spec.yaml`."""

    @property
    def spec(self) -> str:
        """The file that the params come from."""
        return spec_file(self.run)

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the spec that the stage may read."""
        return tuple(param.removeprefix("spec.") for param in self.params if param.startswith("spec."))


@dataclass(frozen=True)
class Plan:
    """The stages of one experiment in an order in which they can run; the first `len(base)` belong to its base."""

    experiment: str
    base_name: str
    base: tuple[Stage, ...]
    own: tuple[Stage, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages: the base's, then the experiment's own."""
        return self.base + self.own

    def find(self, kind: str, run: str) -> Stage:
        """The stage that `sentinel stage kind --run run` names."""
        for stage in self.stages:
            if (stage.kind, stage.run) == (kind, run):
                return stage
        known = ", ".join(sorted({stage.run for stage in self.stages if stage.kind == kind}))
        raise SentinelError(f"{run}: experiment '{self.experiment}' has no stage '{kind}' there: {known or 'none'}")

    def files(self, stage: Stage) -> tuple[str, ...]:
        """What a stage reads: a file or policy by its own path, of a folder the files (and not the policies)."""
        outputs = {output.path: output for planned in self.stages for output in planned.outputs}
        found: list[str] = []
        for path in stage.inputs.values():
            below = [name for name, output in outputs.items() if name.startswith(path + "/") and not output.folder]
            found += [path] if path in outputs or not below else below
        return tuple(dict.fromkeys(found))


def base_folder(name: str) -> str:
    """Where the stages of a base write."""
    return f"{RUNS}/bases/{name}"


def run_root(run: str) -> str:
    """`runs/E/02` -> `runs/E`; `runs/bases/B` is its own root."""
    parts = run.split("/")
    return "/".join(parts[: 3 if parts[1:2] == ["bases"] else 2])


def spec_file(run: str) -> str:
    """The resolved spec of the run that a folder belongs to."""
    return f"{run_root(run)}/spec.yaml"


def _stage(name: str, kind: str, run: str, output: str, inputs: Mapping[str, str], iteration: int = 0) -> Stage:
    row = KINDS[kind]
    outputs = tuple(Output(f"{output}/{file}".rstrip("/"), file.endswith("/")) for file in row.files)
    params = (*(f"spec.{section}" for section in row.sections), f"code.{kind}")
    return Stage(name, kind, row.component, iteration, run, inputs, output, outputs, params)


def _spec_stage(name: str, run: str) -> Stage:
    return Stage(name, "spec", "evaluator", 0, run, {}, run, (Output(spec_file(run)),), ())


def _base(spec: ExperimentSpec) -> tuple[Stage, ...]:
    name, own = spec.base.name, spec.own_files
    run = base_folder(name)
    extra = {"extra": own[OWN_TASKS]} if OWN_TASKS in own else {}
    stored = {"stored": own[STORED]} if STORED in own else {}
    tasks, policy = f"{run}/tasks", f"{run}/policy"
    return (
        _spec_stage(f"{name}-base", run),
        _stage(f"{name}-seed", "seed", run, tasks, extra),
        _stage(f"{name}-warmup", "warmup", run, run, {"tasks": tasks, **stored}),
        _stage(f"{name}-evaluate", "evaluate", run, f"{run}/evaluate", {"policy": policy, "tasks": tasks}),
    )


def _iteration(experiment: str, base: str, i: int) -> Iterable[Stage]:
    tasks = f"{base_folder(base)}/tasks"
    here, previous = f"{RUNS}/{experiment}/{i:02d}", f"{RUNS}/{experiment}/{i - 1:02d}"
    policy = f"{previous}/train/policy" if i > 1 else f"{base_folder(base)}/policy"
    pool = f"{previous}/train/pool.jsonl" if i > 1 else f"{tasks}/general.jsonl"
    history = {f"previous_{kind}": f"{previous}/{kind}" for kind in ("control", "propose", "train")} if i > 1 else {}
    resting = {"resting": f"{previous}/train/resting.jsonl"} if i > 1 else {}
    memory = {"memory": f"{previous}/train/memory.json"} if i > 1 else {}
    rates = {"rates": f"{here}/rollout/rates.json"}
    inputs = {
        "rollout": {"policy": policy, "pool": pool, "tasks": tasks},
        "control": {"rollout": f"{here}/rollout", **history},
        "propose": {"control": f"{here}/control", "pool": pool, "policy": policy, "tasks": tasks, **resting},
        "train": {
            "policy": policy,
            "pool": pool,
            "propose": f"{here}/propose",
            "tasks": tasks,
            **rates,
            **resting,
            **memory,
        },
        "evaluate": {"policy": f"{here}/train/policy", "tasks": tasks},
    }
    for kind, labels in inputs.items():
        yield _stage(f"{experiment}-{kind}-{i:02d}", kind, here, f"{here}/{kind}", labels, i)


def _report(experiment: str, base: str, iterations: int) -> Stage:
    run = f"{RUNS}/{experiment}"
    inputs = {"evaluate_00": f"{base_folder(base)}/evaluate"}
    for i, kind in itertools.product(range(1, iterations + 1), ("rollout", "control", "propose", "train", "evaluate")):
        inputs[f"{kind}_{i:02d}"] = f"{run}/{i:02d}/{kind}"
    return _stage(f"{experiment}-report", "report", run, f"{run}/report", inputs)


def plan(experiment: Experiment) -> Plan:
    """The DAG of an experiment. Iterations are unrolled; folders and stage names carry their number, zero-padded."""
    name, base, iterations = experiment.metadata.name, experiment.spec.base.name, experiment.spec.iterations
    own = [_spec_stage(f"{name}-spec", f"{RUNS}/{name}")]
    for i in range(1, iterations + 1):
        own.extend(_iteration(name, base, i))
    own.append(_report(name, base, iterations))
    return Plan(name, base, _base(experiment.spec), tuple(own))


class Budget(NamedTuple):
    """Episodes of one whole experiment; what an arm may spend is everything but the evaluation."""

    diagnosis: int
    probing: int
    training: int
    evaluation: int

    @property
    def spent(self) -> int:
        """Episodes that count against the budget."""
        return self.diagnosis + self.probing + self.training


def budget(spec: ExperimentSpec) -> Budget:
    """The most episodes each purpose can take (dynamic filtering and retired tasks may leave some unplayed)."""
    solvability, held_out, trainer = spec.proposer.gates.solvability, spec.seed_tasks.evaluate, spec.trainer
    prompts = trainer.prompts_per_step * (1 + trainer.refills)
    tasks = held_out.tasks or BENCHMARK_TASKS[held_out.set]
    return Budget(
        diagnosis=spec.iterations * spec.rollout.tasks * spec.rollout.trials,
        probing=spec.iterations * spec.proposer.tasks * solvability.trials if solvability else 0,
        training=spec.iterations * trainer.steps * prompts * trainer.group_size,
        evaluation=(spec.iterations + 1) * tasks * spec.evaluator.trials,
    )
