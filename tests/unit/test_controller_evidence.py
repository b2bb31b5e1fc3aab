"""Faults planted into perfect episodes over tau2's tools are found: the kind, the turn, the tool, the argument."""

import pytest

from sentinel.controller.attribution import diagnose, explain
from sentinel.env.overlay import World
from sentinel.env.tau2 import benchmark_tasks
from sentinel.proposer.conditions import conditions
from sentinel.records import (
    Ending,
    Label,
    LabelKind,
    Message,
    Outcome,
    Party,
    Role,
    Task,
    ToolCall,
    Trajectory,
    VoidReason,
)
from tests.unit.controller_cases import (
    CONFIRM,
    DENY,
    DONE,
    TRANSFER,
    TRANSFERRED,
    Move,
    changed,
    expert,
    made,
    play,
    reads,
    replacing,
    voided,
    writes,
)

ALL = [condition.condition for condition in conditions()]
WRITING = [name for name in ALL if name.split("/")[0] not in {"refuse", "transfer"} and name != "cancel/declined"]


def verdict(played: Trajectory) -> Label:
    """The decisive label of a failed episode, which must be the agent's."""
    assert played.outcome is Outcome.failure
    failure = explain(played)
    assert failure.attribution.party is Party.agent, failure.attribution
    return failure.labels[failure.decisive]


def found(label: Label) -> tuple[LabelKind, int, str | None, str | None]:
    return label.kind, label.turn, label.tool, label.argument


def other_order(task: Task, than: str) -> str:
    return next(order for order in task.records["orders"] if order != than)


def other_method(task: Task, call: ToolCall) -> str:
    user = task.records["orders"][call.arguments["order_id"]]["user_id"]
    methods = task.records["users"][user]["payment_methods"]
    return next(method for method in methods if method != call.arguments["payment_method_id"])


@pytest.mark.parametrize("name", [name for name in ALL if not name.endswith("declined")])
def test_the_perfect_agent_succeeds(name: str) -> None:
    assert play(made(name), expert(made(name))).outcome is Outcome.success


@pytest.mark.parametrize("name", WRITING)
def test_a_dropped_write_is_missing(name: str) -> None:
    task = made(name)
    dropped = writes(task)[-1]
    moves = replacing(expert(task), dropped)
    label = verdict(play(task, moves))
    assert found(label) == (LabelKind.missing_write, len(moves), dropped.name, None)
    assert label.expected == dropped.arguments


def test_a_wrong_argument_is_named_with_its_turn() -> None:
    task = made("cancel/plain")
    (write,) = writes(task)
    reason = {"no longer needed": "ordered by mistake"}.get(write.arguments["reason"], "no longer needed")
    moves = replacing(expert(task), write, changed(write, reason=reason))
    label = verdict(play(task, moves))
    assert found(label) == (LabelKind.wrong_argument, len(moves) - 1, "cancel_pending_order", "reason")
    assert (label.expected, label.actual) == (write.arguments["reason"], reason)


def test_a_refund_to_another_method_is_a_wrong_argument() -> None:
    task = made("return/named")
    (write,) = writes(task)
    order = task.records["orders"][write.arguments["order_id"]]
    original = order["payment_history"][0]["payment_method_id"]
    assert original != write.arguments["payment_method_id"]
    moves = replacing(expert(task), write, changed(write, payment_method_id=original))
    assert found(verdict(play(task, moves)))[2:] == ("return_delivered_order_items", "payment_method_id")


def test_a_wrong_variant_is_the_new_item_and_only_that() -> None:
    task = made("exchange/plain")
    (write,) = writes(task)
    theirs = [p["variants"] for p in task.records["products"].values()]
    foreign = next(min(variants) for variants in theirs if write.arguments["item_ids"][0] not in variants)
    moves = replacing(expert(task), write, changed(write, new_item_ids=[foreign]))
    failure = explain(play(task, moves))
    label = failure.labels[failure.decisive]
    assert found(label)[0::2] == (LabelKind.wrong_argument, "exchange_delivered_order_items")
    assert label.argument == "new_item_ids"
    assert {label.kind for label in failure.labels} == {
        LabelKind.wrong_argument,
        LabelKind.tool_error,
        LabelKind.missing_write,
    }, "the tool refuses an item of another product; the refusal and the missing write stand beside the cause"


@pytest.mark.parametrize("name", ["exchange/plain", "exchange/two_items", "two/address_exchange"])
def test_an_item_exchanged_for_itself_is_a_wrong_argument_of_a_write_that_was_allowed(name: str) -> None:
    """The gold answer makes this exchange with other variants: nothing had to be refused."""
    task = made(name)
    write = next(write for write in writes(task) if write.name == "exchange_delivered_order_items")
    moves = replacing(expert(task), write, changed(write, new_item_ids=write.arguments["item_ids"]))
    failure = explain(play(task, moves))
    label = failure.labels[failure.decisive]
    assert found(label)[0::2] == (LabelKind.wrong_argument, "exchange_delivered_order_items")
    assert label.argument == "new_item_ids"
    assert [label.rule for label in failure.labels if label.kind is LabelKind.against_policy] == ["same_item"]


