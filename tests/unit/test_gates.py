"""Every gate rejects what was planted for it, in its own words, and lets sound tasks through."""

from collections.abc import Callable
from functools import cache

import pytest

from sentinel.env.overlay import Session, Shelves, World
from sentinel.env.tau2 import benchmark_tasks, benchmark_users
from sentinel.proposer.conditions import conditions
from sentinel.proposer.gates import Bench, duplicate, first_rejection, gold_replay, leakage, noop, schema
from sentinel.proposer.leakage import manifest, signature
from sentinel.proposer.reasons import GATE_OF, Reason
from sentinel.proposer.trajectory import generate, shared_scenes, synthetic_scenes
from sentinel.records import Gate, Intent, Json, Origin, OriginKind, Scenario, Task, ToolCall
from sentinel.seeds import generator
from sentinel.spec.models import SyntheticWorld

GENERAL = Origin(kind=OriginKind.general)
CONDITIONS = {condition.condition: condition for condition in conditions()}


@cache
def empty_world() -> World:
    return World.from_data({})


def bench(world: World | None = None) -> Bench:
    world = world or empty_world()
    return Bench(world, manifest([], world, entities=True))


@cache
def made(name: str, number: int = 0, ids: str = "atomic") -> Task:
    """A generated task in an atomic world of its own, or in tau2's database."""
    if ids == "tau2":
        scenes = shared_scenes(World.tau2(), benchmark_users())
    else:
        scenes = synthetic_scenes(empty_world(), SyntheticWorld(type="synthetic", ids="atomic"))
    rng = generator("gates", name, number)
    task = generate(CONDITIONS[name], scenes, rng, task_id=f"{name}-{number}", origin=GENERAL)
    assert task is not None
    return task


def call(name: str, **arguments: Json) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def with_gold(task: Task, *gold: ToolCall) -> Task:
    return task.model_copy(update={"gold": gold})


def last_call(task: Task, **changes: Json) -> Task:
    """The task with other arguments in its last gold call; `None` takes one away."""
    *before, last = task.gold
    arguments = {name: value for name, value in {**last.arguments, **changes}.items() if value is not None}
    return with_gold(task, *before, ToolCall(name=last.name, arguments=arguments))


@pytest.mark.parametrize("ids", ["atomic", "tau2"])
@pytest.mark.parametrize("name", [name for name, condition in CONDITIONS.items() if not condition.declined])
def test_sound_tasks_pass_every_gate(name: str, ids: str) -> None:
    task = made(name, ids=ids)
    world = World.tau2() if ids == "tau2" else empty_world()
    assert first_rejection(task, bench(world)) is None


def test_benchmark_tasks_fail_only_where_the_facts_say_so() -> None:
    """18 official gold answers contain a call that fails, and some are solved by doing nothing (facts/tau2.md §4).

    Most others name no look-ups, or leave to a judge's eye what our gates want to read: they were not made for them.
    """
    held_against = bench(World.tau2())
    rejections = [first_rejection(task, held_against) for task in benchmark_tasks("tau2-base")]
    reasons = [rejection.reason for rejection in rejections if rejection is not None]
    assert reasons.count(Reason.gold_error) == 18
    assert reasons.count(Reason.noop_succeeds) == 5
    assert reasons.count(Reason.unauthenticated) == 38
    assert rejections.count(None) == 6


def test_every_reason_belongs_to_one_gate() -> None:
    assert set(GATE_OF) == set(Reason)
    assert set(GATE_OF.values()) == set(Gate)


SCHEMA: dict[str, tuple[Reason, Callable[[Task], Task]]] = {
    "another world": (Reason.wrong_world, lambda t: t.model_copy(update={"world": "0" * 16})),
    "no world": (Reason.wrong_world, lambda t: t.model_copy(update={"world": ""})),
    "order without items": (Reason.invalid_record, lambda t: _broken(t, "items")),
    "order without an owner": (Reason.invalid_record, lambda t: _broken(t, "user_id")),
    "unknown kind": (Reason.invalid_record, lambda t: t.model_copy(update={"records": {"invoices": {"1": {}}}})),
    "nothing is asked": (Reason.empty_request, lambda t: _asking(t, "")),
    "only blanks": (Reason.empty_request, lambda t: _asking(t, " \n")),
    "invented tool": (Reason.unknown_tool, lambda t: with_gold(t, *t.gold, call("refund_everything"))),
    "misspelt tool": (Reason.unknown_tool, lambda t: with_gold(t, call("cancel_order", order_id="#W10"))),
    "no reason": (Reason.missing_argument, lambda t: last_call(t, reason=None)),
    "no order": (Reason.missing_argument, lambda t: last_call(t, order_id=None)),
    "no argument at all": (Reason.missing_argument, lambda t: with_gold(t, call("get_user_details"))),
    "one argument too many": (Reason.unknown_argument, lambda t: last_call(t, refund="cash")),
    "misspelt extra": (Reason.unknown_argument, lambda t: last_call(t, orderid="#W10")),
    "number for a text": (Reason.wrong_type, lambda t: last_call(t, order_id=10)),
    "text for a list": (
        Reason.wrong_type,
        lambda t: with_gold(
            t, call("return_delivered_order_items", order_id="#W1", item_ids="1010", payment_method_id="p")
        ),
    ),
    "numbers in a list": (
        Reason.wrong_type,
        lambda t: with_gold(
            t, call("return_delivered_order_items", order_id="#W1", item_ids=[1010], payment_method_id="p")
        ),
    ),
    "empty fact": (Reason.unsayable, lambda t: t.model_copy(update={"communicate": ("",)})),
    "blank fact": (Reason.unsayable, lambda t: t.model_copy(update={"communicate": ("54.04", " ")})),
    "fact with a comma": (Reason.unsayable, lambda t: t.model_copy(update={"communicate": ("1,093.34",)})),
}


