"""Language models in a role beside the policy (the user; Controller and Proposer), over the OpenAI protocol.

    chat = open_chat(profile.endpoints, "user", model="Qwen/Qwen3-32B")
    answer = chat.ask([Said("system", guidelines), Said("user", "Hi!")], temperature=0.7, seed=17, max_tokens=1024)
    answer.text

Servers fail. What may pass (no connection, no answer in time, 429, 5xx, an answer that is none) is asked again a
bounded number of times with growing pauses; then the call ends in a `ChatError`, whose fault says why, and whoever
asked decides what that means. A server that refuses the role altogether (key, model, address) raises `StageError`: no
other call would do better. Answers are bounded in tokens, bytes and seconds. The key is read from the environment,
sent, and shown to nobody, not even where a server repeats it in its complaint. Left out: streaming, tool calls.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import httpx
import openai
from openai.types.chat import ChatCompletionMessageParam
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel, Field, ValidationError

from sentinel.errors import StageError
from sentinel.spec.profile import Endpoint, LlmRole

SHOWN = 300
"""Characters of a server's complaint that are worth repeating."""


class Said(NamedTuple):
    """A message of a conversation, as the model that is asked sees it."""

    role: Literal["system", "user", "assistant"]
    text: str


class Answer(NamedTuple):
    """What the model said."""

    text: str
    """Empty where the model said nothing; without reasoning that the server left in front of it."""
    complete: bool
    """False where it was cut off by `max_tokens`."""
    tokens: int
    """Of prompt and answer, as the server counts them; 0 where it does not."""


class ChatFault(StrEnum):
    """Why a call failed."""

    timeout = "timeout"
    connection = "connection"
    rate_limited = "rate_limited"
    server = "server"
    malformed = "malformed"
    too_large = "too_large"
    rejected = "rejected"
    budget = "budget"


PASSING = frozenset(
    {ChatFault.timeout, ChatFault.connection, ChatFault.rate_limited, ChatFault.server, ChatFault.malformed}
)
"""Faults that another attempt may not meet."""


class ChatError(Exception):
    """A call that came to nothing."""

    def __init__(self, fault: ChatFault, detail: str, *, pause: float = 0.0) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.pause = pause
        """Seconds that the server asked to be left alone."""


@dataclass(frozen=True)
class Patience:
    """How long and how often; seconds never decide an outcome, they only make it void."""

    attempts: int = 4
    """Requests for one answer."""
    pause_seconds: float = 1.0
    """Before the second attempt; doubles each time."""
    longest_pause_seconds: float = 30.0
    """Also where the server asks for more."""
    connect_seconds: float = 10.0
    request_seconds: float = 120.0
    """From the request to the last byte of the answer."""
    max_bytes: int = 1_000_000
    """Of one answer."""


