"""Gates of the retail policy: the gold answer breaks no rule, and it is clear whom it serves."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel.env.overlay import WRITE_TOOLS
from sentinel.env.rules import broken_by
from sentinel.proposer.gates.bench import Bench, Case
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Json, Task, ToolCall

_FIND = ("find_user_id_by_email", "find_user_id_by_name_zip")
_PRIVATE = frozenset({"get_user_details", "get_order_details"})
_TRANSFER = "transfer_to_human_agents"


def policy(candidate: Task, bench: Bench) -> Rejection | None:
    """The rules that tau2's tools do not check themselves."""
    case = bench.case(candidate)
    return next(_breaches(candidate, case), None)


def _breaches(task: Task, case: Case) -> Iterator[Rejection]:
    customer, transferred = "", False
    for call, result in zip(task.gold, case.gold.results, strict=True):
        if call.name in _FIND:
            customer = str(result.value)
        elif call.name == _TRANSFER:
            transferred = True
        elif not customer and (call.name in WRITE_TOOLS or call.name in _PRIVATE):
            yield Rejection(Reason.unauthenticated, f"{call.name} before it is known who asks")
        if call.name not in WRITE_TOOLS:
            continue
        if rule := broken_by(call, customer, _owner(call, case), transferred):
            yield Rejection(Reason(f"breaks_{rule}"), f"{call.name}({call.arguments})")
    if transferred and case.writes:
        yield Rejection(Reason.needless_transfer, "what can be done is not handed over")
    if any(call in task.temptations for call in case.writes):
        yield Rejection(Reason.forbidden_write, "the gold answer does what the task calls forbidden")


def _owner(call: ToolCall, case: Case) -> str:
    order = call.arguments.get("order_id")
    if order in case.db.orders:
        return str(case.db.orders[str(order)].user_id)
    return str(call.arguments.get("user_id", ""))


def identity(candidate: Task, bench: Bench) -> Rejection | None:
    """The user says who it is, and that is one person in this world."""
    case = bench.case(candidate)
    find = next((call for call in candidate.gold if call.name in _FIND), None)
    if find is None:
        return Rejection(Reason.nobody_authenticated, "the gold answer looks nobody up")
    if missing := [str(value) for value in find.arguments.values() if str(value).lower() not in case.text]:
        return Rejection(Reason.identity_untold, f"the user does not say {', '.join(missing)}")
    if (count := _people(find, case, bench)) != 1:
        return Rejection(Reason.identity_shared, f"{count} people answer to {find.arguments}")
    return None


def _people(find: ToolCall, case: Case, bench: Bench) -> int:
    wanted = tuple(str(value).lower() for value in find.arguments.values())
    own = case.task.records.get("users", {})
    shared = bench.directory.get(wanted, frozenset())
    mine = {key for key, user in own.items() if wanted in _names(user)}
    return len((shared - own.keys()) | mine)


def _names(user: Json) -> set[tuple[str, ...]]:
    named = (user["name"]["first_name"], user["name"]["last_name"], user["address"]["zip"])
    return {(user["email"].lower(),), tuple(str(part).lower() for part in named)}
