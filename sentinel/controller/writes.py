"""The gold writes against the writes that were made: what is missing, what is too much, what went to the wrong place.

Writes are paired by tool and record in rounds, from the closest match to the loosest: the same call, the same tool on
the same record, the same tool elsewhere. A record that ended as the gold answer leaves it accuses nobody (the agent
mended its mistake, or the gold write has no effect), so only writes on records that differ give labels.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence

from sentinel.artifacts import canonical
from sentinel.controller.steps import Step, Steps, record_of
from sentinel.records import Json, Label, LabelKind, ToolCall

_RECORD_ARGUMENTS = frozenset({"order_id", "user_id"})
_ITEMS = ("item_ids", "new_item_ids")
Pair = tuple[ToolCall, Step]


def compare(gold: Sequence[ToolCall], steps: Steps, differs: Collection[str]) -> list[Label]:
    """Labels of the writes, where the end states differ.

    Args:
        gold: the gold writes, in order.
        steps: what the agent did.
        differs: ids of the records whose end state is not the gold one.
    """
    if not differs:
        return []
    written = steps.written
    exact, missing, extra = _pair(gold, written, _same_call)
    near, missing, extra = _pair(missing, extra, _same_record)
    far, missing, extra = _pair(missing, extra, _same_tool)
    labels = [label for pair in near + far for label in _wrong(*pair) if _touches(differs, *pair)]
    missing = [call for call in missing if record_of(call) in differs]
    labels += [label for pair in _attempts(missing, steps.attempted) for label in _failed(*pair)]
    labels += [_missing(call, steps.last) for call in missing]
    labels += [_extra(step, missing) for step in extra if record_of(step.call) in differs]
    return labels or list(_order(gold, written, exact))


def _pair(
    gold: Sequence[ToolCall], steps: Sequence[Step], key: Callable[[ToolCall], Hashable]
) -> tuple[list[Pair], list[ToolCall], list[Step]]:
    """Pair calls of equal key in order of appearance; returns the pairs and what is left on either side."""
    waiting: dict[Hashable, deque[Step]] = defaultdict(deque)
    for step in steps:
        waiting[key(step.call)].append(step)
    pairs: list[Pair] = []
    left: list[ToolCall] = []
    for call in gold:
        if queue := waiting[key(call)]:
            pairs.append((call, queue.popleft()))
        else:
            left.append(call)
    taken = {id(step) for _, step in pairs}
    return pairs, left, [step for step in steps if id(step) not in taken]


def _attempts(missing: Sequence[ToolCall], refused: Sequence[Step]) -> list[Pair]:
    """The missing writes that the agent tried and the tool refused."""
    near, left, rest = _pair(missing, refused, _same_record)
    far, _, _ = _pair(left, rest, _same_tool)
    return near + far


def _same_call(call: ToolCall) -> Hashable:
    return call.name, canonical(_normal(call.arguments))


def _same_record(call: ToolCall) -> Hashable:
    return call.name, record_of(call)


def _same_tool(call: ToolCall) -> Hashable:
    return call.name


def _normal(arguments: dict[str, Json]) -> dict[str, Json]:
    """Arguments without the order of items: the two item lists belong together and are sorted as pairs."""
    items, new = (arguments.get(name) for name in _ITEMS)
    if not isinstance(items, list):
        return arguments
    if not isinstance(new, list) or len(new) != len(items):
        return arguments | {"item_ids": sorted(map(str, items))}
    pairs = sorted((str(a), str(b)) for a, b in zip(items, new, strict=True))
    return arguments | {"item_ids": [a for a, _ in pairs], "new_item_ids": [b for _, b in pairs]}


def differences(gold: ToolCall, actual: ToolCall) -> list[str]:
    """Names of the arguments that differ, sorted; replacements are compared only where the replaced items agree."""
    wanted, given = _normal(gold.arguments), _normal(actual.arguments)
    names = [name for name in sorted(wanted.keys() | given.keys()) if wanted.get(name) != given.get(name)]
    return [name for name in names if name != "new_item_ids"] if "item_ids" in names else names


def _touches(differs: Collection[str], gold: ToolCall, step: Step) -> bool:
    return record_of(gold) in differs or record_of(step.call) in differs


def _wrong(gold: ToolCall, step: Step) -> Iterator[Label]:
    """Every differing argument; with the wrong record the other arguments cannot be compared."""
    names = differences(gold, step.call)
    records = [name for name in names if name in _RECORD_ARGUMENTS]
    for name in records or names:
        kind = LabelKind.wrong_record if records or _swapped(name, gold, step.call) else LabelKind.wrong_argument
        yield Label(
            kind=kind,
            turn=step.turn,
            tool=gold.name,
            argument=name,
            expected=gold.arguments.get(name),
            actual=step.call.arguments.get(name),
        )


def _swapped(name: str, gold: ToolCall, actual: ToolCall) -> bool:
    """Whether as many items were named as should be, but others."""
    wanted, given = gold.arguments.get(name), actual.arguments.get(name)
    return name == "item_ids" and isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given)


def _failed(gold: ToolCall, step: Step) -> Iterator[Label]:
    """A missing write that was tried: with wrong arguments, or with the right ones in a state that forbids it."""
    labels = list(_wrong(gold, step))
    yield from labels or [Label(kind=LabelKind.tool_error, turn=step.turn, tool=gold.name, actual=step.call.arguments)]


def _missing(gold: ToolCall, last: int) -> Label:
    return Label(kind=LabelKind.missing_write, turn=last, tool=gold.name, expected=gold.arguments)


def _extra(step: Step, missing: Sequence[ToolCall]) -> Label:
    """A write too many; what was wanted of the same record instead, if anything, stands beside it."""
    instead = next((call for call in missing if record_of(call) == record_of(step.call)), None)
    expected = instead and {"name": instead.name, "arguments": instead.arguments}
    return Label(
        kind=LabelKind.extra_write, turn=step.turn, tool=step.call.name, expected=expected, actual=step.call.arguments
    )


def _order(gold: Sequence[ToolCall], written: Sequence[Step], exact: Sequence[Pair]) -> Iterator[Label]:
    """The same writes with another end state: their sequence differs, or the order of items within one."""
    for call, step in zip(gold, written, strict=False):
        if _same_call(call) != _same_call(step.call):
            yield Label(
                kind=LabelKind.wrong_order,
                turn=step.turn,
                tool=step.call.name,
                expected=call.name,
                actual=step.call.name,
            )
            return
    for call, step in exact:
        if call.arguments.get("item_ids") != step.call.arguments.get("item_ids"):
            yield Label(
                kind=LabelKind.wrong_argument,
                turn=step.turn,
                tool=call.name,
                argument="item_ids",
                expected=call.arguments.get("item_ids"),
                actual=step.call.arguments.get("item_ids"),
            )
