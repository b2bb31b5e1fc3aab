"""The report hides no quota, and says for every other pattern why it has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sentinel.artifacts import read_json, read_jsonl, write_json, write_jsonl
from sentinel.evaluation.collect import Iteration, collect
from sentinel.evaluation.quotas import TOP, no_tasks, shown
from sentinel.records import Constraints, Contrast, Directive, Lift, Pattern, PatternLift, PatternStatus, Quota
from tests.unit.evaluation_toys import write_experiment
from tests.unit.test_report import run
from tests.unit.test_trace import pattern as plain


def pattern(name: str, failures: int = 10, episodes: int = 20, priority: float = 0.1, **changes: object) -> Pattern:
    contrast = Contrast(failures=failures, episodes=episodes, failures_elsewhere=0, episodes_elsewhere=99)
    made = plain((), PatternStatus.new)
    return made.model_copy(update={"id": name, "contrast": contrast, "priority": priority, **changes})


def iteration(patterns: list[Pattern], ordered: dict[str, int], folder: Path) -> Iteration:
    first = collect(write_experiment(folder), 3)[1]
    return Iteration(1, first.trials, first.metrics, patterns=patterns, ordered=ordered)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (pattern("x", status=PatternStatus.resolved), "it hardly strikes any more"),
        (pattern("x", failures=19), "the policy nearly always fails there (19 of 20), and training learns little"),
        (pattern("x", priority=0.01), "it is number 3 by priority, and the first 2 get tasks"),
        (pattern("x", priority=0.4), "its share by priority is less than one task"),
        (pattern("merged"), "those of the pattern it was merged into are for it too"),
        (pattern("first"), ""),
    ],
)
def test_the_reason_for_no_tasks_is_the_true_one(found: Pattern, reason: str, tmp_path: Path) -> None:
    others = [pattern("first", priority=0.5, merged=("merged",)), pattern("second", priority=0.3)]
    at = iteration([*(other for other in others if other.id != found.id), found], {"first": 12}, tmp_path)
    assert no_tasks(found, at, most=2).startswith(reason)
    assert bool(no_tasks(found, at, most=2)) == bool(reason)


def test_where_nothing_is_ordered_there_is_no_reason(tmp_path: Path) -> None:
    assert no_tasks(pattern("x"), iteration([pattern("x")], {}, tmp_path), most=2) == ""


def test_a_quota_of_a_rare_pattern_is_shown(tmp_path: Path) -> None:
    many = [pattern(f"p{n:02d}") for n in range(40)]
    at = iteration(many, {"p00": 9, "p30": 4}, tmp_path)
    assert [each.id for each in shown(at)] == [f"p{n:02d}" for n in range(TOP)] + ["p30"]


def test_the_pages_show_it_too(tmp_path: Path) -> None:
    inputs = write_experiment(tmp_path / "runs")
    known = read_jsonl(inputs["control_01"] / "patterns.jsonl", Pattern)
    rare = [pattern(f"rare{n:02d}", support=1, description=f"Rare mistake {n}.") for n in range(40)]
    write_jsonl(inputs["control_01"] / "patterns.jsonl", [*known, *rare])
    directive = read_json(inputs["control_01"] / "directive.json", Directive)
    quota = Quota(pattern="rare39", tasks=7, constraints=Constraints(), instruction="")
    write_json(
        inputs["control_01"] / "directive.json", directive.model_copy(update={"quotas": (*directive.quotas, quota)})
    )
    lift = read_json(inputs["propose_01"] / "lift.json", Lift)
    found = PatternLift(tasks=9, episodes=36, failure_rate=0.6, control_failure_rate=0.4, lift=1.5, interval=(1.1, 2.0))
    write_json(inputs["propose_01"] / "lift.json", lift.model_copy(update={"together": found}))
    output = run(tmp_path, inputs)
    for name in ("report.md", "report.html"):
        text = (output / name).read_text()
        assert "Rare mistake 39." in text
        assert "1.5× [1.1, 2.0]" in text
        assert "rarer patterns, for which no tasks were ordered" in text
    rows = json.loads((output / "metrics.json").read_text())["iterations"][1]["patterns"]
    assert ("rare39", 7, "") in [(row["id"], row["tasks_ordered"], row["no_tasks"]) for row in rows]
