"""The user played by a model: what it is told, what it may not do, and that its faults are never the agent's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from sentinel.controller.attribution import explain
from sentinel.env.llm_user import GREETING, LlmUser, open_users, system_prompt
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.user_faults import find_fault
from sentinel.env.users import FAULT, OUT_OF_SCOPE, STOP, TRANSFER, FaultKind, UserFault
from sentinel.errors import StageError
from sentinel.llm.chat import Answer, Said
from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.records import Ending, Outcome, Party, Role, Scenario, Task, Trajectory, VoidReason
from sentinel.rollout.arena import Arena, open_arena
from sentinel.rollout.demonstrator import Action, Demonstration
from sentinel.rollout.episode import Assignment
from sentinel.spec.load import load
from sentinel.spec.models import Experiment
from sentinel.spec.models import LlmUser as Settings
from sentinel.spec.profile import Endpoint, LlmRole
from tests.unit.builders import ROOMY, arena, made, spelled

TASK = made("cancel/no_reason")
TAU2 = benchmark_tasks("tau2-base")
KNOWN = Scenario(
    reason_for_call="You want to return the mug of order #W2378156 because it leaks badly.",
    known_info="You are Mei Kovacs, your user id is mei_kovacs_8020.",
    unknown_info="You do not remember your email address.",
)
ASK, DONE = "You want to return the mug, is that right? Please confirm (yes/no).", "It is done. Is there anything else?"


class Reciting:
    """Stands where the model's server would: says its lines, and remembers what it was asked."""

    def __init__(self, *lines: str, complete: bool = True) -> None:
        self.lines, self.complete = list(lines), complete
        self.asked: list[tuple[list[Said], int]] = []

    def ask(self, messages: Sequence[Said], *, temperature: float, seed: int, max_tokens: int) -> Answer:
        self.asked.append((list(messages), seed))
        return Answer(self.lines[len(self.asked) - 1], self.complete, 0)


def user(chat: Reciting, scenario: Scenario = KNOWN, seed: int = 1, unfinished: bool = True) -> LlmUser:
    return LlmUser(chat, scenario, temperature=0.7, seed=seed, unfinished=lambda: unfinished)


def test_the_model_gets_tau2s_guidelines_our_rule_and_the_scenario() -> None:
    from tau2.data_model.tasks import StructuredUserInstructions

    for task in TAU2:
        prompt, scenario = system_prompt(task.scenario), task.scenario
        assert prompt.startswith("# User Simulation Guidelines\nYou are playing the role of a customer")
        assert all(prompt.count(token) >= 2 for token in (STOP, TRANSFER))
        assert "Do not generate '###STOP###' before the agent has confirmed" in prompt
        instructions = StructuredUserInstructions(
            domain="retail",
            reason_for_call=scenario.reason_for_call,
            known_info=scenario.known_info or None,
            unknown_info=scenario.unknown_info or None,
            task_instructions=scenario.instructions,
        )
        assert f"<scenario>\n{str(instructions).rstrip()}\n</scenario>" in prompt


def test_the_model_sees_the_conversation_from_the_users_side() -> None:
    chat = Reciting("I want to return a mug.", "It is #W2378156.")
    talking = user(chat)
    assert talking.opening() == "I want to return a mug."
    assert talking.reply("Which order?") == "It is #W2378156."
    (first, seed), (second, other) = chat.asked
    assert [(said.role, said.text) for said in first[1:]] == [("user", GREETING)]
    assert [said.role for said in second] == ["system", "user", "assistant", "user"]
    assert second[-1].text == "Which order?"
    assert seed != other


def test_every_trial_and_turn_has_a_seed_of_its_own_and_equal_trials_have_equal_ones() -> None:
    def seeds(trial: int) -> list[int]:
        chat = Reciting("Hi.", "Yes.", "No.")
        talking = user(chat, seed=trial)
        talking.opening()
        talking.reply("One?")
        talking.reply("Two?")
        return [seed for _, seed in chat.asked]

    assert seeds(1) == seeds(1)
    assert len({*seeds(1), *seeds(2)}) == 6
    assert all(0 <= seed < 2**31 for seed in seeds(1))


