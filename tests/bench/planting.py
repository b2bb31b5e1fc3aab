"""Faults planted into conversations that went well: who did what wrong, at which turn, in the planter's own words.

    for planted in plant(base, number): planted.trajectory, planted.truth, planted.decisive, planted.party

A conversation is a list of items (what the user said, what the agent said or called); a fault edits the list, and the
world answers anew. The truth is stated by the edit, never by the code under test: nothing of `sentinel.controller` is
imported. Left out: faults that change nothing that anybody could see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sentinel.env.overlay import WRITE_TOOLS, World
from sentinel.env.scoring import gold_delta, score
from sentinel.records import (
    Counts,
    Ending,
    Json,
    Message,
    Outcome,
    Party,
    Reward,
    Role,
    Task,
    ToolCall,
    Trajectory,
)
from sentinel.records import LabelKind as Kind

TRANSFER = ToolCall(name="transfer_to_human_agents", arguments={"summary": "cannot help"})
LOST = "Hm, let me think about that for a moment."


@dataclass(eq=False)
class Item:
    """Something said, or a turn of calls."""

    role: Role
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    """What the tool is made to answer, as an error, without being called."""
    origin: int = 0
    """Tells whose altered copy it is: an item and its copies have one origin."""

    def __post_init__(self) -> None:
        self.origin = self.origin or id(self)


Items = list[Item]
Truth = list[tuple[Kind, Item | None]]
"""Labels with the item of their turn; `None` is the last turn."""


class Fault(NamedTuple):
    """An edited conversation and what is true of it."""

    name: str
    task: Task
    items: Items
    truth: Truth
    decisive: Kind
    party: Party = Party.agent
    ending: Ending = Ending.user_stop
    delta: Mapping[str, Json] | None = None
    """The end state to be recorded, where it is not the one that the calls lead to."""


class Planted(NamedTuple):
    """A fault in a trajectory."""

    name: str
    trajectory: Trajectory
    truth: frozenset[tuple[Kind, int]]
    decisive: Kind
    party: Party
    unchanged: Mapping[int, int]
    """Turns that stand in the base as well, or in another version, and what number they have there."""


class Base(NamedTuple):
    """A conversation that went well."""

    task: Task
    items: Items
    world: World
    real: bool


def items_of(trajectory: Trajectory) -> Items:
    """A trajectory's conversation, without the tools' answers."""
    return [
        Item(message.role, message.content, message.tool_calls)
        for message in trajectory.messages
        if message.role is not Role.tool
    ]


class _Performed(NamedTuple):
    trajectory: Trajectory
    turns: dict[int, int]
    """Turn of each agent item, by identity."""
    refused: set[int]
    """Items one of whose calls was refused, by identity."""


def perform(fault: Fault, world: World) -> _Performed:
    """Let the world answer and score the conversation."""
    session, gold = world.open(fault.task.records), gold_delta(world, fault.task)
    messages: list[Message] = []
    turns: dict[int, int] = {}
    refused: set[int] = set()
    turn = -1 if fault.items[0].role is Role.assistant else 0
    for item in fault.items:
        turn += item.role is Role.assistant
        turns[id(item)] = turn
        messages.append(Message(role=item.role, content=item.text, tool_calls=item.calls, turn=max(turn, 0)))
        for call in item.calls:
            result = None if item.answer else session.call(call)
            text, error = (result.text, result.error) if result else (item.answer or "", True)
            refused |= {id(item)} if error else set()
            messages.append(Message(role=Role.tool, content=text, error=error, turn=max(turn, 0)))
    delta = session.delta() if fault.delta is None else dict(fault.delta)
    trajectory = _scored(fault, messages, delta, gold, turn)
    return _Performed(trajectory, turns, refused)


def _scored(fault: Fault, messages: list[Message], delta: dict[str, Json], gold: dict, last: int) -> Trajectory:
    texts = [m.content for m in messages if m.role is Role.assistant and not m.tool_calls]
    ended = fault.ending is Ending.user_stop
    reward = score(fault.task, delta, gold, texts) if ended else Reward(db=0.0, communicate=0.0)
    return Trajectory(
        task=fault.task,
        trial=0,
        seed=0,
        policy="planted",
        messages=tuple(messages),
        ending=fault.ending,
        outcome=Outcome.success if reward.total == 1.0 else Outcome.failure,
        reward=reward,
        world_delta=delta,
        gold_delta=gold,
        counts=Counts(turns=max(last, 0), tokens=0, errors=sum(m.error for m in messages)),
    )


def planted(fault: Fault, base: Base) -> Planted | None:
    """The fault in a trajectory with its truth in turns; `None` where the world lets it pass as a success."""
    done = perform(fault, base.world)
    if done.trajectory.outcome is not Outcome.failure:
        return None
    last = max(done.turns.values())
    before = perform(fault._replace(task=base.task, items=base.items), base.world)
    truth = {(kind, done.turns[id(item)] if item else last) for kind, item in fault.truth}
    for kind, item in fault.truth:
        if item is None or id(item) not in done.refused:
            continue
        turn = done.turns[id(item)]
        if kind is Kind.extra_write or fault.party is Party.user_simulator:
            return None
        if kind in {Kind.wrong_record, Kind.wrong_argument}:
            truth |= {(Kind.tool_error, turn), (Kind.missing_write, last)}
        if kind is Kind.unconfirmed_write:
            truth -= {(kind, turn)}
        if kind is Kind.against_policy:
            truth.add((Kind.tool_error, turn))
    truth |= {(Kind.missing_communication, last) for _ in unsaid(fault)}
    if TRANSFER.name in _called(_made(base.items)) and TRANSFER.name not in _called(_made(fault.items)):
        truth.add((Kind.missing_transfer, last))
    for item in fault.items:
        if id(item) in done.refused and id(item) in before.turns and id(item) not in before.refused:
            truth |= {(Kind.tool_error, done.turns[id(item)]), (Kind.missing_write, last)}
    origins = {item.origin: before.turns[id(item)] for item in base.items}
    kept = {done.turns[id(item)]: origins[item.origin] for item in fault.items if item.origin in origins}
    return Planted(fault.name, done.trajectory, frozenset(truth), fault.decisive, fault.party, kept)


def _made(items: Sequence[Item]) -> list[ToolCall]:
    return [call for item in items for call in item.calls]


def _called(made: Sequence[ToolCall]) -> set[str]:
    return {call.name for call in made}


def pure(base: Base) -> bool:
    """Whether a conversation has nothing of its own that a planted fault could be mistaken for.

    Refused writes (the gold answer's, too), needless transfers and repeated calls of the base would get another meaning
    by the fault, of which the planter knows nothing.
    """
    session = base.world.open(base.task.records)
    if any(session.call(call).error for call in base.task.gold if call.name in WRITE_TOOLS):
        return False
    made = _made(base.items)
    done = perform(Fault("none", base.task, base.items, [], Kind.gave_up), base.world)
    refused = [item for item in writing(base.items) if id(item) in done.refused]
    transferred = TRANSFER.name in _called(made) and TRANSFER.name not in _called(base.task.gold)
    transferred |= TRANSFER.name in _called(base.task.gold) and TRANSFER.name not in _called(made)
    repeated = any(made.count(call) > 1 for call in made)
    return done.trajectory.outcome is Outcome.success and not (refused or transferred or repeated)


def unsaid(fault: Fault) -> list[str]:
    """Facts that the agent had to say and does not, where the fault is not that it says them wrongly."""
    said = [item.text.lower().replace(",", "") for item in fault.items if item.role is Role.assistant]
    missing = [fact for fact in fault.task.communicate if not any(fact.lower() in text for text in said)]
    return [] if any(kind is Kind.wrong_communication for kind, _ in fault.truth) else missing


def writing(items: Sequence[Item]) -> list[Item]:
    """Turns that write."""
    return [item for item in items if any(call.name in WRITE_TOOLS for call in item.calls)]


def gold_writes(task: Task) -> list[ToolCall]:
    """The writes of the gold answer."""
    return [call for call in task.gold if call.name in WRITE_TOOLS]


def without(items: Sequence[Item], gone: Item) -> Items:
    """The items but one."""
    return [item for item in items if item is not gone]


def instead(items: Sequence[Item], old: Item, *new: Item) -> Items:
    """The items with one replaced."""
    return [other for item in items for other in (new if item is old else (item,))]


def until(items: Sequence[Item], end: Item) -> Items:
    """The items before one."""
    return list(items[: next(place for place, item in enumerate(items) if item is end)])


def altered(item: Item, **arguments: Json) -> Item:
    """A turn of one call with other arguments."""
    (call,) = item.calls
    return replace(item, calls=(call.model_copy(update={"arguments": call.arguments | arguments}),))


def says(text: str) -> Item:
    """A message of the agent."""
    return Item(Role.assistant, text)


def answers(text: str) -> Item:
    """A message of the user."""
    return Item(Role.user, text)


def calls(name: str, **arguments: Json) -> Item:
    """A turn of one call."""
    return Item(Role.assistant, calls=(ToolCall(name=name, arguments=arguments),))


Planter = Callable[[Base], Iterator[Fault]]


def plant(base: Base, planters: Sequence[Planter]) -> Iterator[Planted]:
    """Every fault that fits a conversation and makes it fail."""
    for planter in planters:
        for fault in planter(base):
            if found := planted(fault, base):
                yield found
