"""Studies: what they expand into, where their faults are reported, how they are compiled, and how arms are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sentinel import catalogue, dvcfile
from sentinel.artifacts import write_text
from sentinel.cli import main
from sentinel.errors import SentinelError, SpecError
from sentinel.evaluation.compare import Arm
from sentinel.evaluation.study import score
from sentinel.spec.expand import arms, members
from sentinel.spec.load import load
from sentinel.spec.models import Curriculum, Experiment
from sentinel.stages.spec import resolved_text, write
from tests.unit.evaluation_toys import SPEC, TASKS, trials, write_experiment

STUDY = """\
apiVersion: sentinel.dev/v1alpha1
kind: Study
metadata:
  name: pay
spec:
  seeds: [7, 8]
  arms:
    plain:
      extends: ../retail-cpu.yaml
    longer:
      extends: ../retail-cpu.yaml
      spec: {trainer: {steps: 24}, curriculum: null}
"""
FILE = Path("experiments/studies/pay.yaml")
PARENT = Path("experiments/retail-cpu.yaml")


@pytest.fixture
def project(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the demo's spec and a study of it."""
    monkeypatch.chdir(tmp_path)
    write_text(PARENT, (root / PARENT).read_text(encoding="utf-8"))
    write_text(FILE, STUDY)
    return Path()


def faults(old: str, new: str, file: Path = FILE) -> list[str]:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    return [str(fault) for fault in catalogue.validate([FILE], Path())[FILE]]


def test_arms_times_seeds(project: Path) -> None:
    parent = load(PARENT).experiment.spec
    found = arms(FILE)
    assert {arm: [one.experiment.metadata.name for one in group] for arm, group in found.items()} == {
        "plain": ["pay-plain-s7", "pay-plain-s8"],
        "longer": ["pay-longer-s7", "pay-longer-s8"],
    }
    assert [one.experiment.spec.seed for one in members(FILE)] == [7, 8, 7, 8]
    plain, longer = found["plain"][0].experiment.spec, found["longer"][0].experiment.spec
    assert plain == parent
    steps = parent.trainer.model_copy(update={"steps": 24})
    assert (longer.trainer, longer.curriculum) == (steps, Curriculum())


def test_every_value_keeps_its_place(project: Path) -> None:
    origins = arms(FILE)["longer"][1].origins
    assert str(origins["spec.trainer.steps"]) == f"{FILE}:12:31"
    assert str(origins["spec.seed"]) == f"{FILE}:6:14"
    assert str(origins["metadata.name"]) == f"{FILE}:10:5"
    assert origins["spec.trainer.clip"].source.path == PARENT
    assert arms(FILE)["plain"][0].sources == (FILE, PARENT)


def test_an_experiment_is_its_own_only_member(project: Path) -> None:
    assert members(PARENT) == [load(PARENT)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 24", "stepz: 24", "12:24: spec.trainer.stepz: unknown key; did you mean 'steps'?"),
        ("steps: 24", "steps: 0", "12:31: spec.trainer.steps: found 0, expected at least 1"),
        ("{trainer", "{seed: 3, trainer", "12:14: spec.arms.longer.spec.seed: a study gives the seeds itself"),
        ("[7, 8]", "[7, 7]", "6:10: spec.seeds: [7, 7] holds a seed twice"),
        ("longer:", "Longer:", '10:5: spec.arms.Longer: found the text "Longer", expected text that matches'),
        ("name: pay", "name: " + "p" * 50, "8:5: metadata.name: found the text"),
        ("longer:\n      extends: ../", "longer:\n      extends: ./", "11:16: spec.arms.longer.extends: no such file"),
    ],
)  # fmt: skip
def test_a_fault_is_told_once_where_it_stands(old: str, new: str, message: str, project: Path) -> None:
    first, *others = faults(old, new)
    assert first.startswith(f"{FILE}:{message}")
    assert message.startswith("8:5") or not others


def test_a_fault_of_the_parent_is_told_once(project: Path) -> None:
    (found,) = faults("  iterations: 3", "  iterations: 0", PARENT)
    assert found.startswith(f"{PARENT}:") and "spec.iterations" in found


def test_members_agree_on_their_base(project: Path) -> None:
    found = faults("steps: 24}", "steps: 24}, seed_tasks: {dev: 5}")
    assert len(found) == 2 and all("spec.seed_tasks.dev: 5 here, 96 at" in text for text in found)


