"""Bounded shaping: small penalties for conduct, beside the executable reward and logged apart from it.

    measures = conduct(trajectory, length_tokens=16384)      # {"repeated_calls": 0.5, …}, each in [0, 1]
    shaped(played, settings)                                  # its reward's `shaping` is minus the weighted sum

The weights add up to less than 1 (`sentinel.spec.trainer.Shaping`), so any success still outranks any failure. Only the
measured conduct of the agent counts; no model judges. Sources: penalties for format and repeated calls, as in the
paper's trainer (arXiv:2606.12908); the length penalty that grows linearly up to a bound, DAPO's soft overlong
punishment (arXiv:2503.14476, §3.4). A group whose episodes differ in shaping alone carries no information: dividing by
its tiny deviation would blow the penalty up to the size of the task (`sentinel.solver.trainer`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from sentinel.records import Ending, Message, Role, ToolCall, Trajectory, digest
from sentinel.rollout.episode import Played
from sentinel.spec.trainer import Shaping

LOOKUP = "find_user_id_by_"
"""Tools of retail that find out who the customer is."""
IMPERSONAL = frozenset(
    {"calculate", "get_product_details", "list_all_product_types", "think", "transfer_to_human_agents"}
)
"""Tools of retail that touch no customer's data."""


def conduct(trajectory: Trajectory, *, length_tokens: int) -> dict[str, float]:
    """Shares in [0, 1], by the name of their weight: 0 is blameless."""
    messages = trajectory.messages
    calls = list(_calls(messages))
    return {
        "repeated_calls": _share(len(calls) - len({digest(call.model_dump()) for call, _ in calls}), len(calls)),
        "format": min(1.0, _share(_unreadable(trajectory), trajectory.counts.turns)),
        "length": min(1.0, max(0.0, 2.0 * trajectory.counts.tokens / length_tokens - 1.0)),
        "authentication": _share(_before_lookup(calls), len(calls)),
    }


def shaped(played: Played, settings: Shaping) -> Played:
    """The same episode with the shaping in its reward; a void one has none."""
    trajectory, weights = played.trajectory, settings.weights
    if trajectory.reward is None or not weights:
        return played
    measures = conduct(trajectory, length_tokens=settings.length_tokens)
    penalty = sum(weight * measures[name] for name, weight in weights.items())
    reward = trajectory.reward.model_copy(update={"shaping": -penalty})
    return Played(trajectory.model_copy(update={"reward": reward}), played.samples)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _calls(messages: Sequence[Message]) -> Iterator[tuple[ToolCall, bool]]:
    """Every call, and whether it was answered without an error."""
    for n, message in enumerate(messages):
        for offset, call in enumerate(message.tool_calls, start=1):
            answer = messages[n + offset] if n + offset < len(messages) else None
            yield call, answer is not None and answer.role is Role.tool and not answer.error


def _unreadable(trajectory: Trajectory) -> int:
    """Turns that got a tool's error without having called one, and a last one that did not end."""
    answered = pairwise(trajectory.messages)
    wrong = sum(
        said.role is Role.assistant and not said.tool_calls and answer.role is Role.tool and answer.error
        for said, answer in answered
    )
    return wrong + (trajectory.ending is Ending.malformed)


def _before_lookup(calls: Sequence[tuple[ToolCall, bool]]) -> int:
    """Calls about a customer that come before the first successful lookup."""
    count = 0
    for call, fine in calls:
        if call.name.startswith(LOOKUP):
            if fine:
                return count
        elif call.name not in IMPERSONAL:
            count += 1
    return count