def test_an_item_exchanged_for_itself_that_nobody_wanted_is_against_policy() -> None:
    task = made("two/address_exchange")
    exchange = next(write for write in writes(task) if write.name == "exchange_delivered_order_items")
    wanted = task.model_copy(update={"gold": tuple(call for call in task.gold if call != exchange)})
    moves = replacing(expert(task), exchange, changed(exchange, new_item_ids=exchange.arguments["item_ids"]))
    label = verdict(play(wanted, moves))
    assert (label.kind, label.rule) == (LabelKind.against_policy, "same_item")


def test_one_of_two_items_left_out_is_a_wrong_list_of_items() -> None:
    task = made("return/two_items")
    (write,) = writes(task)
    moves = replacing(expert(task), write, changed(write, item_ids=write.arguments["item_ids"][:1]))
    label = verdict(play(task, moves))
    assert (label.kind, label.argument) == (LabelKind.wrong_argument, "item_ids")


def test_the_order_of_items_is_no_fault_of_an_exchange() -> None:
    task = made("exchange/two_items")
    (write,) = writes(task)
    backwards = {name: write.arguments[name][::-1] for name in ("item_ids", "new_item_ids")}
    mistaken = changed(write, **backwards, payment_method_id=other_method(task, write))
    label = verdict(play(task, replacing(expert(task), write, mistaken)))
    assert label.argument == "payment_method_id"


def test_the_wrong_order_is_a_wrong_record() -> None:
    task = made("address/plain")
    (write,) = writes(task)
    moves = replacing(expert(task), write, changed(write, order_id=other_order(task, write.arguments["order_id"])))
    label = verdict(play(task, moves))
    assert (label.kind, label.argument) == (LabelKind.wrong_record, "order_id")
    assert label.expected == write.arguments["order_id"]


def test_a_write_too_many_is_decisive_where_it_happens() -> None:
    task = made("cancel/plain")
    (write,) = writes(task)
    address = changed(writes(made("user_address/plain"))[0], user_id=next(iter(task.records["users"])))
    moves = replacing(expert(task), write, address, write)
    assert found(verdict(play(task, moves))) == (LabelKind.extra_write, len(moves) - 2, "modify_user_address", None)


def test_the_first_fatal_step_is_decisive_and_the_rest_is_kept() -> None:
    task = made("two/cancel_return")
    first, second = writes(task)
    reason = {"no longer needed": "ordered by mistake"}.get(first.arguments["reason"], "no longer needed")
    moves = replacing(replacing(expert(task), first, changed(first, reason=reason)), second)
    failure = explain(play(task, moves))
    assert failure.labels[failure.decisive].argument == "reason"
    assert LabelKind.missing_write in {label.kind for label in failure.labels}


def test_a_write_after_the_user_declined_is_an_unconfirmed_one() -> None:
    task = made("cancel/declined")
    (write,) = task.temptations
    moves: list[Move] = [*reads(task), CONFIRM, write, DONE]
    label = verdict(play(task, moves))
    assert found(label) == (LabelKind.unconfirmed_write, len(moves) - 1, "cancel_pending_order", None)


@pytest.mark.parametrize(
    ("opening", "closing", "kind"),
    [
        ("Hello.", "Oh, and the {} as well. ###STOP###", LabelKind.unconfirmed_write),
        ("Both, please: the {} too.", "Oh, and the {} as well. ###STOP###", LabelKind.wrong_argument),
        ("Hello.", "###STOP###", LabelKind.wrong_argument),
    ],
)
def test_items_that_the_user_could_not_name_for_want_of_a_question_are_an_unconfirmed_write(
    opening: str, closing: str, kind: LabelKind
) -> None:
    """Had the agent asked before it wrote, the user would have named the rest; what it had named is another matter."""
    task = made("return/two_items")
    (write,) = writes(task)
    items = task.records["orders"][write.arguments["order_id"]]["items"]
    name = next(item["name"] for item in items if item["item_id"] == write.arguments["item_ids"][1])
    part = changed(write, item_ids=write.arguments["item_ids"][:1])
    told = play(task, [*reads(task), part, DONE], last_words=closing.format(name))
    first = told.messages[0].model_copy(update={"content": opening.format(name)})
    label = verdict(told.model_copy(update={"messages": (first, *told.messages[1:])}))
    assert (label.kind, label.turn) == (kind, len(reads(task)) + 1)


