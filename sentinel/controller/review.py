"""A language model's words over the counted patterns: map each failure to a cause, reduce the patterns to themes.

    found = review(Analyst(chat, seed, memory), patterns, Material(diagnosis, trajectories, profiles, history))
    found.patterns, found.instructions, found.account

The model merges, names and explains; counts, conditions and evidence stay the program's. What it claims without
evidence is dropped (`sentinel.controller.claims`), and where nothing of it is left the patterns stand as they were
counted and the account says why. A server that is down is no verdict: that ends the stage, and what was answered is
remembered. What was said in conversations reaches a prompt as JSON only (`sentinel.llm.quoting.quoted`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from sentinel.controller.attribution import Diagnosis
from sentinel.controller.claims import Dropped, Flaw, Place, Reading, Theme, Themes, hold_reading, hold_themes
from sentinel.controller.history import History
from sentinel.controller.mergers import merged
from sentinel.controller.patterns import Group, Profile, condition_of, group_of, holds
from sentinel.controller.wording import prompt
from sentinel.errors import StageError
from sentinel.llm.chat import Chat, ChatError, ChatFault, Said
from sentinel.llm.structured import ATTEMPTS, Memory, T, ask_for
from sentinel.records import Failure, Json, Message, Pattern, Review, Role, Trajectory

AT_ONCE = 8
"""Failures that the model is asked about side by side."""
READINGS = 8
"""Readings per pattern that the reduction is shown."""
AROUND = 6
"""Turns of a dialogue before and after the decisive one that the model sees."""
CLIPPED = 800
"""Characters of a message, or of a value in a label, that it sees."""
MAP_SHARE = 0.8
"""Share of the tokens that the map may have spent before it stops; the rest is for the reduction."""
_DOWN = frozenset({ChatFault.timeout, ChatFault.connection, ChatFault.rate_limited, ChatFault.server})


class Limits(NamedTuple):
    """What one review may cost: questions and tokens in all, as in the chat's budget, and tokens of one answer."""

    calls: int
    tokens: int
    answer: int


class Analyst(NamedTuple):
    """Who is asked."""

    chat: Chat
    limits: Limits
    seed: int
    memory: Memory | None = None

    def ask(self, shape: type[T], question: str) -> T:
        """An answer of this shape; raises `ChatError` where there is none, `StageError` where the server is down."""
        messages = [Said("system", prompt("analyst")), Said("user", question)]
        try:
            return ask_for(
                shape, self.chat, messages, seed=self.seed, max_tokens=self.limits.answer, memory=self.memory
            )
        except ChatError as error:
            if error.fault in _DOWN:
                raise StageError(
                    f"the Controller's model cannot be asked: {error}\n    run again when it answers: "
                    "what it has said so far is remembered"
                ) from None
            raise

    @property
    def may_map(self) -> bool:
        """Whether the budget lasts for more failures and the reduction after them."""
        spent = self.chat.budget.spent
        enough_calls = spent["calls"] + AT_ONCE * ATTEMPTS + ATTEMPTS <= self.limits.calls
        return enough_calls and spent["tokens"] < MAP_SHARE * self.limits.tokens


class Material(NamedTuple):
    """What the patterns were counted from."""

    diagnosis: Diagnosis
    trajectories: Sequence[Trajectory]
    profiles: Sequence[Profile]
    history: History


class Reviewed(NamedTuple):
    """The patterns with a model's words, or as they were counted."""

    patterns: list[Pattern]
    instructions: dict[str, str]
    """Pattern id -> what a task for it must be like."""
    account: Review


class _Account:
    """What became of the model's claims."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.dropped: list[Dropped] = []
        self.explained = self.skipped = 0

    def close(self, reason: str = "") -> Review:
        flaws = Counter(dropped.flaw.value for dropped in self.dropped)
        return Review(
            model=self.model,
            stands=not reason,
            reason=reason,
            explained=self.explained,
            skipped=self.skipped,
            dropped=dict(sorted(flaws.items())),
            details=tuple(map(str, self.dropped)),
        )


def review(analyst: Analyst, patterns: Sequence[Pattern], material: Material) -> Reviewed:
    """Have the model read the failures and put words to the patterns that this diagnosis found.

    Args:
        analyst: who is asked.
        patterns: as counted, in the order of their priority.
        material: what they were counted from.

    Raises:
        StageError: the server does not answer, or refuses the role.
    """
    account = _Account(analyst.chat.model)
    struck = [pattern for pattern in patterns if pattern.found]
    if not struck:
        return Reviewed(list(patterns), {}, account.close("there is no pattern to review"))
    showing = {pattern.id: _failures_of(pattern, material.diagnosis) for pattern in struck}
    readings = _map(analyst, showing, material.trajectories, account)
    shown = [_entry(pattern, showing[pattern.id], readings, material.history) for pattern in struck]
    try:
        answer = analyst.ask(Themes, prompt("reduce", patterns=shown))
    except ChatError as error:
        return Reviewed(list(patterns), {}, account.close(f"the patterns stand as counted: {error}"))
    places = {name: _places(failures) for name, failures in showing.items()}
    themes, dropped = hold_themes(answer.themes, places)
    account.dropped += dropped
    return _apply(themes, patterns, material.profiles, account)


def _failures_of(pattern: Pattern, diagnosis: Diagnosis) -> list[Failure]:
    """The agent's failures that show a pattern."""
    group, condition = group_of(pattern), condition_of(pattern)
    return [
        failure
        for failure in diagnosis.agent_failures
        if Group.of(failure.labels[failure.decisive]) == group and holds(failure.knobs, condition)
    ]


