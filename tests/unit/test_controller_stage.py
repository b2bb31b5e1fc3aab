"""The control stage over several iterations: statuses, running rates, priorities, quotas, and the files it writes."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.artifacts import read_json, read_jsonl, write_json, write_jsonl
from sentinel.controller.directive import apportion
from sentinel.controller.history import History, Sample, Source
from sentinel.errors import ArtifactError
from sentinel.proposer.conditions import matching
from sentinel.records import (
    Directive,
    Failure,
    Lift,
    Origin,
    OriginKind,
    Party,
    Pattern,
    PatternLift,
    PatternStatus,
    Tally,
    Trajectory,
    VoidReason,
)
from sentinel.spec.load import load
from sentinel.spec.models import ExperimentSpec
from sentinel.spec.profile import ProfileSpec
from sentinel.stages import control
from sentinel.stages.context import Context
from sentinel.stages.progress import Progress
from tests.unit.controller_cases import CONFIRM, DONE, expert, made, play, reads, replacing, voided, writes

NAMES = ("cancel/no_reason", "cancel/plain", "return/original", "payment/plain", "address/plain", "refuse/bad_reason")


def spec_of(root: Path, targeting: str = "patterns", **controller: object) -> ExperimentSpec:
    spec = load(root / "experiments" / "retail-cpu.yaml").experiment.spec
    plain = spec.model_dump(mode="json") | ({"controller": controller} if controller else {})
    plain["proposer"]["targeting"] = targeting
    return ExperimentSpec.model_validate(plain, strict=False)


@cache
def pair(name: str, number: int) -> tuple[Trajectory, Trajectory]:
    """A task played right, and without its last write (or, where nothing is to be written, without the refusal)."""
    task = made(name, number)
    moves = replacing(expert(task), writes(task)[-1]) if writes(task) else [*reads(task), DONE]
    return play(task, expert(task)), play(task, moves)


UNSCORED = [voided(pair(NAMES[0], 0)[0], VoidReason.infrastructure)]
"""A training that says nothing."""


def played(rates: Mapping[str, int], trials: int = 8) -> list[Trajectory]:
    """Every condition, `trials` times on two tasks; `rates` says how many of those a condition gets wrong."""
    return [
        pair(name, number)[trial < rates.get(name, 0)].model_copy(update={"trial": trial})
        for name in NAMES
        for number in range(2)
        for trial in range(trials)
    ]


def stage(
    tmp_path: Path,
    spec: ExperimentSpec,
    iteration: int,
    batch: Sequence[Trajectory],
    trained: Sequence[Trajectory] = (),
    lift: Lift | None = None,
    profile: ProfileSpec | None = None,
) -> Path:
    """Run the stage in iteration folders as a run has them."""
    here, before = tmp_path / f"{iteration:02d}", tmp_path / f"{iteration - 1:02d}"
    write_jsonl(here / "rollout" / "trajectories.jsonl", batch)
    (here / "control").mkdir(parents=True)
    inputs = {"rollout": here / "rollout"}
    if iteration > 1:
        write_jsonl(before / "train" / "trajectories.jsonl", trained or UNSCORED)
        write_json(before / "propose" / "lift.json", lift or Lift())
        inputs |= {f"previous_{kind}": before / kind for kind in ("control", "propose", "train")}
    name = f"retail-cpu-control-{iteration:02d}"
    context = Context(
        name=name,
        kind="control",
        iteration=iteration,
        spec=spec,
        inputs=inputs,
        output=here / "control",
        state=tmp_path / "state",
        profile=profile or ProfileSpec(),
        progress=Progress(name),
    )
    control.run(context)
    return here / "control"


def patterns(folder: Path) -> dict[str, Pattern]:
    return {
        str(p.condition.get("condition", "")): p
        for p in read_jsonl(folder / "patterns.jsonl", Pattern, may_be_empty=True)
    }


def directive(folder: Path) -> Directive:
    return read_json(folder / "directive.json", Directive)


def test_one_iteration_writes_all_that_was_promised(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = made("cancel/plain")
    left = play(task, [*reads(task), CONFIRM], trial=90, last_words="###TRANSFER###")
    folder = stage(tmp_path, spec_of(root), 1, [*played({"cancel/no_reason": 4}), left])
    assert sorted(path.name for path in folder.iterdir()) == [
        "directive.json",
        "failures.jsonl",
        "history.json",
        "patterns.jsonl",
    ]
    (pattern,) = read_jsonl(folder / "patterns.jsonl", Pattern)
    assert pattern.condition == {"condition": "cancel/no_reason"}
    (quota,) = directive(folder).quotas
    assert (quota.pattern, quota.tasks, directive(folder).explore) == (pattern.id, 102, 26)
    fitting = matching(quota.constraints.values, quota.constraints.tools)
    assert [condition.condition for condition in fitting] == ["cancel/no_reason"]
    assert "condition = cancel/no_reason" in quota.instruction
    assert "leaves out `cancel_pending_order`" in quota.instruction
    failures = read_jsonl(folder / "failures.jsonl", Failure)
    assert [f.attribution.party for f in failures].count(Party.user_simulator) == 1
    tally = read_json(folder / "history.json", History).tally
    assert tally == Tally(requested=97, kept=96, rejected={"user_simulator": 1})
    assert "97 episodes: 88 succeeded, 8 failed by agent, 1 failed by user_simulator, 0 void" in capsys.readouterr().err


def test_equal_episodes_in_another_order_give_equal_bytes(tmp_path: Path, root: Path) -> None:
    batch = played({"cancel/no_reason": 4, "return/original": 3})
    first = stage(tmp_path / "a", spec_of(root), 1, batch)
    second = stage(tmp_path / "b", spec_of(root), 1, batch[::-1])
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_the_life_of_a_pattern(tmp_path: Path, root: Path) -> None:
    spec = spec_of(root)
    one = stage(tmp_path, spec, 1, played({"cancel/no_reason": 4}))
    two = stage(tmp_path, spec, 2, played({"cancel/no_reason": 3, "return/original": 3}))
    three = stage(tmp_path, spec, 3, played({"return/original": 3}))
    four = stage(tmp_path, spec, 4, played({"cancel/no_reason": 5}))
    status = [{name: p.status.value for name, p in patterns(folder).items()} for folder in (one, two, three, four)]
    assert status == [
        {"cancel/no_reason": "new"},
        {"cancel/no_reason": "persistent", "return/original": "new"},
        {"cancel/no_reason": "resolved", "return/original": "persistent"},
        {"cancel/no_reason": "regressed", "return/original": "resolved"},
    ]
    lives = {str(life.pattern.condition["condition"]): life for life in read_json(four / "history.json", History).lives}
    assert lives["cancel/no_reason"].seen == (1, 2, 4)
    assert lives["cancel/no_reason"].targeted == (1, 2)
    resolved = patterns(three)["cancel/no_reason"]
    assert (resolved.support, resolved.priority) == (0, 0.0)
    assert resolved.id not in {quota.pattern for quota in directive(three).quotas}


def test_a_pattern_without_episodes_under_its_condition_is_not_called_resolved(tmp_path: Path, root: Path) -> None:
    spec = spec_of(root)
    stage(tmp_path, spec, 1, played({"cancel/no_reason": 4}))
    others = [p for p in played({}) if p.task.knobs["condition"] != "cancel/no_reason"]
    two = stage(tmp_path, spec, 2, others)
    (life,) = read_json(two / "history.json", History).lives
    assert (patterns(two)["cancel/no_reason"].status, life.pattern.status) == (PatternStatus.unclear,) * 2
    assert life.struck and (life.struck.failures, life.pattern.contrast.episodes) == (8, 0)


def test_history_off_forgets(tmp_path: Path, root: Path) -> None:
    spec = spec_of(root, type="deterministic", history=False)
    stage(tmp_path, spec, 1, played({"cancel/no_reason": 4}))
    two = stage(tmp_path, spec, 2, played({"cancel/no_reason": 4}), trained=played({}))
    assert patterns(two)["cancel/no_reason"].status is PatternStatus.new
    assert {s.iteration for s in read_json(two / "history.json", History).samples} == {2}


def test_a_directive_that_was_not_obeyed_targets_nothing(tmp_path: Path, root: Path) -> None:
    spec = spec_of(root, "uniform")
    for iteration in (1, 2):
        folder = stage(tmp_path, spec, iteration, played({"cancel/no_reason": 4}))
    (life,) = read_json(folder / "history.json", History).lives
    assert (life.seen, life.targeted) == ((1, 2), ())


def test_training_and_probes_count_in_the_running_rate(tmp_path: Path, root: Path) -> None:
    spec, condition = spec_of(root), (("condition", "cancel/no_reason"),)
    one = stage(tmp_path, spec, 1, played({"cancel/no_reason": 8}))
    (quota,) = directive(one).quotas
    before = read_json(one / "history.json", History).success_rate(condition)
    probed = PatternLift(tasks=5, episodes=20, failure_rate=0.25, control_failure_rate=0.1, lift=2.5)
    batch = played({"cancel/no_reason": 8})
    two = stage(tmp_path, spec, 2, batch, played({"cancel/no_reason": 2}), Lift(patterns={quota.pattern: probed}))
    history = read_json(two / "history.json", History)
    sources = {s.source: (s.episodes, s.successes) for s in history.samples if s.knobs == quota.constraints.values}
    assert sources == {Source.proposal: (20, 15)}
    trained = [s for s in history.samples if s.source is Source.training]
    assert sum(s.episodes for s in trained) == len(played({}))
    assert before < 0.15 < history.success_rate(condition)


def made_for(pattern: str, batch: Sequence[Trajectory]) -> list[Trajectory]:
    """The episodes as if their tasks had been made for a pattern."""
    origin = Origin(kind=OriginKind.targeted, pattern=pattern)
    return [p.model_copy(update={"task": p.task.model_copy(update={"origin": origin})}) for p in batch]


def test_what_became_of_targeted_tasks_is_remembered_by_iteration_and_purpose(tmp_path: Path, root: Path) -> None:
    spec = spec_of(root)
    one = stage(tmp_path, spec, 1, played({"cancel/no_reason": 6}))
    (quota,) = directive(one).quotas
    aimed = [p for p in played({"cancel/no_reason": 2}) if p.task.knobs["condition"] == "cancel/no_reason"]
    left = play(made("cancel/no_reason"), [*reads(made("cancel/no_reason")), CONFIRM], last_words="###TRANSFER###")
    trained = [*made_for(quota.pattern, [*aimed, left]), *played({})]
    probed = PatternLift(tasks=5, episodes=20, failure_rate=0.25, control_failure_rate=0.1, lift=2.5)
    batch = [*played({"cancel/no_reason": 4}), *made_for(quota.pattern, aimed[:4])]
    two = stage(tmp_path, spec, 2, batch, trained, Lift(patterns={quota.pattern: probed}))
    (life,) = read_json(two / "history.json", History).lives
    assert [tuple(passed.model_dump().values()) for passed in life.passed] == [
        (1, Source.proposal, 20, 15),
        (1, Source.training, 16, 12),  # without the one that the user left
        (2, Source.diagnosis, 4, 2),
    ]
    (quota,) = directive(two).quotas
    assert "of earlier tasks made for it, 29 of 40 episodes passed" in quota.instruction


def test_only_tasks_that_can_show_a_pattern_count_in_its_learnability(tmp_path: Path, root: Path) -> None:
    folder = stage(tmp_path, spec_of(root), 1, played({"payment/plain": 8}))
    (pattern,) = read_jsonl(folder / "patterns.jsonl", Pattern)
    history = read_json(folder / "history.json", History)
    everywhere = pattern.model_copy(update={"condition": {}})
    assert history.success_rate(()) == pytest.approx(80 / 96)
    assert history.rate_of(everywhere) == pytest.approx((0 + 2 * 80 / 96) / (16 + 2)), "of 16 with this write, none"
    elsewhere = pattern.model_copy(update={"condition": {"condition": "unheard/of"}})
    assert history.rate_of(elsewhere) == pytest.approx(80 / 96)


def test_what_stays_weighs_more_every_time(tmp_path: Path, root: Path) -> None:
    spec, rates = spec_of(root, "uniform"), {"cancel/no_reason": 4}
    folders = [stage(tmp_path, spec, iteration, played(rates), played(rates)) for iteration in (1, 2, 3, 4)]
    priorities = [patterns(folder)["cancel/no_reason"].priority for folder in folders]
    assert priorities[1] == pytest.approx(1.25 * priorities[0], rel=0.05)
    assert priorities[2] == pytest.approx(1.5 * priorities[0], rel=0.05)
    assert priorities[3] == pytest.approx(priorities[2], rel=0.05)


def history_of(*samples: Sample, iteration: int = 3) -> History:
    return History(iteration=iteration, tally=Tally(requested=0, kept=0), samples=samples, lives=())


def sample(iteration: int, successes: int, episodes: int, knobs: dict[str, str | int | bool] | None = None) -> Sample:
    return Sample(
        iteration=iteration, source=Source.diagnosis, knobs=knobs or {}, episodes=episodes, successes=successes
    )


def test_old_samples_count_half_per_iteration() -> None:
    hard: dict[str, str | int | bool] = {"skill": "ask"}
    history = history_of(sample(3, 0, 10, hard), sample(2, 10, 10, hard))
    overall = 5 / 15
    assert history.success_rate((("skill", "ask"),)) == pytest.approx((5 + 2 * overall) / (15 + 2))


def test_an_unknown_condition_has_the_overall_rate() -> None:
    assert history_of(sample(3, 6, 8)).success_rate((("skill", "ask"),)) == pytest.approx(0.75)
    assert history_of().success_rate(()) == 0.5


def test_what_is_sometimes_right_outranks_what_never_is(tmp_path: Path, root: Path) -> None:
    found = patterns(stage(tmp_path, spec_of(root), 1, played({"cancel/no_reason": 5, "return/original": 8})))
    sometimes, never = found["cancel/no_reason"], found["return/original"]
    assert sometimes.support < never.support
    assert sometimes.priority > never.priority > 0


def test_what_targeting_does_not_move_is_dampened(tmp_path: Path, root: Path) -> None:
    spec, rates = spec_of(root), {"cancel/no_reason": 4, "return/original": 4}
    for iteration in (1, 2):
        stage(tmp_path, spec, iteration, played(rates), trained=played(rates))
    stuck = stage(tmp_path, spec, 3, played(rates), trained=played(rates))
    for iteration in (1, 2):
        stage(tmp_path / "x", spec, iteration, played(rates), trained=played(rates))
    moved = stage(tmp_path / "x", spec, 3, played({"cancel/no_reason": 2, "return/original": 4}), trained=played(rates))
    assert {name: p.status.value for name, p in patterns(stuck).items()} == dict.fromkeys(rates, "persistent")
    assert patterns(stuck)["return/original"].priority == pytest.approx(
        patterns(moved)["return/original"].priority, rel=0.01
    )
    assert patterns(moved)["cancel/no_reason"].priority > 1.5 * patterns(stuck)["cancel/no_reason"].priority


def test_at_most_max_patterns_get_a_quota(tmp_path: Path, root: Path) -> None:
    spec = spec_of(root, type="deterministic", max_patterns=1)
    folder = stage(tmp_path, spec, 1, played({"cancel/no_reason": 4, "return/original": 6}))
    assert len(patterns(folder)) == 2
    assert len(directive(folder).quotas) == 1


def test_without_a_controller_everything_explores(tmp_path: Path, root: Path) -> None:
    folder = stage(tmp_path, spec_of(root, "none", type="none"), 1, played({"cancel/no_reason": 4}))
    assert directive(folder) == Directive(iteration=1, quotas=(), explore=128)
    assert patterns(folder) == {}
    assert len(read_jsonl(folder / "failures.jsonl", Failure)) == 8


def test_without_failures_everything_explores(tmp_path: Path, root: Path) -> None:
    assert directive(stage(tmp_path, spec_of(root), 1, played({}))) == Directive(iteration=1, quotas=(), explore=128)


def test_only_voids_explore_and_are_counted(tmp_path: Path, root: Path) -> None:
    folder = stage(tmp_path, spec_of(root), 1, [voided(p, VoidReason.user_simulator) for p in played({})])
    assert directive(folder) == Directive(iteration=1, quotas=(), explore=128)
    history = read_json(folder / "history.json", History)
    assert history.tally == Tally(requested=96, kept=0, void={"user_simulator": 96})
    assert history.samples == ()


def test_no_episodes_at_all_are_an_error(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ArtifactError, match=r"trajectories\.jsonl"):
        stage(tmp_path, spec_of(root), 1, [])


def test_a_task_that_the_episode_does_not_hold_is_named(tmp_path: Path, root: Path) -> None:
    stage(tmp_path, spec_of(root), 1, played({}))
    rollout = tmp_path / "01" / "rollout" / "trajectories.jsonl"
    line = json.loads(rollout.read_text(encoding="utf-8").splitlines()[0])
    del line["task"]
    rollout.write_text(json.dumps(line) + "\n", encoding="utf-8")
    context = Context(
        "c", "control", 1, spec_of(root), {"rollout": rollout.parent}, tmp_path, tmp_path, ProfileSpec(), Progress("c")
    )
    with pytest.raises(ArtifactError, match=r"trajectories\.jsonl:1: not a valid Trajectory: task"):
        control.run(context)


def test_a_corrupted_rollout_is_named_with_its_line(tmp_path: Path, root: Path) -> None:
    stage(tmp_path, spec_of(root), 1, played({})[:2])
    rollout = tmp_path / "01" / "rollout" / "trajectories.jsonl"
    rollout.write_text(rollout.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    inputs, output = {"rollout": rollout.parent}, tmp_path / "output"
    context = Context("c", "control", 1, spec_of(root), inputs, output, output, ProfileSpec(), Progress("control 01"))
    with pytest.raises(ArtifactError, match=r"trajectories\.jsonl:3"):
        control.run(context)
    assert not output.exists()


@given(st.lists(st.floats(0, 100), max_size=8), st.integers(0, 500))
def test_shares_are_whole_add_up_and_follow_the_weights(weights: list[float], total: int) -> None:
    shares = apportion(weights, total)
    assert sum(shares) == (total if sum(weights) else 0)
    exact = [total * weight / (sum(weights) or 1) for weight in weights]
    assert all(abs(share - wanted) < 1 + 1e-6 for share, wanted in zip(shares, exact, strict=True))