FAULTS: dict[str, tuple[str, str, FaultKind | None]] = {
    "an answer": ("Which order?", "Order #W2378156.", None),
    "an id without its sign": ("Which order?", "W2378156", None),
    "an id the agent said": ("Is it #W1111111?", "No, not #W1111111.", None),
    "a confirmation": (ASK, "Yes, please go ahead.", None),
    "the end": (DONE, f"No, thank you. {STOP}", None),
    "the end with a yes": ("It is done. Do you need anything else?", f"Yes, that was all! {STOP}", None),
    "the end in spite of a false claim": ("Your return has been requested.", STOP, None),
    "the end after a refusal": ("I cannot do that. Shall I proceed with a refund, yes or no?", STOP, None),
    "a decline": (ASK, f"No, do not. {STOP}", None),
    "a transfer": ("You are being transferred to a human agent.", TRANSFER, None),
    "out of scope": ("What is your shoe size?", OUT_OF_SCOPE, None),
    "nothing": ("Which order?", "  \n", FaultKind.empty),
    "stop with the confirmation": (ASK, f"Yes, please. {STOP}", FaultKind.stopped_early),
    "stop with an agreement": ("Shall I send the label?", f"Sounds good, thanks! {STOP}", FaultKind.stopped_early),
    "stop instead of the confirmation": (ASK, STOP, FaultKind.stopped_early),
    "a transfer nobody spoke of": ("Which order?", TRANSFER, FaultKind.left_without_transfer),
    "an invented email": ("Your email?", "It is mei.kovacs@example.com.", FaultKind.invented),
    "an invented order": ("Which order?", "Order #W7777777.", FaultKind.invented),
    "an invented card": ("Which card?", "credit_card_1234567", FaultKind.invented),
    "its instructions": ("Hi.", KNOWN.reason_for_call, FaultKind.revealed),
    "its role": ("Hi.", "As an AI, I cannot return mugs.", FaultKind.revealed),
    "its prompt": ("Hi.", "<scenario> says nothing.", FaultKind.revealed),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_and_only_they(name: str) -> None:
    agent, said, expected = FAULTS[name]
    assert find_fault(KNOWN, [GREETING, agent], ["Hello.", said], lambda: True) is expected


def test_who_has_got_everything_may_stop_however_it_likes() -> None:
    assert find_fault(KNOWN, [GREETING, ASK], ["Hello.", f"Yes. {STOP}"], lambda: False) is None


def test_an_opening_that_ends_the_conversation_is_a_fault() -> None:
    assert find_fault(KNOWN, [GREETING], [f"Bye. {STOP}"], lambda: False) is FaultKind.stopped_early


@pytest.mark.parametrize("condition", ["cancel/no_order", "cancel/no_identity"])
def test_what_a_generated_user_keeps_until_asked_may_not_open_the_conversation(condition: str) -> None:
    tasks = (made(condition, number) for number in range(20))
    scenario = next(task.scenario for task in tasks if "@" in task.scenario.identity)
    withheld = scenario.intents[0].facts["order"] if condition == "cancel/no_order" else scenario.identity
    assert find_fault(scenario, [GREETING], [f"Cancel it. {withheld}"], lambda: True) is FaultKind.revealed
    assert find_fault(scenario, [GREETING, "?"], ["Cancel it.", withheld], lambda: True) is None
    assert find_fault(scenario, [GREETING], [scenario.intents[0].request], lambda: True) is None


def test_saying_the_same_to_different_words_is_a_fault_unless_the_agent_does_so_too() -> None:
    said = ["I want a refund."] * 3
    assert find_fault(KNOWN, ["a?", "b?", "c?"], said, lambda: True) is FaultKind.repeated
    assert find_fault(KNOWN, ["a?", "b?", "b?"], said, lambda: True) is None
    assert find_fault(KNOWN, ["a?", "b?"], said[:2], lambda: True) is None


def test_a_message_that_was_cut_off_is_a_fault() -> None:
    with pytest.raises(UserFault) as caught:
        user(Reciting("I want to", complete=False)).opening()
    assert (caught.value.kind, caught.value.said) == (FaultKind.cut_off, "I want to")


def test_real_users_of_the_benchmark_may_say_all_they_know() -> None:
    for task in TAU2:
        told = re.sub(r"\byou(?:r|'re| are)?\b", "I", task.scenario.known_info, flags=re.IGNORECASE)
        if told.strip():
            assert find_fault(task.scenario, [GREETING], [told], lambda: True) is None


def playing(where: Arena, chat: Reciting, *, void: bool = True) -> Arena:
    where.user = lambda task, seed, unfinished: LlmUser(
        chat, task.scenario, temperature=0.7, seed=seed, unfinished=unfinished
    )
    where.void_user_faults = void
    return where


def episode(where: Arena, actions: Sequence[Action], task: Task = TASK) -> Trajectory:
    playing = Demonstration(Assignment(task, 0, 7), where, actions)
    ScriptedEngine().run([playing], Limits(1.0, ROOMY, ROOMY))
    return playing.played("", 0, 0).trajectory


CONFIRM: list[Action] = [*TASK.gold[:-1], "Shall I go ahead, yes or no?"]
EARLY = ("Cancel it, please.", f"Yes! {STOP}")


def test_a_user_who_stops_before_the_write_voids_the_episode() -> None:
    trajectory = episode(playing(spelled(), Reciting(*EARLY)), [*CONFIRM, TASK.gold[-1], DONE])
    assert (trajectory.outcome, trajectory.void_reason) == (Outcome.void, VoidReason.user_simulator)
    assert trajectory.reward is None
    assert [(m.role, m.content) for m in trajectory.messages[-2:]] == [
        (Role.user, EARLY[1]),
        (Role.system, f"{FAULT}stopped_early"),
    ]


def test_a_flagged_fault_is_noted_and_scored() -> None:
    trajectory = episode(playing(spelled(), Reciting(*EARLY), void=False), [*CONFIRM, TASK.gold[-1], DONE])
    assert (trajectory.outcome, trajectory.ending) == (Outcome.failure, Ending.user_stop)
    assert explain(trajectory).attribution.party is Party.user_simulator
    assert [(m.role, m.content) for m in trajectory.messages[-2:]] == [
        (Role.system, f"{FAULT}stopped_early"),
        (Role.user, EARLY[1]),
    ]


def test_a_user_who_stops_after_the_write_is_fine() -> None:
    lines = ("Cancel it, please.", "Yes!", f"No. {STOP}")
    trajectory = episode(playing(spelled(), Reciting(*lines)), [*CONFIRM, TASK.gold[-1], DONE])
    assert (trajectory.outcome, trajectory.ending) == (Outcome.success, Ending.user_stop)


@pytest.mark.parametrize("void", [True, False])
def test_a_user_who_cannot_open_voids_or_is_noted(void: bool) -> None:
    trajectory = episode(playing(spelled(), Reciting("", STOP), void=void), [DONE])
    assert trajectory.messages[0].content == f"{FAULT}empty"
    assert trajectory.counts.turns == (0 if void else 1)
    assert (trajectory.outcome is Outcome.void) == void


def test_benchmark_tasks_are_played_with_such_a_user() -> None:
    task = next(task for task in TAU2 if task.communicate == () and len(task.gold) > 2)
    where = playing(arena("tau2"), Reciting("Hello, I need help.", STOP))
    trajectory = episode(where, [*task.gold, DONE], task)
    assert trajectory.outcome is Outcome.success


def experiment(root: Path) -> Experiment:
    return load(root / "experiments/retail.yaml").experiment


def test_the_arena_of_the_papers_setting_needs_a_server_for_the_user(root: Path) -> None:
    spec = experiment(root).spec
    with pytest.raises(StageError, match="the profile names no server"):
        open_arena(spec, Path("nowhere"), spelled().tokenizer)


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER_KEY", raising=False)
    endpoints: dict[LlmRole, Endpoint] = {"user": Endpoint(url="http://127.0.0.1:9/v1", api_key_env="USER_KEY")}
    with pytest.raises(StageError, match="USER_KEY is not set"):
        open_users(Settings(type="llm", model="m"), endpoints)
