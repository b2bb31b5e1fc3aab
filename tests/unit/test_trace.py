"""A task can be followed from its pattern to its updates, from the artifacts alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sentinel.artifacts import write_json, write_jsonl, write_text
from sentinel.cli import app
from sentinel.descent import Drawn, Probed, Use
from sentinel.errors import SentinelError
from sentinel.evaluation.trace import trace
from sentinel.records import (
    Constraints,
    Contrast,
    Directive,
    Evidence,
    Gate,
    LabelKind,
    OriginKind,
    Pattern,
    PatternStatus,
    Quota,
    Verdict,
)
from tests.unit.solver_toys import task

KEPT, PARKED = (task(name, OriginKind.targeted, "hard") for name in ("01-p-000", "01-p-001"))


def pattern(evidence: tuple[Evidence, ...], status: PatternStatus) -> Pattern:
    return Pattern(
        id="p",
        category=LabelKind.missing_write,
        description="It forgets the second request.",
        tools=(),
        arguments=(),
        condition={},
        support=3,
        contrast=Contrast(failures=3, episodes=4, failures_elsewhere=0, episodes_elsewhere=9),
        evidence=evidence,
        status=status,
        priority=0.1,
    )


def drawn(step: int, name: str, update: int | None, successes: int) -> Drawn:
    return Drawn(
        step=step,
        refill=False,
        task=name,
        condition="hard",
        pattern="p",
        use=Use.targeted,
        estimate=0.25,
        successes=successes,
        trials=8,
        update=update,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two iterations; the second one has not trained yet."""
    first, second = tmp_path / "runs/toy/01", tmp_path / "runs/toy/02"
    evidence = Evidence(trajectory="general-0001#2", turn=4)
    write_jsonl(first / "control/patterns.jsonl", [pattern((evidence,), PatternStatus.new)])
    quota = Quota(pattern="p", tasks=2, constraints=Constraints(), instruction="Two requests in one.")
    write_json(first / "control/directive.json", Directive(iteration=1, quotas=(quota,), explore=0))
    write_jsonl(first / "propose/tasks.jsonl", [KEPT])
    write_jsonl(first / "propose/parked.jsonl", [PARKED])
    probes = [
        Probed(task=each.id, condition="hard", pattern="p", successes=n, trials=4)
        for n, each in enumerate((PARKED, KEPT))
    ]
    write_jsonl(first / "propose/probes.jsonl", probes)
    lost = Verdict(candidate=PARKED.id, gate=Gate.solvability, accepted=False, reason="never_solved")
    write_jsonl(first / "propose/rejected.jsonl", [lost])
    write_jsonl(first / "train/curriculum.jsonl", [drawn(1, KEPT.id, 1, 2), drawn(3, KEPT.id, None, 8)])
    write_jsonl(first / "train/pool.jsonl", [task("general-0001"), KEPT])
    write_jsonl(first / "train/resting.jsonl", [PARKED])
    write_jsonl(second / "control/patterns.jsonl", [pattern((), PatternStatus.resolved)])
    write_text(second / "rollout/rates.json", '{"tasks": {"01-p-000": [3, 4]}}')
    return tmp_path / "runs/toy"


def test_a_task_is_followed_from_its_pattern_to_its_updates(run: Path) -> None:
    found = trace(run, KEPT.id)
    assert [(step.iteration, step.what, step.detail) for step in found.lines[0].steps] == [
        (1, "probed", "solved 1 of 4"),
        (1, "kept", ""),
        (1, "drawn", "step 1, targeted, expected 0.25, solved 2 of 8: update 1"),
        (1, "drawn", "step 3, targeted, expected 0.25, solved 8 of 8: no information"),
        (1, "in the pool", ""),
        (2, "diagnosed", "solved 3 of 4"),
    ]
    assert found.patterns == {
        "p": (
            "01 new: It forgets the second request; seen in general-0001#2, turn 4",
            "01 ordered: 2 tasks: Two requests in one.",
            "02 resolved: It forgets the second request",
        )
    }


def test_a_pattern_shows_all_of_its_tasks_also_those_that_rest(run: Path) -> None:
    found = trace(run, "p")
    assert [line.task for line in found.lines] == [KEPT.id, PARKED.id]
    assert [step.what for step in found.lines[1].steps] == ["probed", "parked", "resting"]
    assert "update 1" in found.summary()


def test_a_task_of_no_pattern_has_its_own_line_and_nothing_else(run: Path) -> None:
    found = trace(run, "general-0001")
    assert not found.patterns
    assert [line.task for line in found.lines] == ["general-0001"]


@pytest.mark.parametrize(
    ("run_name", "name", "message"),
    [("toy", "01-p-00", "close to it: 01-p-001, 01-p-000"), ("tox", "p", "there are: toy")],
)
def test_what_is_not_there_is_told_with_what_is(run: Path, run_name: str, name: str, message: str) -> None:
    with pytest.raises(SentinelError, match=message):
        trace(run.parent / run_name, name)


def test_the_verb_prints_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    result = CliRunner().invoke(app, ["trace", "toy", KEPT.id])
    assert result.exit_code == 0
    assert "01 drawn       step 1" in result.stdout
