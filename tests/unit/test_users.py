"""The scripted user: what it tells, when it agrees, what it understands, and when it hangs up."""

from __future__ import annotations

import pytest

from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.users import PATIENCE, STOP, ScriptedUser
from sentinel.env.vocabulary import agent_says, vocabulary
from sentinel.records import Intent, Scenario
from tests.unit.builders import CONDITIONS, made

CANCEL = Intent(
    request="I want to cancel order #W10.", facts={"order": "It is order #W10.", "reason": "I no longer need it."}
)
RETURN = Intent(request="I want to return the mug.", facts={"order": "It is order #W11.", "payment": "To paypal_12."})
IDENTITY = "My email is u10@shop.example."
PUZZLED = "I have nothing to add."


def user(*intents: Intent, volunteered: bool = True) -> ScriptedUser:
    scenario = Scenario(reason_for_call="x", identity=IDENTITY, identity_volunteered=volunteered, intents=intents)
    return ScriptedUser(scenario)


def test_the_opening_holds_all_requests_and_the_identity_unless_it_is_withheld() -> None:
    assert user(CANCEL).opening() == f"{CANCEL.request} {IDENTITY}"
    assert user(CANCEL, RETURN).opening() == f"{CANCEL.request} Also: {RETURN.request} {IDENTITY}"
    assert user(CANCEL, volunteered=False).opening() == CANCEL.request


def test_it_tells_what_it_is_asked_and_only_that() -> None:
    both = user(CANCEL, RETURN, volunteered=False)
    assert both.reply(agent_says("ask_identity")) == IDENTITY
    assert both.reply(agent_says("ask_order")) == "It is order #W10. It is order #W11."
    assert both.reply(agent_says("ask_reason")) == "I no longer need it."
    assert both.reply(agent_says("ask_payment")) == "To paypal_12."


def test_what_it_does_not_know_it_does_not_invent() -> None:
    assert user(CANCEL).reply(agent_says("ask_payment")) == PUZZLED
    assert user(RETURN).reply(agent_says("ask_reason")) == PUZZLED


def test_equal_words_get_equal_answers() -> None:
    one = user(CANCEL)
    assert len({one.reply(agent_says("ask_reason")) for _ in range(5)}) == 1


def test_it_confirms_or_declines_as_its_intents_say() -> None:
    unwilling = CANCEL.model_copy(update={"confirms": False})
    assert user(CANCEL).reply(agent_says("confirm")) == "Yes."
    assert user(unwilling).reply(agent_says("confirm")) == "No, leave it."
    assert user(RETURN, unwilling).reply(agent_says("confirm")) == "No, leave it."


@pytest.mark.parametrize("sentence", ["done", "deny", "transferred"])
def test_it_stops_when_the_agent_is_through(sentence: str) -> None:
    assert user(CANCEL).reply(agent_says(sentence)) == STOP


@pytest.mark.parametrize("sentence", ["ask_identity", "ask_order", "ask_reason", "ask_payment", "confirm"])
def test_questions_never_end_the_conversation(sentence: str) -> None:
    complete = user(CANCEL.model_copy(update={"facts": {**CANCEL.facts, **RETURN.facts}}))
    assert STOP not in [complete.reply(agent_says(sentence)) for _ in range(PATIENCE + 3)]


def test_its_patience_ends() -> None:
    talker = user(CANCEL)
    assert [talker.reply("Nice weather today.") for _ in range(PATIENCE)] == [PUZZLED] * PATIENCE
    assert talker.reply(agent_says("ask_reason")) == "I no longer need it."
    assert talker.reply("Nice weather today.") == STOP


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Could you please share your e-mail address so that I can find your account?", IDENTITY),
        ("I can look you up by your name and ZIP code.", IDENTITY),
        ("Sure! Which order would you like me to cancel?", "It is order #W10."),
        ("Please give me the order number.", "It is order #W10."),
        ("May I ask why you want to cancel it?", "I no longer need it."),
        ("What's the REASON for the cancellation?", "I no longer need it."),
        ("I will cancel order #W10 and refund paypal_12. Do you want to proceed? (yes/no)", "Yes."),
        ("Please confirm that I should cancel order #W10.", "Yes."),
        ("Your order has been cancelled. Is there anything else I can help you with?", STOP),
        ("Your request has been completed.", STOP),
        ("I'm sorry, but I can't cancel an order that was delivered.", STOP),
        ("I’m sorry, but I can’t cancel an order that was delivered.", STOP),
        ("Unfortunately I am unable to do this.", STOP),
        ("You are being transferred to a human agent. Please hold on.", STOP),
        ("Thank you, one moment.", PUZZLED),
    ],
)
def test_it_understands_the_free_words_of_a_large_model(text: str, answer: str) -> None:
    assert user(CANCEL).reply(text) == answer


def test_every_sentence_of_the_reference_agent_is_heard_as_what_it_is() -> None:
    """A word that another topic listens for would make the user answer another question."""
    topics = {"ask_identity": "identity", "ask_order": "order", "ask_reason": "reason", "ask_payment": "payment"}
    topics |= {"confirm": "confirm", "deny": "refused", "transferred": "transferred", "done": "finished"}
    assert set(topics) == set(vocabulary()["agent"])
    for phrase, topic in topics.items():
        words = agent_says(phrase).lower()
        heard = [name for name, keys in vocabulary()["listen"].items() if any(key in words for key in keys)]
        assert heard[0] == topic


@pytest.mark.parametrize("name", CONDITIONS)
def test_generated_users_withhold_what_their_condition_says(name: str) -> None:
    scenario, condition = made(name).scenario, CONDITIONS[name]
    asked = ScriptedUser(scenario)
    opening = asked.opening()
    assert (scenario.identity in opening) == (condition.withheld != "identity")
    assert asked.reply(agent_says("ask_identity")) == scenario.identity
    facts = scenario.intents[0].facts
    hidden = {"order": r"#W", "reason": facts.get("reason"), "payment": facts.get("payment")}.get(condition.withheld)
    if hidden:
        assert hidden not in opening
        assert facts[condition.withheld] in asked.reply(agent_says(f"ask_{condition.withheld}"))
        assert facts[condition.withheld] in scenario.known_info, "an LLM user must be able to tell it too"
    assert asked.reply(agent_says("confirm")) == ("No, leave it." if condition.declined else "Yes.")


def test_a_benchmark_task_needs_another_user() -> None:
    with pytest.raises(ValueError, match="needs a scenario with intents"):
        ScriptedUser(benchmark_tasks("tau2-test")[0].scenario)