def _broken(task: Task, key: str) -> Task:
    orders = {
        order_id: {name: value for name, value in order.items() if name != key}
        for order_id, order in task.records["orders"].items()
    }
    return task.model_copy(update={"records": {**task.records, "orders": orders}})


def _asking(task: Task, words: str) -> Task:
    return task.model_copy(update={"scenario": task.scenario.model_copy(update={"reason_for_call": words})})


@pytest.mark.parametrize("planted", SCHEMA)
def test_schema_rejects(planted: str) -> None:
    reason, spoil = SCHEMA[planted]
    rejection = schema(spoil(made("cancel/plain")), bench())
    assert rejection is not None
    assert (rejection.gate, rejection.reason) == (Gate.schema, reason)


GOLD: dict[str, Callable[[], Task]] = {
    "reason that tau2 does not know": lambda: last_call(made("cancel/plain"), reason="changed my mind"),
    "order that does not exist": lambda: last_call(made("cancel/plain"), order_id="#W99"),
    "cancelled twice": lambda: with_gold(
        made("cancel/plain"), *made("cancel/plain").gold, made("cancel/plain").gold[-1]
    ),
    "unknown refund method": lambda: last_call(made("return/original"), payment_method_id="paypal_99"),
    "item of another order": lambda: last_call(made("return/original"), item_ids=["1099"]),
    "item that does not exist": lambda: last_call(made("items/plain"), new_item_ids=["1099"]),
    "fewer new items than old": lambda: last_call(made("exchange/plain"), new_item_ids=[]),
    "same payment method": lambda: last_call(
        made("payment/plain"), payment_method_id=_paid_with(made("payment/plain"))
    ),
    "unknown e-mail": lambda: with_gold(made("transfer/plain"), call("find_user_id_by_email", email="no@body.example")),
    "unknown user": lambda: last_call(made("user_address/plain"), user_id="user_99"),
    "arithmetic that is none": lambda: with_gold(made("transfer/plain"), call("calculate", expression="one + one")),
    "refusal that was attempted": lambda: with_gold(
        made("refuse/cancel_status"),
        *made("refuse/cancel_status").gold,
        call("cancel_pending_order", order_id=_order_read(made("refuse/cancel_status")), reason="no longer needed"),
    ),
}


def _order_read(task: Task) -> str:
    return str(next(c.arguments["order_id"] for c in task.gold if "order_id" in c.arguments))


def _paid_with(task: Task) -> str:
    return str(task.records["orders"][_order_read(task)]["payment_history"][0]["payment_method_id"])


@pytest.mark.parametrize("planted", GOLD)
def test_gold_replay_rejects_answers_that_fail(planted: str) -> None:
    task = GOLD[planted]()
    assert schema(task, bench()) is None
    rejection = first_rejection(task, bench())
    assert rejection is not None
    assert (rejection.gate, rejection.reason) == (Gate.gold_replay, Reason.gold_error)
    assert "Error:" in rejection.detail


class LeakyWorld(World):
    """A world whose sessions share what they write: the fault that made tau2-grpo's scores too high (ERR-001)."""

    shared: Session | None = None

    def lay(self, own: Shelves) -> Session:
        self.shared = self.shared or super().lay(own)
        return self.shared


@pytest.mark.parametrize("name", ["user_address/plain", "address/plain"])
def test_gold_replay_rejects_answers_whose_second_run_differs(name: str) -> None:
    task = made(name)
    leaky = LeakyWorld(empty_world().db)
    write = task.gold[-1]
    there = with_gold(
        task,
        call("get_user_details", user_id=_owner(task)),
        call("get_order_details", order_id=_any_order(task)),
        write,
    )
    rejection = gold_replay(there, bench(leaky))
    assert rejection is not None
    assert rejection.reason is Reason.gold_differs


def _owner(task: Task) -> str:
    return str(task.records["orders"][_any_order(task)]["user_id"])


def _any_order(task: Task) -> str:
    named = [c.arguments["order_id"] for c in task.gold if "order_id" in c.arguments]
    return str(named[0] if named else next(iter(task.records["orders"])))