def test_conduct_is_evidence_but_not_decisive() -> None:
    task = made("exchange/plain")
    (write,) = writes(task)
    mistaken = changed(write, payment_method_id=other_method(task, write))
    failure = explain(play(task, [mistaken, DONE]))
    kinds = {label.kind for label in failure.labels}
    assert {LabelKind.unauthenticated, LabelKind.unconfirmed_write} <= kinds
    assert failure.labels[failure.decisive].argument == "payment_method_id"


def test_authenticated_and_confirmed_writes_have_no_conduct_label() -> None:
    task = made("two/return_cancel")
    failure = explain(play(task, replacing(expert(task), writes(task)[1])))
    assert [label.kind for label in failure.labels] == [LabelKind.missing_write]


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("refuse/")])
def test_attempting_what_must_be_refused_is_against_policy(name: str) -> None:
    task = made(name)
    moves = [*reads(task), CONFIRM, *task.temptations, DONE]
    label = verdict(play(task, moves))
    assert found(label)[:3] == (LabelKind.against_policy, len(moves) - 1, task.temptations[-1].name)


def test_not_refusing_at_all_is_missing_communication() -> None:
    task = made("refuse/cancel_status")
    label = verdict(play(task, [*reads(task), DONE]))
    assert (label.kind, label.expected) == (LabelKind.missing_communication, task.communicate[0])


def test_a_transfer_instead_of_a_refusal_is_needless() -> None:
    task = made("refuse/return_status")
    label = verdict(play(task, [*reads(task), TRANSFER, TRANSFERRED]))
    assert label.kind is LabelKind.needless_transfer


def test_refusing_what_is_allowed_is_a_false_refusal() -> None:
    task = made("return/original")
    moves = [*reads(task), DENY]
    label = verdict(play(task, moves))
    assert found(label) == (LabelKind.false_refusal, len(moves), "return_delivered_order_items", None)


def test_a_needless_transfer_explains_the_missing_write() -> None:
    task = made("cancel/plain")
    moves = [*reads(task), TRANSFER, TRANSFERRED]
    assert found(verdict(play(task, moves)))[:2] == (LabelKind.needless_transfer, len(moves) - 1)


def test_a_missing_transfer() -> None:
    task = made("transfer/plain")
    assert verdict(play(task, [*reads(task), DONE])).kind is LabelKind.missing_transfer
    refused = explain(play(task, [*reads(task), DENY]))
    assert refused.labels[refused.decisive].kind is LabelKind.missing_transfer, "there was no write to refuse"
    assert LabelKind.false_refusal in {label.kind for label in refused.labels}


def test_a_refusal_before_a_transfer_is_what_is_wrong() -> None:
    task = made("transfer/plain")
    assert verdict(play(task, [*reads(task), DENY, TRANSFER, TRANSFERRED])).kind is LabelKind.false_refusal


def test_a_loop_explains_running_out_of_turns() -> None:
    task = made("cancel/plain")
    looked = reads(task)[-1]
    moves = [*reads(task), *[looked] * 5]
    label = verdict(play(task, moves, ending=Ending.out_of_turns))
    assert (label.kind, label.turn) == (LabelKind.loop, len(reads(task)) + 2)


def test_running_out_of_turns_without_a_loop() -> None:
    task = made("cancel/plain")
    assert verdict(play(task, [*reads(task), CONFIRM], ending=Ending.out_of_turns)).kind is LabelKind.out_of_turns


def test_success_but_for_the_ending_is_out_of_turns() -> None:
    task = made("cancel/plain")
    assert verdict(play(task, expert(task), ending=Ending.out_of_turns)).kind is LabelKind.out_of_turns


def test_a_malformed_call_that_ends_the_episode_is_decisive() -> None:
    task = made("cancel/plain")
    played = play(task, [*reads(task), '{"name": "cancel'], ending=Ending.malformed)
    assert verdict(played).kind is LabelKind.malformed_call


def test_an_answer_without_a_call_is_a_malformed_call_at_its_turn() -> None:
    task = made("cancel/plain")
    played = play(task, [DONE])
    broken = (
        played.messages[0],
        Message(role=Role.assistant, content='{"name": ', turn=1),
        Message(role=Role.tool, content="Error: not a call", error=True, turn=1),
        *(message.model_copy(update={"turn": 2}) for message in played.messages[1:]),
    )
    labels = explain(played.model_copy(update={"messages": broken})).labels
    assert (LabelKind.malformed_call, 1) in {(label.kind, label.turn) for label in labels}


def test_a_hallucinated_tool_is_listed() -> None:
    task = made("cancel/plain")
    moves: list[Move] = [*reads(task), ToolCall(name="delete_order", arguments={}), DONE]
    labels = explain(play(task, moves)).labels
    assert (LabelKind.hallucinated_tool, "delete_order") in {(label.kind, label.tool) for label in labels}


