"""The plan: a DAG whose stages rerun for what they read, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import SentinelError
from sentinel.plan import KINDS, Plan, budget, plan
from sentinel.spec.load import load
from sentinel.spec.models import Experiment, ExperimentSpec
from sentinel.spec.siblings import BASE_SECTIONS
from sentinel.spec.warmup import Imitation


@pytest.fixture(scope="module")
def retail(root: Path) -> Experiment:
    return load(root / "experiments" / "retail-cpu.yaml").experiment


def changed(experiment: Experiment, name: str | None = None, **sections: Any) -> Experiment:
    metadata = experiment.metadata.model_copy(update={"name": name} if name else {})
    return experiment.model_copy(update={"metadata": metadata, "spec": experiment.spec.model_copy(update=sections)})


def names_reading(planned: Plan, param: str) -> set[str]:
    return {f"{stage.kind}-{stage.iteration}" for stage in planned.stages if param in stage.params}


def test_stages_of_two_iterations(retail: Experiment) -> None:
    names = [stage.name for stage in plan(changed(retail, iterations=2)).stages]
    rounds = [
        f"retail-cpu-{kind}-{i:02d}" for i in (1, 2) for kind in ("rollout", "control", "propose", "train", "evaluate")
    ]
    base = [f"retail-cpu-{what}" for what in ("base", "seed", "warmup", "evaluate")]
    assert names == [*base, "retail-cpu-spec", *rounds, "retail-cpu-report"]


def test_every_input_was_written_before(retail: Experiment) -> None:
    planned = plan(retail)
    written: set[str] = set()
    for stage in planned.stages:
        assert set(planned.files(stage)) <= written
        assert not written & {output.path for output in stage.outputs}
        written |= {output.path for output in stage.outputs}


def test_an_iteration_continues_the_previous_one(retail: Experiment) -> None:
    planned = plan(retail)
    assert planned.find("rollout", "runs/retail-cpu/01").inputs["policy"] == "runs/bases/retail-cpu/policy"
    second = planned.find("train", "runs/retail-cpu/02")
    assert second.inputs["policy"] == "runs/retail-cpu/01/train/policy"
    assert second.inputs["pool"] == "runs/retail-cpu/01/train/pool.jsonl"
    assert {"previous_control", "previous_propose", "previous_train"} <= set(
        planned.find("control", "runs/retail-cpu/02").inputs
    )


def test_growing_keeps_the_earlier_stages(retail: Experiment) -> None:
    short, long = (plan(changed(retail, iterations=n)) for n in (2, 3))
    assert [stage for stage in short.stages if stage.kind != "report"] == [
        stage for stage in long.stages if stage.kind != "report" and stage.iteration < 3
    ]


@pytest.mark.parametrize(
    ("param", "kinds"),
    [
        ("spec.evaluator", {"evaluate", "report"}),
        ("spec.trainer", {"train", "report"}),
        ("spec.warmup", {"warmup", "report"}),
        ("spec.iterations", {"report"}),
        ("code.evaluate", {"evaluate"}),
        ("code.report", {"report"}),
    ],
)
def test_who_reads_what(retail: Experiment, param: str, kinds: set[str]) -> None:
    assert {name.partition("-")[0] for name in names_reading(plan(retail), param)} == kinds


def test_the_base_reads_no_section_in_which_its_arms_may_differ(retail: Experiment) -> None:
    read = {section for stage in plan(retail).base for section in stage.sections}
    assert read <= set(BASE_SECTIONS)


def test_every_section_is_known(retail: Experiment) -> None:
    for kind, row in KINDS.items():
        assert set(row.sections) <= set(ExperimentSpec.model_fields), kind


def test_policies_reach_only_those_who_name_them(retail: Experiment) -> None:
    planned = plan(retail)
    report = planned.find("report", "runs/retail-cpu")
    assert not [path for path in planned.files(report) if path.endswith("policy")]
    assert "runs/retail-cpu/01/train/policy" in planned.files(planned.find("evaluate", "runs/retail-cpu/01"))


def test_own_tasks_are_an_input_of_the_seed(retail: Experiment) -> None:
    own = retail.spec.seed_tasks.model_copy(update={"extra": "experiments/own.jsonl"})
    planned = plan(changed(retail, seed_tasks=own))
    assert planned.files(planned.find("seed", "runs/bases/retail-cpu")) == ("experiments/own.jsonl",)


def test_stored_conversations_are_an_input_of_the_warmup(retail: Experiment) -> None:
    imitation = Imitation(file="experiments/stored.jsonl", steps=3)
    planned = plan(changed(retail, warmup=retail.spec.warmup.model_copy(update={"imitation": imitation})))
    before = plan(retail)
    more = {*planned.files(planned.find("warmup", "runs/bases/retail-cpu"))} - {
        *before.files(before.find("warmup", "runs/bases/retail-cpu"))
    }
    assert more == {"experiments/stored.jsonl"}


def test_an_unknown_stage_is_named(retail: Experiment) -> None:
    with pytest.raises(SentinelError, match="no stage 'train' there: runs/retail-cpu/01"):
        plan(retail).find("train", "runs/retail-cpu/99")


def test_the_budget(retail: Experiment) -> None:
    spec = retail.spec
    found = budget(spec)
    group_steps = spec.iterations * spec.trainer.steps * spec.trainer.prompts_per_step * spec.trainer.group_size
    assert found.training == group_steps * (1 + spec.trainer.refills)
    assert found.diagnosis == spec.iterations * spec.rollout.tasks * spec.rollout.trials
    assert found.evaluation == (spec.iterations + 1) * (spec.seed_tasks.evaluate.tasks or 0) * spec.evaluator.trials
    assert found.spent == found.diagnosis + found.probing + found.training
    unprobed = spec.proposer.model_copy(update={"gates": spec.proposer.gates.model_copy(update={"solvability": None})})
    assert found.probing > budget(spec.model_copy(update={"proposer": unprobed})).probing == 0