def test_all_members_are_compiled_to_one_file_that_runs_only_when_named(project: Path) -> None:
    compiled = dvcfile.compile_all(catalogue.discover(project), project)
    assert set(compiled) == {"dvc.yaml", "experiments/studies/pay/dvc.yaml"}
    parsed = {name: YAML(typ="safe", pure=True).load(text)["stages"] for name, text in compiled.items()}
    assert "retail-cpu-warmup" in parsed["dvc.yaml"], "the base stays with the experiment of its name"
    stages = parsed["experiments/studies/pay/dvc.yaml"]
    assert {name.split("-")[1] for name in stages} == {"plain", "longer"} and len(stages) == 4 * (1 + 3 * 5 + 1)
    assert stages["pay-longer-s8-train-01"]["wdir"] == "../../.."
    spec = stages["pay-longer-s8-spec"]
    assert spec["cmd"] == f"sentinel stage spec --run runs/pay-longer-s8 --spec {FILE} --iterations 3"
    assert spec["deps"] == [str(FILE), str(PARENT)]
    item = catalogue.read_all(FILE, project)[0]
    assert dvcfile.compile_one(item, catalogue.discover(project), project) == compiled


def test_a_study_that_is_gone_takes_its_file_along(project: Path) -> None:
    dvcfile.write(dvcfile.compile_all(catalogue.discover(project), project), project)
    FILE.unlink()
    assert dvcfile.orphans(dvcfile.compile_all(catalogue.discover(project), project), project) == [
        "experiments/studies/pay/dvc.yaml"
    ]


def test_the_spec_stage_writes_the_member_that_is_named(project: Path) -> None:
    write("runs/pay-longer-s8", FILE, 3, project)
    written = YAML(typ="safe", pure=True).load(Path("runs/pay-longer-s8/spec.yaml"))
    assert (written["metadata"]["name"], written["spec"]["seed"]) == ("pay-longer-s8", 8)
    assert written["spec"]["trainer"]["steps"] == 24
    write("runs/bases/retail-cpu", FILE, 3, project)
    with pytest.raises(SentinelError, match="has no stage 'spec' there"):
        write("runs/pay-nobody-s8", FILE, 3, project)


def test_plan_counts_the_base_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", str(FILE), "--json"])
    document = json.loads(capsys.readouterr().out)
    names = [stage["name"] for stage in document["stages"]]
    assert len(names) == len(set(names)) == 4 + 4 * 17
    one = load(PARENT).experiment.spec
    assert document["episodes"]["diagnosis"] == 4 * one.iterations * one.rollout.tasks * one.rollout.trials


def toy(name: str, seed: int) -> Experiment:
    spec = SPEC.model_dump(mode="json") | {"seed": seed}
    document = {"apiVersion": "sentinel.dev/v1alpha1", "kind": "Experiment", "metadata": {"name": name}, "spec": spec}
    return Experiment.model_validate_json(json.dumps(document))


def runs_of(arm: str, progress: float, seeds: tuple[int, ...] = (7, 8)) -> list[Arm]:
    return [Arm(toy(f"{arm}-s{seed}", seed), 3, trials(progress, seed=seed), TASKS, 10) for seed in seeds]


def test_arms_are_averaged_over_seeds_and_paired_with_the_first() -> None:
    found = score({"plain": runs_of("plain", 0.2), "longer": runs_of("longer", 0.9)})
    assert (list(found.rows), found.seeds) == ([1, 4], 2)
    plain, longer = found.rows[1]
    assert plain.difference is None and longer.difference and longer.difference.low > 0
    assert longer.mean and longer.lowest is not None and longer.highest is not None
    assert longer.lowest < longer.mean.value < longer.highest
    assert (longer.rollouts, longer.void > 0) == (20, True)
    text = found.summary()
    assert "Pass^4 of the last policies: mean of 2 seeds, 95% intervals over tasks" in text
    assert "minus plain" in text


def test_one_run_twice_differs_by_nothing() -> None:
    same = runs_of("plain", 0.5)
    (_, other), *_ = score({"plain": same, "again": same}).rows.values()
    assert other.difference and other.difference.value == 0.0


def test_arms_of_other_tasks_are_refused() -> None:
    other = TASKS.model_copy(update={"digest": "other"})
    foreign = [run._replace(task_set=other) for run in runs_of("longer", 0.9)]
    with pytest.raises(SentinelError, match="evaluated on different tasks"):
        score({"plain": runs_of("plain", 0.2), "longer": foreign})


def test_compare_takes_a_study(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one in members(FILE):
        name = one.experiment.metadata.name
        write_experiment(Path("runs") / name)
        write_text(Path("runs") / name / "spec.yaml", resolved_text(toy(name, 7), "toy.yaml"))
        write_text(Path("runs") / name / "report" / "metrics.json", json.dumps({"rollouts": 5}))
    with pytest.raises(SystemExit) as caught:
        main(["compare", str(FILE)])
    assert caught.value.code == 0
    assert "minus plain" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["compare", str(PARENT)])
    assert caught.value.code == 2
    assert "name another experiment" in capsys.readouterr().err


def test_a_study_is_no_experiment_to_render(project: Path) -> None:
    with pytest.raises(SpecError, match="found 'Study', expected 'Experiment'"):
        load(FILE)