class Budget:
    """What the calls of one purpose may cost together; safe to share between threads."""

    def __init__(self, *, calls: int | None = None, tokens: int | None = None) -> None:
        self._limits = {"calls": calls, "tokens": tokens}
        self._spent = {"calls": 0, "tokens": 0}
        self._lock = threading.Lock()

    @property
    def spent(self) -> dict[str, int]:
        """Requests sent, those in vain included, and tokens reported so far."""
        return dict(self._spent)

    def request(self) -> None:
        """Count a request; raises `ChatError` where nothing is left for it."""
        with self._lock:
            for name, limit in self._limits.items():
                if limit is not None and self._spent[name] >= limit:
                    raise ChatError(ChatFault.budget, f"all {limit} {name} are spent")
            self._spent["calls"] += 1

    def answered(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        with self._lock:
            self._spent["tokens"] += tokens


class _Question(NamedTuple):
    """A request, before it is on the wire."""

    model: str
    messages: Sequence[Said]
    temperature: float
    seed: int
    max_tokens: int
    schema: Mapping[str, Any] | None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    total_tokens: int = 0


class _Completion(BaseModel):
    """What of an answer matters."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def open_chat(
    endpoints: Mapping[LlmRole, Endpoint],
    role: LlmRole,
    *,
    model: str,
    patience: Patience | None = None,
    budget: Budget | None = None,
) -> Chat:
    """The client of a role; raises `StageError` where the profile gives it no server, or its key is not set."""
    if not (endpoint := endpoints.get(role)):
        raise StageError(
            f"the spec gives the role '{role}' to the model '{model}', but the profile names no server for it\n"
            f"    add it: endpoints: {{{role}: {{url: http://127.0.0.1:8000/v1}}}}"
        )
    key = os.environ.get(endpoint.api_key_env, "") if endpoint.api_key_env else ""
    if endpoint.api_key_env and not key:
        raise StageError(f"endpoint '{role}': the environment variable {endpoint.api_key_env} is not set")
    return Chat(endpoint.url, model, key=key, role=role, patience=patience, budget=budget)


class Chat:
    """Asks one model on one server; safe to share between threads."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        role: str = "model",
        patience: Patience | None = None,
        budget: Budget | None = None,
    ) -> None:
        """A client; nothing is sent before it is asked.

        Args:
            url: base of the OpenAI protocol, with the `/v1`.
            model: name under which the server serves it.
            key: sent as bearer token.
            role: names the client in errors.
            patience: limits of waiting.
            budget: what all calls may cost.
        """
        self._url, self.model, self._key, self._role = url, model, key, role
        self._patience, self.budget = patience or Patience(), budget or Budget()
        seconds = self._patience.request_seconds
        self._client = openai.OpenAI(
            base_url=url,
            api_key=key or "none",
            max_retries=0,
            timeout=httpx.Timeout(seconds, connect=min(seconds, self._patience.connect_seconds)),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(
        self,
        messages: Sequence[Said],
        *,
        temperature: float,
        seed: int,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One answer.

        Args:
            messages: the conversation.
            temperature: of sampling.
            seed: of sampling.
            max_tokens: of the answer.
            schema: JSON Schema that the server shall hold the answer to, as far as it can.

        Raises:
            ChatError: All attempts failed, the answer is too large, the request was rejected, or the budget is spent.
            StageError: The server refuses this role altogether.
        """
        patience = self._patience
        question = _Question(self.model, messages, temperature, seed, max_tokens, schema)
        for attempt in range(1, patience.attempts + 1):
            try:
                self.budget.request()
                answer = self._once(question)
            except ChatError as error:
                if error.fault not in PASSING or attempt == patience.attempts:
                    raise
                pause = max(error.pause, patience.pause_seconds * 2 ** (attempt - 1))
                time.sleep(min(pause, patience.longest_pause_seconds))
            else:
                self.budget.answered(answer.tokens)
                return answer
        raise ValueError("patience allows no attempt")

    def _once(self, question: _Question) -> Answer:
        try:
            return _answer(self._request(question))
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except (openai.APITimeoutError, httpx.TimeoutException):
            raise ChatError(ChatFault.timeout, f"{self._place}: no answer in time") from None
        except (openai.APIConnectionError, httpx.HTTPError) as error:
            cause = error.__cause__ or error
            raise ChatError(ChatFault.connection, f"{self._place}: {type(cause).__name__}: {cause}") from None

    def _request(self, question: _Question) -> bytes:
        """The body of the answer, read no further than it may be long and last."""
        deadline = time.monotonic() + self._patience.request_seconds
        body = bytearray()
        with self._client.chat.completions.with_streaming_response.create(
            model=question.model,
            messages=[_param(message) for message in question.messages],
            temperature=question.temperature,
            seed=question.seed,
            max_tokens=question.max_tokens,
            response_format=_format(question.schema),
        ) as response:
            for part in response.iter_bytes():
                body += part
                if len(body) > self._patience.max_bytes:
                    limit = self._patience.max_bytes
                    raise ChatError(ChatFault.too_large, f"{self._place}: an answer of more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise ChatError(ChatFault.timeout, f"{self._place}: an answer without end")
        return bytes(body)

    def _refused(self, error: openai.APIStatusError) -> Exception:
        """What a status means: a fault that may pass, a bad request, or a bad set-up."""
        status = error.status_code
        said = self._without_key(error.response.text)[:SHOWN]
        detail = f"{self._place}: HTTP {status}: {said}"
        if status in (401, 403, 404):
            return StageError(f"{detail}\n    compare url and api_key_env in the profile and the model in the spec")
        if status in (408, 409, 425, 429):
            return ChatError(ChatFault.rate_limited, detail, pause=_seconds(error.response.headers.get("retry-after")))
        return ChatError(ChatFault.server if status >= 500 else ChatFault.rejected, detail)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    @property
    def _place(self) -> str:
        return f"endpoint '{self._role}' ({self._url}, model '{self.model}')"


def _format(schema: Mapping[str, Any] | None) -> ResponseFormatJSONSchema | openai.Omit:
    if schema is None:
        return openai.omit
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}


def _param(message: Said) -> ChatCompletionMessageParam:
    match message.role:
        case "system":
            return {"role": "system", "content": message.text}
        case "user":
            return {"role": "user", "content": message.text}
        case "assistant":
            return {"role": "assistant", "content": message.text}


def _answer(body: bytes) -> Answer:
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "its start"
        raise ChatError(ChatFault.malformed, f"an unusable answer, at {where}: {first['msg']}") from None
    choice = completion.choices[0]
    text = (choice.message.content or "").rpartition("</think>")[2].strip()
    return Answer(text, choice.finish_reason != "length", completion.usage.total_tokens if completion.usage else 0)


def _seconds(header: str | None) -> float:
    """A `Retry-After` in seconds; dates are not worth a parser."""
    return float(header) if header and header.isdecimal() else 0.0
