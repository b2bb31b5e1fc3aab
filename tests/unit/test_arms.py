"""The arms of the shipped study: each compiles, spends the same budget from one base, and does what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel import catalogue, dvcfile
from sentinel.plan import budget, plan
from sentinel.proposer.conditions import conditions
from sentinel.proposer.propose import Target, targets
from sentinel.records import Constraints, Directive, Quota
from sentinel.seeds import generator
from sentinel.spec.expand import arms
from sentinel.spec.load import Loaded
from sentinel.spec.models import ExperimentSpec

STUDY = Path("experiments/studies/retail-cpu-arms.yaml")
ARMS = ["general", "uniform", "targeted", "no-history", "no-gates", "shuffled"]
NAMES = [condition.condition for condition in conditions()]
QUOTA = Quota(pattern="p", tasks=100, constraints=Constraints(knobs={"family": "refuse"}), instruction="Refuse.")
DIRECTIVE = Directive(iteration=1, quotas=(QUOTA,), explore=28)


@pytest.fixture
def study(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Loaded]]:
    monkeypatch.chdir(root)
    return arms(STUDY)


@pytest.fixture
def specs(study: dict[str, list[Loaded]]) -> dict[str, ExperimentSpec]:
    """Arm -> the spec of its first seed."""
    return {arm: members[0].experiment.spec for arm, members in study.items()}


def aims(spec: ExperimentSpec) -> list[Target]:
    return targets(spec.proposer, DIRECTIVE, [], NAMES, generator("arms"))


def test_all_arms_are_there_valid_and_compiled(study: dict[str, list[Loaded]], root: Path) -> None:
    assert list(study) == ARMS
    assert not any(catalogue.validate([STUDY], Path()).values())
    text = dvcfile.compile_all(catalogue.discover(root), root)["experiments/studies/retail-cpu-arms/dvc.yaml"]
    for members in study.values():
        assert all(stage.name in text for one in members for stage in plan(one.experiment).own)


def test_all_arms_start_from_one_base_and_are_measured_alike(study: dict[str, list[Loaded]]) -> None:
    every = [one.experiment.spec for members in study.values() for one in members]
    for section in ("environment", "base", "policy", "warmup", "seed_tasks", "rollout", "evaluator", "curriculum"):
        assert all(getattr(spec, section) == getattr(every[0], section) for spec in every), section
    assert {tuple(one.experiment.spec.seed for one in members) for members in study.values()} == {(7, 8, 9)}


def test_all_arms_spend_the_same_budget(specs: dict[str, ExperimentSpec]) -> None:
    spent = {arm: budget(spec).spent for arm, spec in specs.items()}
    assert set(spent.values()) == {budget(specs["targeted"]).spent}
    probing = {arm: budget(spec).probing for arm, spec in specs.items()}
    assert [arm for arm, episodes in probing.items() if not episodes] == ["no-gates"]
    assert {spec.proposer.tasks for spec in specs.values()} == {128}


def test_all_arms_but_the_one_without_pass_the_same_gates(specs: dict[str, ExperimentSpec]) -> None:
    gates = {arm: spec.proposer.gates for arm, spec in specs.items()}
    assert gates["no-gates"].solvability is None
    assert {gates[arm] for arm in ARMS if arm != "no-gates"} == {gates["targeted"]}


def test_general_aims_at_nothing_and_asks_nobody(specs: dict[str, ExperimentSpec]) -> None:
    assert [(each.pattern, each.tasks) for each in aims(specs["general"])] == [(None, 128)]
    assert specs["general"].controller.type == "none"


def test_uniform_aims_at_every_condition_alike_and_asks_nobody(specs: dict[str, ExperimentSpec]) -> None:
    *aimed, explored = aims(specs["uniform"])
    assert {each.pattern for each in aimed} == set(NAMES)
    assert max(each.tasks for each in aimed) - min(each.tasks for each in aimed) <= 1
    assert sum(each.tasks for each in aimed) + explored.tasks == 128
    assert specs["uniform"].controller.type == "none"


def test_targeted_follows_the_directive_and_remembers(specs: dict[str, ExperimentSpec]) -> None:
    for arm in ("targeted", "no-gates", "no-history"):
        aimed, explored = aims(specs[arm])
        assert (aimed.pattern, aimed.tasks, aimed.constraints, explored.tasks) == ("p", 100, {"family": "refuse"}, 28)
    history = {arm: getattr(specs[arm].controller, "history", None) for arm in ARMS}
    assert history == {
        "general": None,
        "uniform": None,
        "targeted": True,
        "no-history": False,
        "no-gates": True,
        "shuffled": True,
    }


def test_shuffled_has_the_sizes_of_the_directive_and_not_its_aim(specs: dict[str, ExperimentSpec]) -> None:
    aimed, explored = aims(specs["shuffled"])
    assert (aimed.tasks, explored.tasks) == (100, 28)
    assert aimed.pattern in NAMES
    assert aimed.constraints == {"condition": aimed.pattern}


def test_an_arm_differs_from_the_targeted_one_in_what_it_is_named_after(specs: dict[str, ExperimentSpec]) -> None:
    differ = {
        arm: {name for name in type(spec).model_fields if getattr(spec, name) != getattr(specs["targeted"], name)}
        for arm, spec in specs.items()
    }
    assert differ == {
        "general": {"controller", "proposer"},
        "uniform": {"controller", "proposer"},
        "targeted": set(),
        "no-history": {"controller"},
        "no-gates": {"proposer", "trainer"},
        "shuffled": {"proposer"},
    }