def test_gold_replay_rejects_writes_to_two_users() -> None:
    cancel = [made("cancel/plain", n, ids="tau2") for n in range(2)]
    users = {World.tau2().db.orders[_any_order(task)].user_id for task in cancel}
    assert len(users) == 2
    rejection = first_rejection(with_gold(cancel[0], cancel[0].gold[-1], cancel[1].gold[-1]), bench(World.tau2()))
    assert rejection is not None
    assert rejection.reason is Reason.several_users


NOOP: dict[str, Callable[[], Task]] = {
    "empty gold": lambda: with_gold(made("cancel/plain")),
    "only reads": lambda: with_gold(made("cancel/plain"), *made("cancel/plain").gold[:-1]),
    "refusal without words": lambda: made("refuse/bad_reason").model_copy(update={"communicate": ()}),
    "transfer without words": lambda: made("transfer/plain").model_copy(update={"communicate": ()}),
    "declined and nothing to say": lambda: made("cancel/declined").model_copy(update={"communicate": ()}),
    "return left out": lambda: with_gold(made("return/original"), *made("return/original").gold[:-1]),
    "exchange left out": lambda: with_gold(made("exchange/plain"), *made("exchange/plain").gold[:-1]),
    "address as it was": lambda: _address_as_it_was(made("user_address/plain")),
    "write undone": lambda: _there_and_back(made("user_address/plain")),
}


def _address_as_it_was(task: Task) -> Task:
    owner = task.gold[-1].arguments["user_id"]
    return last_call(task, **task.records["users"][owner]["address"])


def _there_and_back(task: Task) -> Task:
    return with_gold(task, *task.gold, _address_as_it_was(task).gold[-1])


@pytest.mark.parametrize("planted", NOOP)
def test_noop_rejects_what_is_solved_by_doing_nothing(planted: str) -> None:
    rejection = first_rejection(NOOP[planted](), bench())
    assert rejection is not None
    assert (rejection.gate, rejection.reason) == (Gate.noop, Reason.noop_succeeds)


@pytest.mark.parametrize("words", [(), ("I cannot do that",)])
@pytest.mark.parametrize("name", ["cancel/plain", "return/original", "address/plain", "exchange/plain", "items/plain"])
def test_noop_rejects_refusals_whose_gold_does_what_is_forbidden(name: str, words: tuple[str, ...]) -> None:
    task = made(name)
    changes = {"temptations": task.gold[-1:], "communicate": words, "avoid": ()}
    rejection = first_rejection(task.model_copy(update=changes), bench())
    assert rejection is not None
    assert rejection.reason is Reason.wrong_write_succeeds


def test_some_refusals_forbid_what_the_tools_allow() -> None:
    """Otherwise the check of temptations would never be put to the test by sound tasks."""
    task = made("refuse/bad_reason")
    assert not empty_world().open(task.records).call(task.temptations[0]).error
    assert noop(task, bench()) is None


def test_leakage_names_the_kind_of_leak() -> None:
    world = World.tau2()
    held_out = Bench(world, manifest(benchmark_tasks("tau2-base"), world, entities=True))
    task = made("cancel/plain", ids="tau2")
    assert leakage(task, held_out) is None
    for words, reason in (
        ("I am mei_kovacs_8020.", Reason.leaked_user),
        ("It is like order #W6390527.", Reason.leaked_order),
        ("I am Mei Kovacs, zip code 28236.", Reason.leaked_identity),
    ):
        rejection = leakage(_asking(task, words), held_out)
        assert rejection is not None
        assert (rejection.gate, rejection.reason) == (Gate.leakage, reason)


def _reworded(task: Task) -> Task:
    scenario = Scenario(reason_for_call="Please do it.", intents=(Intent(request="Please do it."),))
    return task.model_copy(update={"id": "another", "scenario": scenario, "knobs": {}})


DUPLICATES: dict[str, Callable[[Task], Task]] = {
    "itself": lambda t: t,
    "another id": lambda t: t.model_copy(update={"id": "another"}),
    "other words": _reworded,
    "without look-ups": lambda t: with_gold(t, t.gold[-1]),
    "more look-ups": lambda t: with_gold(t, call("list_all_product_types"), *t.gold),
    "other line of descent": lambda t: t.model_copy(update={"origin": Origin(kind=OriginKind.targeted, pattern="p")}),
    "forged signature": lambda t: t.model_copy(update={"signature": "new"}),
}


@pytest.mark.parametrize("ids", ["atomic", "tau2"])
@pytest.mark.parametrize("name", ["cancel/plain", "return/original", "exchange/plain", "user_address/plain"])
@pytest.mark.parametrize("planted", DUPLICATES)
def test_duplicate_rejects_equal_solutions(planted: str, name: str, ids: str) -> None:
    task = made(name, ids=ids)
    world = World.tau2() if ids == "tau2" else empty_world()
    held_against = Bench(world, manifest([], world, entities=False), {signature(task, world)})
    rejection = duplicate(DUPLICATES[planted](task), held_against)
    assert rejection is not None
    assert (rejection.gate, rejection.reason) == (Gate.duplicate, Reason.same_solution)
    assert duplicate(made(name, 1, ids=ids), held_against) is None
