"""Two finished experiments compared: paired differences, and what cannot or should not be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sentinel.artifacts import write_text
from sentinel.cli import main
from sentinel.errors import ArtifactError, SentinelError
from sentinel.evaluation.compare import Arm, compare, read_arm
from sentinel.evaluation.intervals import paired_difference
from sentinel.evaluation.passk import pass_hat
from sentinel.records import Outcome
from sentinel.spec.models import Experiment
from sentinel.stages.spec import resolved_text
from tests.unit.evaluation_toys import CONDITIONS, SPEC, TASKS, trials, write_experiment

RUNS = Path("runs")


def experiment(name: str, **changes: object) -> Experiment:
    spec = SPEC.model_dump(mode="json") | changes
    document = {"apiVersion": "sentinel.dev/v1alpha1", "kind": "Experiment", "metadata": {"name": name}, "spec": spec}
    return Experiment.model_validate_json(json.dumps(document))


def arm(name: str, progress: float, **changes: object) -> Arm:
    return Arm(experiment(name, **changes), 3, trials(progress, seed=len(name)), TASKS, 100)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished arms of one base."""
    monkeypatch.chdir(tmp_path)
    for name, rollouts in (("general", 100), ("targeted", 120)):
        write_experiment(RUNS / name)
        write_text(RUNS / name / "spec.yaml", resolved_text(experiment(name), f"{name}.yaml"))
        write_text(RUNS / name / "report" / "metrics.json", json.dumps({"rollouts": rollouts}))
    return tmp_path


def test_differences_are_paired_by_task_and_second_minus_first() -> None:
    before, after = arm("general", 0.1), arm("targeted", 0.9)
    found = compare(before, after)
    assert [row.k for row in found.rows] == [1, 2, 3, 4]
    for row in found.rows:
        expected = paired_difference(pass_hat(after.trials, row.k).values, pass_hat(before.trials, row.k).values)
        assert row.difference and expected
        assert (row.difference.value, row.difference.low) == pytest.approx(expected[:2], abs=1e-6)
        assert row.difference.low > 0
    swapped = compare(after, before).rows[0].difference
    assert swapped and found.rows[0].difference and swapped.value == -found.rows[0].difference.value


def test_a_table_for_people() -> None:
    text = compare(arm("general", 0.1), arm("targeted", 0.9)).summary()
    assert text.startswith("targeted minus general, paired by task, 95% intervals")
    assert "+" in text.splitlines()[3]
    assert f"general: {8 * len(CONDITIONS)} tasks" in text
    assert "One training run of each (seeds 7 and 7)" in text


def test_voids_are_counted_and_enter_no_difference() -> None:
    one, other = arm("general", 0.5), arm("targeted", 0.5)
    lost = [t.model_copy(update={"outcome": Outcome.void}) if t.task.endswith("-0") else t for t in other.trials]
    found = compare(one, other._replace(trials=lost))
    assert found.second.void >= 4 * len(CONDITIONS)
    second = found.rows[0].second
    assert second and second.excluded >= len(CONDITIONS)


def test_other_tasks_cannot_be_paired() -> None:
    with pytest.raises(SentinelError, match="evaluated on different tasks"):
        compare(
            arm("general", 0.5), arm("targeted", 0.5)._replace(task_set=TASKS.model_copy(update={"digest": "other"}))
        )


def test_what_was_measured_otherwise_is_noted() -> None:
    evaluator = SPEC.evaluator.model_dump(mode="json") | {"temperature": 0.5, "k": [2, 3]}
    found = compare(arm("general", 0.5), arm("targeted", 0.5, evaluator=evaluator)._replace(rollouts=7))
    assert [row.k for row in found.rows] == [2, 3]
    assert found.notes[0].startswith("They differ in spec.evaluator")
    assert found.notes[1] == "They did not spend the same number of rollouts."


def test_an_arm_is_read_from_its_run(project: Path) -> None:
    last = read_arm(experiment("targeted"), RUNS)
    assert (last.iteration, last.rollouts, last.trials) == (3, 120, trials(1.0))
    assert read_arm(experiment("targeted"), RUNS, 1).trials == trials(0.7)
    with pytest.raises(SentinelError, match="iteration 4 is not one of its 0 to 3"):
        read_arm(experiment("targeted"), RUNS, 4)
    (RUNS / "targeted" / "report" / "metrics.json").unlink()
    with pytest.raises(ArtifactError, match="sentinel run SPEC"):
        read_arm(experiment("targeted"), RUNS)


def test_the_verb(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "general", "targeted", "--json"])
    out, err = capsys.readouterr()
    assert caught.value.code == 0
    found = json.loads(out)
    assert (found["first"]["name"], found["second"]["rollouts"]) == ("general", 120)
    assert found["rows"][0]["difference"]["value"] == 0.0, "the same trials"
    assert "targeted minus general" in err
    with pytest.raises(SystemExit) as caught:
        main(["compare", "general", "nobody"])
    assert caught.value.code == 2


def test_a_file_of_trials_that_was_cut_short_is_named(project: Path) -> None:
    path = RUNS / "targeted/03/evaluate/trials.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    write_text(path, "".join(lines[:-5]))
    with pytest.raises(ArtifactError, match=rf"{path}: holds {len(lines) - 5} trials, .* is of {len(lines)}\n"):
        read_arm(experiment("targeted"), RUNS)