def _places(failures: Sequence[Failure]) -> frozenset[Place]:
    return frozenset((failure.trajectory, label.turn) for failure in failures for label in failure.labels)


def _map(
    analyst: Analyst, showing: Mapping[str, Sequence[Failure]], trajectories: Sequence[Trajectory], account: _Account
) -> dict[str, Reading]:
    """A reading of every failure that shows a pattern, the first patterns first, as far as the budget lasts.

    Failures that look alike, as those of a policy without chance do, are one question.
    """
    played = {f"{trajectory.task.id}#{trajectory.trial}": trajectory for trajectory in trajectories}
    alike: dict[str, list[Failure]] = defaultdict(list)
    for failure in {failure.trajectory: failure for some in showing.values() for failure in some}.values():
        alike[prompt("map", failure=_conversation(failure, played[failure.trajectory]))].append(failure)
    waiting = list(alike)
    readings: dict[str, Reading] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while waiting and analyst.may_map:
            batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            for question, answer in zip(batch, pool.map(partial(_read, analyst), batch), strict=True):
                readings |= _held(alike[question], answer, account)
    account.explained, account.skipped = len(readings), sum(len(alike[question]) for question in waiting)
    return readings


def _read(analyst: Analyst, question: str) -> Reading | str:
    """What the model reads in a conversation, or why it says nothing."""
    try:
        return analyst.ask(Reading, question)
    except ChatError as error:
        return str(error)


def _held(failures: Sequence[Failure], answer: Reading | str, account: _Account) -> dict[str, Reading]:
    """What of an answer holds, for each of the failures that look alike; the account notes what does not."""
    readings: dict[str, Reading] = {}
    for failure in failures:
        if isinstance(answer, str):
            account.dropped.append(Dropped(Flaw.no_answer, f"{failure.trajectory}: {answer}"))
            continue
        reading, dropped = hold_reading(failure, answer)
        account.dropped += dropped
        if reading is not None:
            readings[failure.trajectory] = reading
    return readings


def _conversation(failure: Failure, trajectory: Trajectory) -> Json:
    """What the model sees of one failure."""
    decisive = failure.labels[failure.decisive]
    near = [message for message in trajectory.messages if abs(message.turn - decisive.turn) <= AROUND]
    return {
        "wanted": _clipped(trajectory.task.scenario.reason_for_call),
        "gold": [call.model_dump(mode="json") for call in trajectory.task.gold],
        "labels": [_clip_values(label.model_dump(mode="json", exclude_none=True)) for label in failure.labels],
        "decisive": _clip_values(decisive.model_dump(mode="json", exclude_none=True)),
        "ending": trajectory.ending.value,
        "dialogue": [_spoken(message) for message in near if message.role is not Role.system],
    }


def _spoken(message: Message) -> Json:
    calls = [_clip_values(call.model_dump(mode="json")) for call in message.tool_calls]
    said = {"turn": message.turn, "role": message.role.value, "text": _clipped(message.content)}
    return said | ({"calls": calls} if calls else {})


def _clip_values(values: Mapping[str, Json]) -> dict[str, Json]:
    """The values, those as text that would be too long."""
    return {name: _clipped(value) if len(str(value)) > CLIPPED else value for name, value in values.items()}


def _clipped(value: Json) -> str:
    text = str(value)
    return text if len(text) <= CLIPPED else f"{text[:CLIPPED]}… ({len(text) - CLIPPED} more characters)"


def _entry(
    pattern: Pattern, failures: Sequence[Failure], readings: Mapping[str, Reading], history: History
) -> dict[str, Json]:
    """What the model sees of one pattern."""
    kept = {"id", "category", "tools", "arguments", "condition", "support", "contrast", "description", "evidence"}
    causes = [
        {"trajectory": failure.trajectory, "turns": reading.turns, "cause": reading.cause}
        for failure in failures
        if (reading := readings.get(failure.trajectory)) is not None
    ]
    return pattern.model_dump(mode="json", include=kept | {"status"}) | {
        "earlier_tasks": [passed.model_dump(mode="json") for passed in history.passed(pattern.id)],
        "readings": causes[:READINGS],
    }


def _apply(
    themes: Sequence[Theme], patterns: Sequence[Pattern], profiles: Sequence[Profile], account: _Account
) -> Reviewed:
    """The patterns with the words of their themes; merged ones in the place of their first."""
    taken: dict[str, Pattern] = {}
    instructions: dict[str, str] = {}
    gone: set[str] = set()
    for theme in themes:
        members = [pattern for pattern in patterns if pattern.id in theme.patterns]
        whole = merged(members, profiles)
        if whole is None:
            account.dropped.append(Dropped(Flaw.no_common_condition, f"{theme.name}: {' '.join(theme.patterns)}"))
            continue
        taken[whole.id] = whole.model_copy(update={"name": theme.name, "explanation": theme.explanation})
        instructions[whole.id] = theme.instruction
        gone |= set(whole.merged)
    if not taken:
        return Reviewed(list(patterns), {}, account.close("the patterns stand as counted: no theme holds"))
    kept = [taken.get(pattern.id, pattern) for pattern in patterns if pattern.id not in gone]
    return Reviewed(kept, instructions, account.close())
