"""Evidence against others than the agent: the user simulator, the task, the infrastructure. Each piece has a turn.

    for suspicion, decides in suspicions(trajectory, steps, step): …

Some of it decides the matter: the gold answer cannot be right, the user left before the agent could finish, the agent
did to the letter what the user confirmed. The rest is kept beside the verdict for whoever reads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sentinel.artifacts import canonical
from sentinel.controller.evidence import gold_writes
from sentinel.controller.steps import Step, Steps, agrees, differing, record_of
from sentinel.env.overlay import TOOLS
from sentinel.env.rules import Rule, broken_by
from sentinel.env.user_faults import find_fault
from sentinel.env.users import FAULT, STOP, ends
from sentinel.records import Ending, Json, Label, LabelKind, Message, Party, Role, Suspicion, ToolCall, Trajectory

ENVIRONMENT_FAULT = "environment fault: "
"""Begins the message that notes a fault of the tools in a trajectory."""
_LEAVES = ("###TRANSFER###", "###OUT-OF-SCOPE###")
_AT_THE_END = frozenset(
    {
        LabelKind.missing_write,
        LabelKind.missing_communication,
        LabelKind.missing_transfer,
        LabelKind.gave_up,
    }
)
_BROKEN_DOWN = re.compile(
    r"\btime[d-]? ?out\b|connection (?:refused|reset|error|aborted)|internal server error|service unavailable"
    r"|bad gateway|traceback \(most recent|out of memory|rate limit",
    re.IGNORECASE,
)
_THROUGH = re.compile(r"(?:any|some)thing else|else (?:i|we) can|further (?:help|assist|question)", re.IGNORECASE)
_CLAIMS = re.compile(
    r"\b(?:has|have) been (?:submitted|processed|placed|completed|cancelled|canceled|updated|changed|modified)\b"
    r"|\ball set\b|\bit is done\b|\bi(?:’|')ve (?:submitted|processed|placed|completed|cancelled|updated|changed)\b",
    re.IGNORECASE,
)
_CONSENT = re.compile(r"\b(?:yes|go ahead|proceed|confirm|please do|do it)\b", re.IGNORECASE)
_OF_THE_REQUEST = frozenset({"item_ids", "new_item_ids", "order_id", "user_id"})
"""Arguments that say what the user wants: its scenario decides them, whatever their spelling there."""


class Found(NamedTuple):
    """A piece of evidence."""

    suspicion: Suspicion
    decides: bool
    """Whether it clears the agent."""


def suspicions(trajectory: Trajectory, steps: Steps, step: Label) -> list[Found]:
    """All evidence against others, the strongest party first: infrastructure, task, user simulator.

    Args:
        trajectory: a failed episode.
        steps: its steps.
        step: its decisive label.
    """
    sources: tuple[Callable[[Trajectory, Steps, Label], Iterator[Found]], ...] = (
        _infrastructure,
        _task,
        _dictated,
        _noted,
        _left,
        _misbehaved,
    )
    return [found for source in sources for found in source(trajectory, steps, step)]


def _found(party: Party, reason: str, turn: int, decides: bool = True) -> Found:
    return Found(Suspicion(party=party, reason=reason, turn=turn), decides)


def _infrastructure(trajectory: Trajectory, steps: Steps, step: Label) -> Iterator[Found]:
    """The record contradicts itself, or a tool broke down before the decisive step."""
    if trajectory.world_delta and not steps.written:
        yield _found(Party.infrastructure, "the world changed though no write went through", steps.last)
    for message in trajectory.messages:
        if message.role is Role.system and message.content.startswith(ENVIRONMENT_FAULT):
            yield _found(Party.infrastructure, message.content, message.turn, message.turn <= step.turn)
    failed = (each for each in steps.calls if each.error and each.call.name in TOOLS)
    broken = next((each for each in failed if _BROKEN_DOWN.search(each.answer)), None)
    if broken is not None:
        reason = f"{broken.call.name} broke down: {broken.answer[:80]}"
        yield _found(Party.infrastructure, reason, broken.turn, broken.turn <= step.turn)


def _task(trajectory: Trajectory, steps: Steps, step: Label) -> Iterator[Found]:
    """The gold answer cannot be right."""
    task = trajectory.task
    for fact in task.communicate:
        if any(statement.lower() in fact.lower() for statement in task.avoid):
            yield _found(Party.task, f"the task both requires and forbids to say '{fact}'", step.turn)
    writes = gold_writes(trajectory)
    orders = differing(_orders(trajectory.world_delta), _orders(trajectory.gold_delta))
    for_itself = {record_of(call) for call in writes if broken_by(call, "", "") is Rule.same_item}
    refused = set(_without_effect(writes, trajectory.gold_delta))
    for faults, reason in (
        (for_itself, "the gold answer exchanges an item for itself in"),
        (refused, "the tools refuse the gold answer's own write on"),
    ):
        if faults & orders:
            records = ", ".join(sorted(faults & orders))
            yield _found(Party.task, f"{reason} {records}", step.turn, orders <= for_itself | refused)


def _orders(delta: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    return {"orders": delta.get("orders", {})}


def _without_effect(writes: Sequence[ToolCall], gold_delta: dict[str, Json]) -> Iterator[str]:
    """Records that the gold answer writes to once, and that are nevertheless as they were."""
    changed = {key for records in gold_delta.values() for key in records}
    counts = Counter(record_of(call) for call in writes)
    yield from (record for record, count in counts.items() if record and count == 1 and record not in changed)


def _dictated(trajectory: Trajectory, steps: Steps, step: Label) -> Iterator[Found]:
    """The agent wrote, with the user's consent, just what the user had named, and the gold answer wants otherwise."""
    made = next((s for s in steps.written if s.turn == step.turn and s.confirmed and _is_of(s, step)), None)
    if made is None:
        return
    before = " ".join(text for turn, text in steps.heard if turn < step.turn).lower()
    if step.kind is LabelKind.extra_write:
        if _named(made.call, before) and not _asked_for_gold(trajectory, before):
            reason = "the user named and confirmed a write that it should not want"
            yield _found(Party.user_simulator, reason, step.turn)
    elif step.argument is not None and not _used_elsewhere(trajectory, step):
        yield from _named_argument(trajectory, step, before)


