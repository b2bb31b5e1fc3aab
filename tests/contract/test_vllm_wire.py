"""What the vLLM engine does with a server that misbehaves: bounded retries, then void; nothing is lost silently."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import StageError
from sentinel.llm.engine import Limits
from sentinel.llm.templates import END
from sentinel.llm.vllm import Patience, VllmEngine
from sentinel.records import Ending, Outcome, Role, VoidReason
from sentinel.rollout.arena import Arena
from sentinel.rollout.episode import Played
from sentinel.rollout.pool import assign, play
from tests.contract.servers import Asked, Behaviour, Handler, Server, hang_up, sends, serving
from tests.unit.builders import ROOMY, mixed, spelled

TURNS = 2
"""Of every episode here: the server's agent says the same thing until it is out of turns."""
ARENA: Arena = spelled(max_turns=TURNS)
STOP = ARENA.encode(END)[-1]
SAID = [list(ARENA.encode(text + END)) for text in ("Who are you?", "What is it?")]
LIMITS = Limits(temperature=1.0, max_new_tokens=64, max_context=ARENA.max_context)
LASTING = Patience(request_seconds=60.0, episode_seconds=300.0, attempts=3, pause_seconds=0.01)
HASTY = replace(LASTING, request_seconds=1.0)
"""For servers that are slow on purpose."""


