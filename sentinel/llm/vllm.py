"""Inference on a vLLM server over HTTP: token-id prompts out, sampled ids and their log-probabilities back.

    engine = VllmEngine("http://127.0.0.1:8000/v1", "policy", stop=tokenizer.eos_token_id, concurrency=32)
    engine.wait_until_ready(600, say=progress.say)
    engine.run(conversations, limits)

The server must run with `--logprobs-mode processed_logprobs`, so that log-probabilities are those of the distribution
that was sampled from. The ids that a conversation accumulates are the prompt of its next turn, and the conversation is
told which ids the server says it has read: nothing is re-tokenised, and the server's text is never read.

A turn's seed comes from its conversation, so no result depends on what finishes first; bits still do, as vLLM batches
what happens to be in flight. A server that fails is asked again, with growing pauses, a bounded number of times and
seconds; then the conversation is void. A server that refuses (4xx) is a fault of the set-up and ends the run. Left
out: streaming, several servers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from sentinel.errors import StageError
from sentinel.llm.engine import Conversation, Finish, Limits, Rewritten, Sample

T = TypeVar("T")
TRY_AGAIN = frozenset({408, 409, 425, 429})
"""Client errors that pass; those of the server (5xx) do as well."""
SHOWN = 300
"""Characters of a server's complaint that are worth repeating."""


@dataclass(frozen=True)
class Patience:
    """How long the engine waits and how often it tries. Seconds never decide an outcome: they only make it void."""

    request_seconds: float = 600.0
    """From sending a turn's prompt to the last byte of the answer."""
    episode_seconds: float = 3600.0
    """From a conversation's start to sending its last prompt; its own work (tools, user) is never interrupted."""
    attempts: int = 5
    """Requests for one turn."""
    pause_seconds: float = 1.0
    """Before the second attempt; doubles each time."""


class _Fault(Exception):
    """The server failed in a way that may pass."""


class _Lost(Exception):
    """The server failed too often: the conversation is void."""


class _Logprobs(BaseModel):
    token_logprobs: list[FiniteFloat]


class _Choice(BaseModel):
    prompt_token_ids: list[int]
    token_ids: Annotated[list[int], Field(min_length=1)]
    logprobs: _Logprobs


