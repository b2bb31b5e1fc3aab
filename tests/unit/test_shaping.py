"""Shaping: what each measure counts, that it is bounded, and that no group is informative for its sake alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sentinel.records import Ending, Message, Reward, Role, ToolCall, Trajectory
from sentinel.rollout.episode import Assignment, Played
from sentinel.solver.shaping import conduct, shaped
from sentinel.spec.trainer import Shaping
from tests.unit.solver_toys import task, trajectory

FIND = ToolCall(name="find_user_id_by_email", arguments={"email": "a@b"})
CANCEL = ToolCall(name="cancel_pending_order", arguments={"order_id": "#W1"})
THINK = ToolCall(name="think", arguments={"thought": "hm"})


def episode(
    *turns: tuple[tuple[ToolCall, ...], bool], tokens: int = 0, ending: Ending = Ending.user_stop
) -> Trajectory:
    """Each turn is its calls and whether they were refused; no calls and refused: a call that cannot be read."""
    messages: list[Message] = []
    for number, (calls, refused) in enumerate(turns, start=1):
        messages.append(Message(role=Role.assistant, tool_calls=calls, turn=number))
        answers = [Message(role=Role.tool, error=refused, turn=number) for _ in calls]
        messages += answers or [Message(role=Role.tool if refused else Role.user, error=refused, turn=number)]
    base = trajectory(Assignment(task("t"), 0, 0), True, "p")
    counts = base.counts.model_copy(update={"turns": len(turns), "tokens": tokens})
    return base.model_copy(update={"messages": tuple(messages), "counts": counts, "ending": ending})


def test_an_orderly_episode_is_blameless() -> None:
    orderly = episode(((FIND,), False), ((), False), ((CANCEL,), False), tokens=100)
    assert conduct(orderly, length_tokens=1000) == {
        "repeated_calls": 0.0, "format": 0.0, "length": 0.0, "authentication": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "name", "share"),
    [
        (episode(((FIND,), False), ((CANCEL, CANCEL), True)), "repeated_calls", 1 / 3),
        (episode(((), True), ((), False)), "format", 1 / 2),
        (episode(((), False), ((), False), ending=Ending.malformed), "format", 1 / 2),
        (episode(((), False), tokens=750), "length", 0.5),
        (episode(((), False), tokens=5000), "length", 1.0),
        (episode(((CANCEL,), True), ((FIND,), False), ((CANCEL,), False)), "authentication", 1 / 3),
        (episode(((FIND,), True), ((CANCEL,), True)), "authentication", 1 / 2),
        (episode(((THINK,), False)), "authentication", 0.0),
    ],
)
def test_what_a_measure_counts(told: Trajectory, name: str, share: float) -> None:
    assert conduct(told, length_tokens=1000)[name] == pytest.approx(share)


def test_the_worst_success_is_above_the_best_failure() -> None:
    settings = Shaping(repeated_calls=0.2, format=0.3, length=0.3, authentication=0.19, length_tokens=1)
    worst = episode(((CANCEL, CANCEL, CANCEL), True), ((), True), tokens=10, ending=Ending.malformed)
    reward = shaped(Played(worst, ()), settings).trajectory.reward
    assert reward is not None
    assert reward.total == 1.0
    assert 0.0 < reward.total + reward.shaping < 0.6
    failure = worst.model_copy(update={"reward": Reward(db=0.0, communicate=1.0)})
    failed = shaped(Played(failure, ()), settings).trajectory.reward
    assert failed is not None
    assert failed.total + failed.shaping < 0.0


def test_weights_that_could_make_a_failure_win_are_refused() -> None:
    with pytest.raises(ValidationError, match="add up to 1"):
        Shaping(repeated_calls=0.5, length=0.5)


def test_without_weights_nothing_is_touched_and_a_void_has_no_shaping() -> None:
    played = Played(episode(((CANCEL,), True)), ())
    assert shaped(played, Shaping()) is played
    void = Played(trajectory(Assignment(task("t"), 0, 0), None, "p"), ())
    assert shaped(void, Shaping(format=0.5)) is void
