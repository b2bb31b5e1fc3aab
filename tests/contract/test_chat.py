"""What the chat client does with a server that misbehaves: bounded retries, then the right error, then a void."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat

import pytest

from sentinel.env.llm_user import LlmUser, open_users
from sentinel.env.users import STOP
from sentinel.errors import StageError
from sentinel.llm.chat import Answer, Budget, Chat, ChatError, ChatFault, Patience, Said, open_chat
from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.records import Ending, Outcome, Role, Task, VoidReason
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, expert
from sentinel.rollout.pool import assign
from sentinel.spec.models import LlmUser as Settings
from sentinel.spec.profile import Endpoint, LlmRole
from tests.contract.servers import Asked, Behaviour, Handler, Server, completion, hang_up, sends, serving
from tests.unit.builders import ROOMY, made, spelled

KEY = "sk-very-secret-0123456789"
LASTING = Patience(attempts=3, pause_seconds=0.01, longest_pause_seconds=0.05, request_seconds=60.0)
HASTY = replace(LASTING, request_seconds=0.5)
"""For servers that are slow on purpose."""
HELLO = [Said("system", "Be a user."), Said("user", "Hi!")]


@contextmanager
def chatting(server: Server, patience: Patience = LASTING, budget: Budget | None = None) -> Iterator[Chat]:
    chat = Chat(server.url, "m", key=KEY, role="user", patience=patience, budget=budget)
    try:
        yield chat
    finally:
        chat.close()


def ask(chat: Chat) -> Answer:
    return chat.ask(HELLO, temperature=0.7, seed=17, max_tokens=64)


def says(text: str | None, finish: str = "stop") -> Behaviour:
    return sends(completion(text, finish))


def fails(status: int, headers: Mapping[str, str] | None = None) -> Behaviour:
    return sends({"error": f"no, {KEY}"}, status, headers)


def silence(handler: Handler, asked: Asked) -> None:
    time.sleep(1.0)
    handler.close_connection = True


def trickle(handler: Handler, asked: Asked) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def cut(handler: Handler, asked: Asked) -> None:
    """Closes in the middle of the answer."""
    handler.reply(b'{"choices": [{"message": {"content": "I wa', claimed=4000)
    handler.close_connection = True


PASSING: dict[str, tuple[Behaviour, ChatFault]] = {
    "429": (fails(429), ChatFault.rate_limited),
    "500": (fails(500), ChatFault.server),
    "503": (fails(503), ChatFault.server),
    "hangs up": (hang_up, ChatFault.connection),
    "closes mid-stream": (cut, ChatFault.connection),
    "broken JSON": (sends(b'{"choices": [{"mess'), ChatFault.malformed),
    "no JSON": (sends(b"<html>Bad gateway</html>"), ChatFault.malformed),
    "another JSON": (sends(b"[1, 2]"), ChatFault.malformed),
    "deep JSON": (sends(b"[" * 100_000), ChatFault.malformed),
    "no choice": (sends({"choices": []}), ChatFault.malformed),
    "empty choice": (sends({"choices": [{}]}), ChatFault.malformed),
    "a number for text": (sends({"choices": [{"message": {"content": 7}}]}), ChatFault.malformed),
    "nothing": (sends(b""), ChatFault.malformed),
}
SLOW: dict[str, tuple[Behaviour, ChatFault]] = {
    "no answer": (silence, ChatFault.timeout),
    "an answer without end": (trickle, ChatFault.timeout),
}
FINAL: dict[str, tuple[Behaviour, ChatFault]] = {
    "400": (fails(400), ChatFault.rejected),
    "422": (fails(422), ChatFault.rejected),
    "2 MB of text": (says("word " * 400_000), ChatFault.too_large),
}
ALL = PASSING | SLOW | FINAL


def patience(name: str) -> Patience:
    return HASTY if name in SLOW else LASTING


def test_a_question_is_sent_whole_and_answered() -> None:
    with serving(says("  Hello!\n")) as server, chatting(server) as chat:
        assert ask(chat) == Answer("Hello!", True, 12)
    (asked,) = server.asked
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be a user."}, {"role": "user", "content": "Hi!"}],
        "temperature": 0.7,
        "seed": 17,
        "max_tokens": 64,
    }
    assert asked.key == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        (None, "stop", Answer("", True, 12)),
        ("", "stop", Answer("", True, 12)),
        ("I want", "length", Answer("I want", False, 12)),
        ("<think>\nHm.\n</think>\n\nHello!", "stop", Answer("Hello!", True, 12)),
    ],
)
def test_odd_answers_are_answers(text: str | None, finish: str, expected: Answer) -> None:
    with serving(says(text, finish)) as server, chatting(server) as chat:
        assert ask(chat) == expected


@pytest.mark.parametrize("name", PASSING | SLOW)
def test_what_may_pass_is_asked_again_a_bounded_number_of_times(name: str) -> None:
    behaviour, fault = ALL[name]
    with serving(behaviour) as server, chatting(server, patience(name)) as chat:
        with pytest.raises(ChatError) as caught:
            ask(chat)
        assert len(server.asked) == 3
    assert caught.value.fault is fault
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", PASSING | SLOW)
def test_what_passes_leaves_no_trace(name: str) -> None:
    behaviours = chain([ALL[name][0]] * 2, repeat(says("Hello!")))
    with (
        serving(lambda handler, asked: next(behaviours)(handler, asked)) as server,
        chatting(server, patience(name)) as chat,
    ):
        assert ask(chat).text == "Hello!"
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[1] == server.asked[2]


@pytest.mark.parametrize("name", FINAL)
def test_what_will_not_pass_is_asked_once(name: str) -> None:
    behaviour, fault = FINAL[name]
    with serving(behaviour) as server, chatting(server) as chat:
        with pytest.raises(ChatError) as caught:
            ask(chat)
        assert len(server.asked) == 1
    assert caught.value.fault is fault


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_the_role_stops_the_stage_without_showing_the_key(status: int) -> None:
    with serving(fails(status)) as server, chatting(server) as chat:
        with pytest.raises(StageError, match=f"(?s)HTTP {status}.*api_key_env") as caught:
            ask(chat)
        assert len(server.asked) == 1
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_server_that_is_not_there_is_a_lost_connection() -> None:
    with serving(says("Hello!")) as server:
        url = server.url
    chat = Chat(url, "m", patience=LASTING)
    with pytest.raises(ChatError) as caught:
        ask(chat)
    chat.close()
    assert caught.value.fault is ChatFault.connection


def test_pauses_grow_and_a_server_may_ask_for_longer_ones_within_bounds() -> None:
    for headers, least in (({}, 0.03), ({"Retry-After": "3600"}, 0.1)):
        with serving(fails(429, headers)) as server, chatting(server) as chat:
            began = time.monotonic()
            with pytest.raises(ChatError):
                ask(chat)
            assert least <= time.monotonic() - began < 30.0


def test_a_budget_bounds_requests_and_tokens_of_all_threads() -> None:
    for budget, spent in (
        (Budget(calls=5), {"calls": 5, "tokens": 60}),
        (Budget(tokens=40), {"calls": 4, "tokens": 48}),
    ):
        with serving(says("Hello!")) as server, chatting(server, budget=budget) as chat:
            outcomes = []
            for _ in range(8):
                try:
                    outcomes.append(ask(chat).text)
                except ChatError as error:
                    outcomes.append(error.fault)
        assert outcomes == ["Hello!"] * spent["calls"] + [ChatFault.budget] * (8 - spent["calls"])
        assert budget.spent == spent
        assert len(server.asked) == spent["calls"]


def test_requests_in_vain_are_spent_as_well() -> None:
    with serving(fails(500)) as server, chatting(server, budget=Budget(calls=2)) as chat:
        with pytest.raises(ChatError) as caught:
            ask(chat)
        assert (len(server.asked), caught.value.fault) == (2, ChatFault.budget)


def test_the_profile_says_where_and_the_environment_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_KEY", KEY)
    with serving(says("Hello!")) as server:
        endpoints: dict[LlmRole, Endpoint] = {"user": Endpoint(url=server.url, api_key_env="USER_KEY")}
        chat = open_chat(endpoints, "user", model="m")
        assert ask(chat).text == "Hello!"
        chat.close()
        assert [asked.key for asked in server.asked] == [f"Bearer {KEY}"]
        with pytest.raises(StageError, match="the profile names no server"):
            open_chat(endpoints, "proposer", model="m")


class Person:
    """Plays the user of any generated task well enough: tells all it knows, agrees, stops after the completion."""

    def __init__(self, tasks: list[Task]) -> None:
        self.known = [
            " ".join(
                [task.scenario.identity, *(fact for intent in task.scenario.intents for fact in intent.facts.values())]
            )
            for task in tasks
        ]

    def __call__(self, handler: Handler, asked: Asked) -> None:
        prompt, last = asked.body["messages"][0]["content"], asked.body["messages"][-1]["content"]
        if "Hi! How can I help" in last:
            text = "I have a request."
        elif "anything else" in last:
            text = f"No. {STOP}"
        elif "yes or no" in last:
            text = "Yes."
        else:
            text = next(known for known in self.known if known in prompt)
        handler.reply(completion(text))


TASKS = [made(name, number) for name in ("cancel/no_reason", "cancel/plain") for number in range(3)]


def demonstrated(server: Server, limits: Patience) -> list[Demonstration]:
    """A small batch: the expert of every task, twice, with users on this server."""
    chat = Chat(server.url, "m", patience=limits)
    arena: Arena = spelled()
    arena.user = lambda task, seed, unfinished: LlmUser(
        chat, task.scenario, temperature=0.7, seed=seed, unfinished=unfinished
    )
    episodes = [Demonstration(each, arena, expert(each.task)) for each in assign(TASKS, 2, 7)]
    ScriptedEngine().run(episodes, Limits(1.0, ROOMY, ROOMY))
    chat.close()
    return episodes


def accounts(episodes: list[Demonstration]) -> Counter[str]:
    trajectories = [episode.played("", 0, 0).trajectory for episode in episodes]
    return Counter(str(each.void_reason or each.outcome) for each in trajectories)


def test_a_batch_with_a_good_server_is_solved() -> None:
    with serving(Person(TASKS)) as server:
        episodes = demonstrated(server, LASTING)
    assert accounts(episodes) == {"success": 12}
    seeds = [asked.body["seed"] for asked in server.asked]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("name", ["500", "closes mid-stream", "broken JSON", "empty choice", "2 MB of text", "400"])
def test_a_batch_with_a_dead_server_is_void_and_nothing_is_lost(name: str) -> None:
    with serving(ALL[name][0]) as server:
        episodes = demonstrated(server, LASTING)
    assert accounts(episodes) == {VoidReason.infrastructure: 12}
    for episode in episodes:
        trajectory = episode.played("", 0, 0).trajectory
        assert (trajectory.outcome, trajectory.ending, trajectory.reward) == (Outcome.void, Ending.error, None)
        assert trajectory.messages[-1].role is Role.system
        assert str(ALL[name][1]) in trajectory.messages[-1].content


def test_kept_and_void_are_what_was_requested_whatever_fails_now_and_then() -> None:
    person, count = Person(TASKS), 0
    troubles = [fails(429), cut, sends({"choices": []}), fails(400), says("")]

    def moody(handler: Handler, asked: Asked) -> None:
        nonlocal count
        count += 1
        troubles[count // 4 % 5](handler, asked) if count % 4 == 0 else person(handler, asked)

    with serving(moody) as server:
        found = accounts(demonstrated(server, LASTING))
    assert found.total() == 12
    assert set(found) == {"success", VoidReason.infrastructure, VoidReason.user_simulator}


def test_users_are_opened_from_spec_and_profile() -> None:
    with serving(sends(completion("I have a request."), headers={"Connection": "close"})) as server:
        new_user = open_users(Settings(type="llm", model="m"), {"user": Endpoint(url=server.url)})
        user = new_user(TASKS[0], 1, lambda: True)
        assert user.opening() == "I have a request."