def _named_argument(trajectory: Trajectory, step: Label, before: str) -> Iterator[Found]:
    """The user named the wrong value, and never the right one: against its scenario, or because nothing settles it."""
    given, wanted = set(_parts(step.actual)), set(_parts(step.expected))
    absent = wanted - given
    if given == wanted or not all(part in before for part in given) or any(part in before for part in absent):
        return
    against = step.argument in _OF_THE_REQUEST or any(part in _scenario(trajectory) for part in absent)
    gold = "its scenario wants" if against else "nothing settles that it must be"
    reason = f"the user named and confirmed {step.argument} = {_brief(step.actual)}; {gold} {_brief(step.expected)}"
    yield _found(Party.user_simulator if against else Party.task, reason, step.turn)


def _named(call: ToolCall, before: str) -> bool:
    """Whether the user had named the record and the items; of an exchange, the old or the new ones."""
    lists = [_parts(value) for value in call.arguments.values() if isinstance(value, list)]
    rest = [part for value in call.arguments.values() for part in _parts(value)]
    wanted = lists or [rest]
    return record_of(call).lower() in before and any(all(part in before for part in parts) for parts in wanted)


def _is_of(made: Step, label: Label) -> bool:
    if label.argument is None:
        return made.call.name == label.tool
    return canonical(made.call.arguments.get(label.argument)) == canonical(label.actual)


def _parts(value: Json) -> list[str]:
    """A value as the words in which a user can name it."""
    values = value if isinstance(value, list) else [value]
    return [str(part).lower() for part in values if part not in (None, "")]


def _brief(value: Json) -> str:
    return " + ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _asked_for_gold(trajectory: Trajectory, before: str) -> bool:
    """Whether the user had also asked for a gold write that is missing: then the agent should have warned it."""
    made = differing(trajectory.world_delta, trajectory.gold_delta)
    for call in gold_writes(trajectory):
        items = [*_parts(call.arguments.get("item_ids")), *_parts(call.arguments.get("new_item_ids"))]
        if record_of(call) in made and any(item in before for item in items):
            return True
    return False


def _used_elsewhere(trajectory: Trajectory, step: Label) -> bool:
    """The value is right in another place: the agent has mixed up two requests."""
    values = [call.arguments.get(step.argument or "") for call in gold_writes(trajectory)]
    return any(canonical(value) == canonical(step.actual) for value in values)


def _scenario(trajectory: Trajectory) -> str:
    said = trajectory.task.scenario
    facts = [fact for intent in said.intents for fact in (intent.request, *intent.facts.values())]
    return " ".join([said.reason_for_call, said.known_info, said.unknown_info, said.instructions, *facts]).lower()


def _noted(trajectory: Trajectory, steps: Steps, step: Label) -> Iterator[Found]:
    """Faults of the user that were noted while the episode was played."""
    for message in trajectory.messages:
        if message.role is Role.system and message.content.startswith(FAULT):
            yield _found(Party.user_simulator, message.content, message.turn)


def _left(trajectory: Trajectory, steps: Steps, step: Label) -> Iterator[Found]:
    """The user left before the agent could finish; it decides unless the agent erred or claimed to be through."""
    if trajectory.ending is not Ending.user_stop or not trajectory.messages:
        return
    final = trajectory.messages[-1]
    if final.role is not Role.user:
        return
    claims = bool(steps.texts) and _CLAIMS.search(steps.texts[-1][1]) is not None
    open_end = step.kind in _AT_THE_END and not claims
    if any(token in final.content for token in _LEAVES) and steps.transferred is None:
        reason = "the user left for a human agent without having been transferred"
        yield _found(Party.user_simulator, reason, final.turn, open_end)
    if STOP in final.content and _was_asked(steps) and _goes_on(final.content):
        reason = "the user stopped while agreeing to or asking for the next step"
        yield _found(Party.user_simulator, reason, final.turn, open_end)


def _was_asked(steps: Steps) -> bool:
    """The agent's last words asked for consent, not whether there was anything else."""
    last = steps.texts[-1][1] if steps.texts else ""
    return ("?" in last or "confirm" in last.lower()) and not _THROUGH.search(last)


def _goes_on(text: str) -> bool:
    words = text.replace(STOP, "")
    return (agrees(words) and _CONSENT.search(words) is not None) or "let me know once" in words.lower()


def _misbehaved(trajectory: Trajectory, steps: Steps, step: Label) -> Iterator[Found]:
    """A breach of the rules that live users are held to, in the words before the decisive step; it decides nothing."""
    exchanges = [(m, agent) for m, agent in _exchanges(trajectory.messages) if m.turn < step.turn]
    if not exchanges or ends(exchanges[-1][0].content):
        return
    heard, said = [agent for _, agent in exchanges], [message.content for message, _ in exchanges]
    kind = find_fault(trajectory.task.scenario, heard, said, lambda: True)
    if kind is not None:
        yield _found(Party.user_simulator, f"{FAULT}{kind.value}", exchanges[-1][0].turn, decides=False)


def _exchanges(messages: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    """The user's messages, each with the agent's words that it answers."""
    agent = ""
    for message in messages:
        if message.role is Role.assistant and not message.tool_calls:
            agent = message.content
        elif message.role is Role.user:
            yield message, agent