class _Completion(BaseModel):
    """What of an answer matters."""

    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class VllmEngine:
    """Samples from a vLLM server (`sentinel.llm.engine.Engine`)."""

    def __init__(
        self,
        url: str,
        model: str,
        stop: int,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        patience: Patience | None = None,
    ) -> None:
        """An engine; nothing is sent before it is used.

        Args:
            url: base of the OpenAI protocol, with the `/v1`.
            model: name under which the server serves the policy; `load_lora` changes it.
            stop: id of the token that ends a turn; it is part of the sample.
            api_key: sent as bearer token.
            concurrency: conversations in flight, and threads for what they do between turns.
            patience: limits of waiting.
        """
        self.url, self.model, self.stop = url.rstrip("/"), model, stop
        self.concurrency, self.patience = concurrency, patience or Patience()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        """Drive every conversation to its end, or abandon it; raises `StageError` if the server refuses requests."""
        try:
            asyncio.run(self._run(conversations, limits))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        connections = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        waiting = iter(conversations)
        with ThreadPoolExecutor(self.concurrency, "conversation") as pool:
            async with (
                httpx.AsyncClient(headers=self._headers, timeout=None, limits=connections) as client,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(min(self.concurrency, len(conversations))):
                    group.create_task(_Worker(self, limits, client, pool).work(waiting))

    def wait_until_ready(
        self,
        seconds: float,
        say: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for the server to answer; raises `StageError` after `seconds`, or if it serves other models.

        Args:
            seconds: the longest wait.
            say: hears what it waits for.
            check: raises where waiting is in vain.
        """
        began, said = time.monotonic(), ""
        while problem := self._not_ready():
            check()
            waited = time.monotonic() - began
            if waited > seconds:
                raise StageError(f"{self.url}: not ready after {waited:.0f} s: {problem}")
            if problem != said:
                say(f"waiting for {self.url}: {problem}")
                said = problem
            time.sleep(min(1.0, seconds / 10))

    def _not_ready(self) -> str | None:
        try:
            response = httpx.get(f"{self.url}/models", headers=self._headers, timeout=10.0)
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}"
        if response.status_code != 200:
            return f"HTTP {response.status_code}"
        try:
            served = [model.id for model in _Models.model_validate_json(response.content).data]
        except ValidationError:
            return "its answer is not a list of models"
        if self.model not in served:
            raise StageError(f"{self.url}: serves {', '.join(served)}, not '{self.model}'; start it with this model")
        return None

    def reload_weights(self) -> None:
        """Take over the safetensors in the folder the server was started with; they may be overwritten before.

        Needs `VLLM_SERVER_DEV_MODE=1`. No conversation may be running.
        """
        self._command(f"{self._root}/collective_rpc", {"method": "reload_weights"})
        self._forget()

    def load_lora(self, name: str, path: Path) -> None:
        """Sample with the adapter in this folder (of the server) from now on; one of the same name is replaced.

        Needs `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1` and `--enable-lora`. No conversation may be running.
        """
        self._command(
            f"{self.url}/load_lora_adapter", {"lora_name": name, "lora_path": str(path), "load_inplace": True}
        )
        self._forget()
        self.model = name

    def _forget(self) -> None:
        """Drop cached prefixes: they were computed with other weights."""
        self._command(f"{self._root}/reset_prefix_cache", None)

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")

    def _command(self, url: str, body: dict[str, Any] | None) -> None:
        try:
            response = httpx.post(url, json=body, headers=self._headers, timeout=self.patience.request_seconds)
        except httpx.HTTPError as error:
            raise StageError(f"{url}: {type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise StageError(f"{url}: HTTP {response.status_code}: {response.text[:SHOWN]}")


@dataclass(frozen=True)
class _Worker:
    """Plays one conversation after the other."""

    engine: VllmEngine
    limits: Limits
    client: httpx.AsyncClient
    pool: Executor

    async def work(self, waiting: Iterator[Conversation]) -> None:
        """Take conversations that wait until none is left."""
        for conversation in waiting:
            try:
                await self._drive(conversation)
            except _Lost as error:
                conversation.abandon(str(error))

    async def _drive(self, conversation: Conversation) -> None:
        deadline = _now() + self.engine.patience.episode_seconds
        ids = list(await self._apart(conversation.start))
        for turn in count():
            if not 0 < len(ids) < self.limits.max_context:
                return
            seed = int(conversation.noise(turn + 1)[turn] * 2**53)
            sample = await self._turn(ids, seed, self.limits.max_context - len(ids), deadline)
            new = await self._apart(conversation.advance, sample)
            if new is None:
                return
            ids = list(new) if isinstance(new, Rewritten) else [*ids, *sample.ids, *new]

    async def _apart(self, function: Callable[..., T], *arguments: Any) -> T:
        """In a thread of our own pool: tools take time, and a user may be a server as well."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    async def _turn(self, prompt: list[int], seed: int, room: int, deadline: float) -> Sample:
        """Sample a turn; asks again, with growing pauses, as long as patience lasts."""
        patience, attempt = self.engine.patience, 1
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, _now() + patience.request_seconds)):
                    return await self._request(prompt, seed, room)
            except TimeoutError:
                problem = "no answer in time"
            except (httpx.HTTPError, _Fault) as error:
                problem = f"{type(error).__name__.lstrip('_')}: {error}"
            pause = patience.pause_seconds * 2 ** (attempt - 1)
            if attempt >= patience.attempts or _now() + pause >= deadline:
                raise _Lost(f"the inference server failed {attempt} times in a turn, at last with {problem}")
            await asyncio.sleep(pause)
            attempt += 1

    async def _request(self, prompt: list[int], seed: int, room: int) -> Sample:
        engine, tokens = self.engine, min(room, self.limits.max_new_tokens)
        body = {
            "model": engine.model,
            "prompt": prompt,
            "max_tokens": tokens,
            "seed": seed,
            "temperature": self.limits.temperature,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": [engine.stop],
            "ignore_eos": True,
            # Neutral values, as the server would take others from the model's generation_config.json.
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        response = await self.client.post(f"{engine.url}/completions", json=body)
        if response.status_code in TRY_AGAIN or response.status_code >= 500:
            raise _Fault(f"HTTP {response.status_code}: {response.text[:SHOWN]}")
        if response.status_code != 200:
            raise StageError(
                f"{engine.url}: refuses a request with HTTP {response.status_code}: {response.text[:SHOWN]}\n"
                f"    compare the server's model ('{engine.model}'?), --max-model-len and key with spec and profile"
            )
        return self._sample(response.content, tokens)

    def _sample(self, content: bytes, tokens: int) -> Sample:
        """The sampled turn; raises `_Fault` for an answer that cannot be one."""
        try:
            choice = _Completion.model_validate_json(content).choices[0]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise _Fault(
                f"unusable answer at {'.'.join(map(str, first['loc'])) or 'its start'}: {first['msg']}"
            ) from None
        ids, logprobs, stop = choice.token_ids, choice.logprobs.token_logprobs, self.engine.stop
        if len(logprobs) != len(ids):
            raise _Fault(f"{len(logprobs)} log-probabilities for {len(ids)} tokens")
        if stop in ids[:-1] or len(ids) > tokens or (len(ids) < tokens and ids[-1] != stop):
            raise _Fault(f"{len(ids)} tokens of at most {tokens} that do not end where the turn does")
        limit = Finish.turn_limit if tokens == self.limits.max_new_tokens else Finish.context_limit
        finish = Finish.stop if ids[-1] == stop else limit
        return Sample(ids, logprobs, finish, choice.prompt_token_ids)


def _now() -> float:
    return asyncio.get_running_loop().time()