def completion(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A good answer that depends on the seed alone; keys of its choice can be replaced, or removed with `...`."""
    ids = SAID[body["seed"] % 2]
    choice = {
        "index": 0,
        "text": "not read",
        "finish_reason": "stop",
        "prompt_token_ids": body["prompt"],
        "token_ids": ids,
        "logprobs": {"token_logprobs": [-0.5] * len(ids)},
    }
    merged = {key: value for key, value in (choice | changes).items() if value is not ...}
    return {"object": "text_completion", "choices": [merged]}


def well(handler: Handler, asked: Asked) -> None:
    handler.reply(completion(asked.body))


def changed(**changes: Any) -> Behaviour:
    return lambda handler, asked: handler.reply(completion(asked.body, **changes))


def status(code: int) -> Behaviour:
    return sends({"error": {"message": "no"}}, code)


def silent(handler: Handler, asked: Asked) -> None:
    time.sleep(2 * HASTY.request_seconds)
    handler.close_connection = True


def dripping(handler: Handler, asked: Asked) -> None:
    """A byte now and then: no single wait is long, the sum is."""
    handler.reply(b"{", claimed=1000)
    for _ in range(20):
        time.sleep(HASTY.request_seconds / 10)
        handler.wfile.write(b" ")
    handler.close_connection = True


def closing(handler: Handler, asked: Asked) -> None:
    content = json.dumps(completion(asked.body)).encode()
    handler.reply(content[:-20], claimed=len(content))
    handler.close_connection = True


LONG = {"token_ids": [STOP + 1] * 300_000, "logprobs": {"token_logprobs": [-0.1] * 300_000}}
FAULTS: dict[str, Behaviour] = {
    "silent": silent,
    "dripping": dripping,
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "closes mid-stream": closing,
    "closes at once": hang_up,
    "broken JSON": sends(b'{"choices": [{"token_ids": [1,'),
    "not JSON": sends(b"<html>gateway</html>"),
    "an error that says 200": sends({"error": {"message": "overloaded"}}),
    "no choices": sends({"choices": []}),
    "an empty choice": sends({"choices": [{}]}),
    "no tokens": changed(token_ids=[], logprobs={"token_logprobs": []}),
    "text only": changed(token_ids=..., logprobs=...),
    "token ids missing": changed(token_ids=None),
    "logprobs missing": changed(logprobs=None),
    "a logprob missing": changed(logprobs={"token_logprobs": [None] * len(SAID[0])}),
    "too few logprobs": changed(logprobs={"token_logprobs": [-0.5]}),
    "too many logprobs": changed(logprobs={"token_logprobs": [-0.5] * 99}),
    "an infinite logprob": lambda handler, asked: handler.reply(
        json.dumps(completion(asked.body)).replace("-0.5", "-Infinity").encode()
    ),
    "aborted in the middle of a turn": changed(token_ids=[STOP + 1], logprobs={"token_logprobs": [-0.5]}),
    "goes on after the turn": changed(token_ids=[STOP, STOP], logprobs={"token_logprobs": [-0.5, -0.5]}),
    "2 MB of tokens": changed(**LONG),
    "2 MB of garbage": sends(b"\x00\xff" * 1_000_000),
}
"""Ways to fail; each may pass, so each is worth another try."""


def patience(fault: str) -> Patience:
    return HASTY if fault in ("silent", "dripping") else LASTING


def episodes(
    server: Server,
    count: int = 4,
    *,
    patience: Patience = LASTING,
    concurrency: int = 4,
    arena: Arena = ARENA,
    limits: Limits = LIMITS,
) -> list[Played]:
    """Play against the server."""
    engine = VllmEngine(server.url, "policy", STOP, concurrency=concurrency, patience=patience)
    return play(assign(mixed(count), 1, 7), arena, engine, limits, chunk=count)


def outcomes(played: list[Played]) -> Counter[Outcome]:
    return Counter(episode.trajectory.outcome for episode in played)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_always_fails_makes_every_episode_void_after_bounded_retries(fault: str) -> None:
    with serving(FAULTS[fault]) as server:
        played = episodes(server, 2, patience=patience(fault))
    assert outcomes(played) == {Outcome.void: 2}
    assert {episode.trajectory.void_reason for episode in played} == {VoidReason.infrastructure}
    assert {episode.trajectory.reward for episode in played} == {None}
    assert len(server.asked) == 2 * LASTING.attempts
    assert f"failed {LASTING.attempts} times" in played[0].trajectory.messages[-1].content


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_recovers_loses_nothing(fault: str) -> None:
    seen: Counter[str] = Counter()

    def once(handler: Handler, asked: Asked) -> None:
        seen[turn := json.dumps(asked.body["prompt"])] += 1
        (FAULTS[fault] if seen[turn] == 1 else well)(handler, asked)

    with serving(once) as server:
        played = episodes(server, 2, patience=patience(fault))
    with serving(well) as server:
        undisturbed = episodes(server, 2)
    assert outcomes(played) == {Outcome.failure: 2}
    assert [list(e.tokens.ids) for e in played] == [list(e.tokens.ids) for e in undisturbed]


def turn(*calls: str) -> Behaviour:
    """The policy's turn is always this."""
    ids = list(ARENA.encode("\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls) + END))
    return changed(token_ids=ids, logprobs={"token_logprobs": [-0.5] * len(ids)})


CALL = '{"name": "get_order_details", "arguments": {"order_id": "#W99"}}'
POLICY_FAULTS: dict[str, tuple[Behaviour, int, str]] = {
    "a tool that does not exist": (turn('{"name": "delete_all", "arguments": {}}'), 1, "Tool 'delete_all' not found"),
    "an argument of the wrong type": (turn('{"name": "get_order_details", "arguments": {"order_id": [1]}}'), 1, "list"),
    "arguments that are no object": (turn('{"name": "get_order_details", "arguments": "x"}'), 1, "arguments"),
    "a call that is no JSON": (turn("{get_order_details}"), 1, "Error: the "),
    "50 calls in one turn": (turn(*[CALL] * 50), 50, "at most 20 calls"),
}
"""Turns, errors of each, and words of the observation."""


@pytest.mark.parametrize("fault", POLICY_FAULTS)
def test_what_the_policy_gets_wrong_is_an_error_that_it_reads_and_no_void(fault: str) -> None:
    behaviour, errors, words = POLICY_FAULTS[fault]
    with serving(behaviour) as server:
        played = episodes(
            server, 4, arena=spelled(max_turns=TURNS, max_context=ROOMY), limits=Limits(1.0, ROOMY, ROOMY)
        )
    assert outcomes(played) == {Outcome.failure: 4}
    assert len(server.asked) == 4 * TURNS, "nothing is asked twice"
    for trajectory in (episode.trajectory for episode in played):
        assert (trajectory.ending, trajectory.void_reason) == (Ending.out_of_turns, None)
        assert trajectory.counts.errors == TURNS * errors
        answers = [message for message in trajectory.messages if message.role is Role.tool]
        assert len(answers) == TURNS * errors and all(answer.error for answer in answers)
        assert words in answers[-1].content
    read = ARENA.decode(server.asked[-1].body["prompt"])
    assert words in read


@pytest.mark.parametrize("text", ["no end", "x" * 40 + END])
def test_a_context_that_overflows_is_the_policys_failure_and_named_so(text: str) -> None:
    """Whether one turn goes on until nothing is left, or turn after turn fills the context."""
    ids = list(ARENA.encode(text)) * (1 if text.endswith(END) else 200)

    def talking(handler: Handler, asked: Asked) -> None:
        said = ids[: asked.body["max_tokens"]]
        finish = "stop" if said == ids else "length"
        logprobs = {"token_logprobs": [-0.5] * len(said)}
        handler.reply(completion(asked.body, token_ids=said, logprobs=logprobs, finish_reason=finish))

    with serving(talking) as server:
        played = episodes(server, 4, arena=spelled(max_context=200), limits=Limits(1.0, 200, 200))
    assert outcomes(played) == {Outcome.failure: 4}
    for episode in played:
        assert (episode.trajectory.ending, episode.trajectory.void_reason) == (Ending.out_of_context, None)
        assert len(episode.tokens.ids) <= 200


def test_kept_and_void_are_all_that_was_requested() -> None:
    faults = [FAULTS[name] for name in ("429", "closes mid-stream", "no choices", "too few logprobs")]

    def mostly_bad(handler: Handler, asked: Asked) -> None:
        (well if asked.body["seed"] % 3 else faults[asked.body["seed"] % len(faults)])(handler, asked)

    with serving(mostly_bad) as server:
        played = episodes(server, 24)
    found = outcomes(played)
    assert found[Outcome.void] and found[Outcome.failure]
    assert found[Outcome.void] + found[Outcome.failure] == 24
    assert all(e.trajectory.ending is Ending.error for e in played if e.trajectory.outcome is Outcome.void)


def test_two_megabytes_of_text_are_not_read() -> None:
    with serving(changed(text="x" * 2_000_000)) as server:
        assert outcomes(episodes(server, 2)) == {Outcome.failure: 2}


def test_a_prompt_is_everything_read_and_sampled_so_far_and_never_text() -> None:
    with serving(well) as server:
        [played] = episodes(server, 1)
    first, second = (asked.body for asked in server.asked)
    tokens = played.tokens
    assert second["prompt"][: len(first["prompt"])] == first["prompt"]
    assert list(tokens.ids[: len(second["prompt"])]) == second["prompt"]
    assert [int(token) for token in tokens.ids[tokens.sampled]] == [
        token for body in (first, second) for token in SAID[body["seed"] % 2]
    ]
    assert set(tokens.logprobs[tokens.sampled]) == {-0.5}
    assert first["seed"] != second["seed"]


def test_what_finishes_first_changes_nothing() -> None:
    def shuffled(handler: Handler, asked: Asked) -> None:
        time.sleep(asked.body["seed"] % 7 / 100)
        well(handler, asked)

    found = []
    for behaviour, concurrency in ((well, 1), (shuffled, 8)):
        with serving(behaviour) as server:
            found.append([e.trajectory.model_dump() for e in episodes(server, 8, concurrency=concurrency)])
    assert found[0] == found[1]


def test_no_more_conversations_are_in_flight_than_allowed() -> None:
    def slowly(handler: Handler, asked: Asked) -> None:
        time.sleep(0.05)
        well(handler, asked)

    with serving(slowly) as server:
        episodes(server, 12, concurrency=3)
    assert server.most_open == 3


def test_an_episode_has_its_time() -> None:
    def tiring(handler: Handler, asked: Asked) -> None:
        (well if len(server.asked) == 1 else silent)(handler, asked)

    with serving(tiring) as server:
        played = episodes(server, 1, patience=replace(LASTING, episode_seconds=1.5))
    assert outcomes(played) == {Outcome.void: 1}
    assert len(server.asked) == TURNS
    assert "no answer in time" in played[0].trajectory.messages[-1].content


@pytest.mark.parametrize("code", [400, 401, 404])
def test_a_server_that_refuses_ends_the_run_with_its_own_words(code: int) -> None:
    with serving(status(code)) as server, pytest.raises(StageError, match=f"HTTP {code}.*no"):
        episodes(server, 4)


def test_nobody_there_is_void_too() -> None:
    with serving(well) as server:
        pass
    assert outcomes(episodes(server, 2)) == {Outcome.void: 2}


def test_waiting_for_a_server_says_what_it_waits_for_and_ends() -> None:
    said: list[str] = []
    with serving(well) as server:
        pass
    with pytest.raises(StageError, match="not ready after"):
        VllmEngine(server.url, "policy", STOP).wait_until_ready(0.2, said.append)
    assert len(said) == 1 and "ConnectError" in said[0]


def test_waiting_ends_when_the_server_is_there() -> None:
    replies = iter([(503, b""), (200, b"<html>gateway</html>"), (200, b'{"data": [{"id": "policy"}]}')])

    def starting(handler: Handler, asked: Asked) -> None:
        code, content = next(replies)
        handler.reply(content, code)

    with serving(starting) as server:
        VllmEngine(server.url, "policy", STOP).wait_until_ready(5.0)
    assert [asked.path for asked in server.asked] == ["/v1/models"] * 3


def test_a_server_of_another_model_is_refused() -> None:
    with (
        serving(sends({"data": [{"id": "other"}]})) as server,
        pytest.raises(StageError, match="serves other, not 'policy'"),
    ):
        VllmEngine(server.url, "policy", STOP).wait_until_ready(5.0)


def test_new_weights_forget_cached_prefixes_and_an_adapter_becomes_the_model() -> None:
    def willing(handler: Handler, asked: Asked) -> None:
        if asked.path == "/v1/completions":
            well(handler, asked)
        else:
            handler.reply(b"")

    with serving(willing) as server:
        engine = VllmEngine(server.url, "policy", STOP)
        engine.reload_weights()
        engine.load_lora("step-3", Path("adapters/step-3"))
        play(assign(mixed(1), 1, 7), ARENA, engine, LIMITS, chunk=1)
    paths = [asked.path for asked in server.asked]
    assert paths[:4] == ["/collective_rpc", "/reset_prefix_cache", "/v1/load_lora_adapter", "/reset_prefix_cache"]
    assert server.asked[0].body == {"method": "reload_weights"}
    assert server.asked[2].body == {"lora_name": "step-3", "lora_path": "adapters/step-3", "load_inplace": True}
    assert {asked.body["model"] for asked in server.asked[4:]} == {"step-3"}


def test_a_failed_reload_is_an_error() -> None:
    with serving(status(500)) as server, pytest.raises(StageError, match="collective_rpc: HTTP 500"):
        VllmEngine(server.url, "policy", STOP).reload_weights()