def test_an_agent_that_does_nothing_has_given_up() -> None:
    failure = explain(play(made("cancel/plain"), [DONE]))
    assert failure.labels[failure.decisive].kind is LabelKind.missing_write
    assert LabelKind.gave_up in {label.kind for label in failure.labels}


def test_writes_in_the_wrong_order() -> None:
    task = next(task for task in benchmark_tasks("tau2-base") if task.id == "20")
    world = World.tau2()
    assert play(task, [*task.gold, "Done."], world=world).outcome is Outcome.success
    write = next(call for call in task.gold if call.name == "modify_pending_order_items")
    backwards = changed(write, **{name: write.arguments[name][::-1] for name in ("item_ids", "new_item_ids")})
    label = verdict(play(task, replacing([*task.gold, "Done."], write, backwards), world=world))
    assert (label.kind, label.argument) == (LabelKind.wrong_argument, "item_ids")


def test_real_tasks_with_their_last_write_dropped() -> None:
    world, checked = World.tau2(), 0
    failing_gold, doubtful_gold = {"12", "13", "64", "105"}, {"18", "91", "107"}
    for task in benchmark_tasks("tau2-base"):
        moves: list[Move] = [call for call in task.gold if call not in writes(task)[-1:]]
        played = play(task, [*moves, " ".join(task.communicate) or "Done."], world=world)
        if played.outcome is Outcome.failure and task.id not in failing_gold | doubtful_gold:
            label = verdict(played)
            assert (label.kind, label.tool) == (LabelKind.missing_write, writes(task)[-1].name), task.id
            checked += 1
    assert checked > 90


def test_the_user_who_leaves_is_at_fault() -> None:
    task = made("cancel/plain")
    left = play(task, [*reads(task), CONFIRM], last_words="Get me a person. ###TRANSFER###")
    stopped = play(task, [*reads(task), CONFIRM], last_words="Yes, go ahead. ###STOP###")
    assert [explain(played).attribution.party for played in (left, stopped)] == [Party.user_simulator] * 2


def test_the_user_is_not_at_fault_for_a_wrong_write_before() -> None:
    task = made("cancel/plain")
    (write,) = writes(task)
    moves: list[Move] = [
        *reads(task),
        changed(
            write,
            reason="ordered by mistake" if write.arguments["reason"] != "ordered by mistake" else "no longer needed",
        ),
        CONFIRM,
    ]
    assert explain(play(task, moves, last_words="Yes. ###STOP###")).attribution.party is Party.agent


def test_a_contradictory_task_is_at_fault() -> None:
    task = made("refuse/bad_reason")
    broken = task.model_copy(update={"avoid": ("cannot do that",)})
    assert explain(play(broken, expert(task))).attribution.party is Party.task


def test_a_gold_answer_that_exchanges_an_item_for_itself_is_at_fault() -> None:
    task = next(task for task in benchmark_tasks("tau2-base") if task.id == "18")
    exchange = writes(task)[0]
    returned = ToolCall(
        name="return_delivered_order_items",
        arguments={name: value for name, value in exchange.arguments.items() if name != "new_item_ids"},
    )
    played = play(task, [*reads(task), returned, "Done."], world=World.tau2())
    assert explain(played).attribution.party is Party.task


def test_a_world_that_changed_by_itself_is_the_infrastructure() -> None:
    task = made("cancel/plain")
    played = play(task, expert(task))
    silent = play(task, [DONE]).model_copy(update={"world_delta": {"orders": {"#W0": {}}}})
    assert played.world_delta
    assert explain(silent).attribution.party is Party.infrastructure


def test_every_episode_is_accounted_for() -> None:
    task = made("cancel/plain")
    batch = [
        play(task, expert(task), trial=0),
        play(task, [DONE], trial=1),
        play(task, [*reads(task), CONFIRM], trial=2, last_words="###TRANSFER###"),
        voided(play(task, [DONE], trial=3), VoidReason.broken_prefix),
        voided(play(task, [DONE], trial=4), VoidReason.user_simulator),
    ]
    diagnosis = diagnose(batch)
    assert diagnosis.tally.requested == 5
    assert diagnosis.tally.kept == 2
    assert diagnosis.tally.rejected == {"user_simulator": 1}
    assert diagnosis.tally.void == {"broken_prefix": 1, "user_simulator": 1}
    assert [failure.trial for failure in diagnosis.failures] == [1, 2], "a void is never labelled"
    assert [failure.trial for failure in diagnosis.agent_failures] == [1]


def test_no_episodes_at_all() -> None:
    diagnosis = diagnose([])
    assert (diagnosis.failures, diagnosis.tally.requested) == ((), 0)
