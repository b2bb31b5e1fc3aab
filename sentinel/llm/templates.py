r"""How a conversation becomes text, piece by piece, and how the policy's text becomes a message.

    template = Hermes(system="")
    template.opening("I want to cancel order #W49.")     # everything the policy reads before its first turn
    template.parse('<tool_call>\n{"name": …}\n</tool_call>')
    template.observation(["{…}"])                        # what it reads after its call

ChatML with tool calls in the Hermes format, as Qwen2.5 and Qwen3 models use it. Each function renders only what is
new, so the token buffer is append-only; where a template rewrites history all the same (Qwen3-Thinking drops the
reasoning of earlier requests once the user speaks again), `forget` says how it reads from then on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sentinel.artifacts import canonical
from sentinel.records import Json, ToolCall

PAD = "<|endoftext|>"
THINK, THOUGHT = "<think>\n", "</think>"
START, END = "<|im_start|>", "<|im_end|>"
_NEXT = f"{END}\n{START}assistant\n"
_USER = f"\n{START}user\n"
_RESPONSE = f"{_USER}<tool_response>\n"
_RESPONSE_END = f"\n</tool_response>{_NEXT}"
_BETWEEN = "\n</tool_response>\n<tool_response>\n"
MARKERS = (_RESPONSE_END, _RESPONSE, _BETWEEN, _NEXT, _USER, f"{START}user\n", END)
"""The structural strings of the format, longest first where one holds another."""
UNCLOSED = "the tool call is not closed"
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


class Parsed(NamedTuple):
    """An assistant turn, read."""

    text: str
    """Words for the user; empty if the turn calls tools."""
    calls: tuple[ToolCall, ...]
    problem: str | None
    """Why the turn is malformed, in words that the policy can learn from."""
    reasoning: str = ""
    """What was thought before the answer, where the template has a place for it."""


def render_call(call: ToolCall) -> str:
    """A tool call as the policy writes it."""
    body = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


class Template(Protocol):
    """The language of one family of models."""

    def opening(self, user: str) -> str:
        """The prompt of the first assistant turn."""
        ...

    def answer(self, user: str) -> str:
        """What follows an assistant's message to the user: the user's reply, and the prompt of the next turn."""
        ...

    def observation(self, results: Sequence[str]) -> str:
        """What follows tool calls: their results, and the prompt of the next turn."""
        ...

    def turn(self, text: str) -> str:
        """An assistant turn as the policy writes it, to its end; `text` is a message or a rendered call."""
        ...

    def parse(self, text: str) -> Parsed:
        """Read an assistant turn; a malformed call is a problem to observe, not an exception."""
        ...

    def forget(self, pieces: Sequence[str]) -> str | None:
        """The conversation as it reads once the user speaks again; `None` where it stays as it is.

        Args:
            pieces: what was read and what was sampled, in turn: prompt, assistant turn, prompt, …, assistant turn.
        """
        ...


class Hermes:
    """ChatML with Hermes tool calls; nothing is ever forgotten."""

    def __init__(self, system: str = "") -> None:
        self._system = f"{START}system\n{system}{END}\n" if system else ""

    def opening(self, user: str) -> str:
        """The prompt of the first assistant turn."""
        return f"{self._system}{START}user\n{user}{_NEXT}"

    def answer(self, user: str) -> str:
        """What follows an assistant's message to the user: the user's reply, and the prompt of the next turn."""
        return f"{_USER}{user}{_NEXT}"

    def observation(self, results: Sequence[str]) -> str:
        """What follows tool calls: their results, and the prompt of the next turn."""
        return f"{_RESPONSE}{_BETWEEN.join(results)}{_RESPONSE_END}"

    def turn(self, text: str) -> str:
        """An assistant turn as a policy writes it."""
        return text + END

    def forget(self, pieces: Sequence[str]) -> str | None:
        """Nothing."""
        return None

    def parse(self, text: str) -> Parsed:
        """Read an assistant turn; a malformed call is a problem to observe, not an exception."""
        text = text.removesuffix(END)
        if "<tool_call>" not in text:
            return Parsed(text.strip(), (), None if text.strip() else "the message is empty")
        try:
            calls = tuple(_call(json.loads(body)) for body in _CALL.findall(text))
        except (ValueError, TypeError, RecursionError) as error:
            return Parsed("", (), f"the tool call is not valid: {error}")
        return Parsed("", calls, None) if len(calls) == text.count("<tool_call>") else Parsed("", (), UNCLOSED)


class Qwen3Thinking(Hermes):
    """Qwen3-Thinking: every turn begins in its reasoning, which later prompts hold only until the user speaks again.

    While the policy calls tools its reasoning stays, as in Qwen's own template, so these turns form one append-only
    segment; after the user's reply the history is rendered anew without it, and the next segment begins. The words and
    calls of earlier turns are kept as they were sampled, which is Qwen's rendering wherever the policy writes JSON as
    `json.dumps` does.
    """

    def opening(self, user: str) -> str:
        """The prompt of the first assistant turn."""
        return super().opening(user) + THINK

    def answer(self, user: str) -> str:
        """The user's reply, and the prompt of the next turn."""
        return super().answer(user) + THINK

    def observation(self, results: Sequence[str]) -> str:
        """The results of tool calls, and the prompt of the next turn."""
        return super().observation(results) + THINK

    def turn(self, text: str) -> str:
        """An assistant turn without reasoning."""
        return super().turn(f"{THOUGHT}\n\n{text}")

    def parse(self, text: str) -> Parsed:
        """Read what follows the reasoning."""
        thought, answer = text.removesuffix(END).partition(THOUGHT)[0].strip(), _answer(text)
        if answer is None:
            return Parsed("", (), f"the reasoning does not end with {THOUGHT}", thought)
        return super().parse(answer)._replace(reasoning=thought)

    def forget(self, pieces: Sequence[str]) -> str | None:
        """All reasoning."""
        kept = (
            _answer(piece) or END if number % 2 else piece.removesuffix(THINK) for number, piece in enumerate(pieces)
        )
        return "".join(kept)


def _answer(text: str) -> str | None:
    """What follows the reasoning of a turn; `None` where the reasoning has no end."""
    _, closed, answer = text.partition(THOUGHT)
    return answer.lstrip("\n") if closed else None


def _call(value: Json) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError('expected {"name": …, "arguments": {…}}')
    if not isinstance(arguments := value.get("arguments", {}), dict):
        raise ValueError("arguments must be an object")
    canonical(value).encode()  # refuses what no artifact can hold: NaN, infinity, half a surrogate pair
    return ToolCall(name=value["name"], arguments=arguments)


def qwen3_system_prompt(policy: str, schemas: Sequence[Json]) -> str:
    """The system message in the words of Qwen3's own chat template."""
    tools = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas)
    return (
        f"{policy}\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{tools}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def system_prompt(policy: str, schemas: Sequence[Json]) -> str:
    """The system message of large models: the domain's policy and the tools, in Hermes wording."""
    tools = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas)
    return (
        f"{policy}\n\n# Tools\n\nYou may call one function per turn. Function signatures within <tools></tools>:\n"
        f"<tools>\n{tools}\n</tools>\n\nCall a function with a JSON object within <tool_call></tool_call>:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )
