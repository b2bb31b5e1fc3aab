"""In-process inference on a transformers model: many conversations in lock-step over one preallocated KV cache.

    HfEngine(model, stop=tokenizer.eos_token_id, threads=1).run(conversations, limits)

All live rows stand at the same position. Each feeds what it was given to read, or the token it has just sampled: one
token, or as many as all of them still have to read (the beginning of their prompts, mostly). So no row ever waits for
another's turn. Rows that are through leave the batch; those whose history was rewritten start over in the next pass.
The engine reads the live weights: after an optimizer step the next run samples from the new policy. Sampling is by
inverse CDF with one uniform number per position, which the conversation supplies.

Left out: paged memory, and refilling places that fall free from a queue. Measured on a chunk of 128 episodes of the
tiny policy (fp32, one CPU thread): 86 % of the rows that are fed are live, and with every row at a full batch's price a
forward pass would take 1/1.2 of the time (256: 1/1.3). Refilling 64 places from the same chunk would lose that and more
(0.9 of lock-step's speed, simulated from measured step times; 128 of 256: 1.0), since positions then differ and dense
attention reads as far as the oldest row's. Where rows outgrow the machine, the vllm engine does it properly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sentinel.llm.decoder import Decoder
from sentinel.llm.engine import Conversation, Finish, Limits, Rewritten, Sample

BLOCK = 64
"""Tokens per row that are fed at once, at most: what they need beside the cache stays small."""
COMPACT_BELOW = 0.75
"""Share of live rows under which the batch is compacted: copying the cache costs about one step."""


class _Row:
    """One conversation's place in the batch."""

    def __init__(self, conversation: Conversation, limits: Limits) -> None:
        self.conversation, self.limits = conversation, limits
        self._passes = 0
        self.begin_pass(conversation.start())

    def begin_pass(self, prompt: list[int]) -> None:
        """Start with a whole prompt, at position 0, with noise of its own."""
        context = self.limits.max_context
        self.ids = list(prompt)
        self.noise = self.conversation.noise((self._passes + 1) * context)[self._passes * context :]
        self._passes += 1
        self.begin = len(self.ids)
        self.logprobs: list[float] = []
        self.live = 0 < self.begin < context
        self.rewritten: list[int] = []

    def take(self, token: int, logprob: float, stop: int) -> None:
        """Append a sampled token; at the end of a turn ask the conversation what comes next."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token == stop:
            self._turn(Finish.stop)
        elif len(self.logprobs) >= self.limits.max_new_tokens:
            self._turn(Finish.turn_limit)
        elif len(self.ids) >= self.limits.max_context:
            self._turn(Finish.context_limit)

    def _turn(self, finish: Finish) -> None:
        new = self.conversation.advance(Sample(self.ids[self.begin :], self.logprobs, finish))
        if new is None or isinstance(new, Rewritten):
            self.live, self.rewritten = False, new or []
            return
        self.ids += new
        self.begin, self.logprobs = len(self.ids), []
        if self.begin >= self.limits.max_context:
            raise ValueError(
                f"a conversation grew to {self.begin} tokens, past its context of {self.limits.max_context}"
            )


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    """Compute with so many threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class HfEngine:
    """Samples from a live model of one of `sentinel.llm.decoder.ARCHITECTURES`."""

    def __init__(self, model: PreTrainedModel, stop: int, threads: int = 1) -> None:
        self._model, self._stop, self._threads = model, stop, threads

    @torch.inference_mode()
    def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        """Drive every conversation to its end (`sentinel.llm.engine.Engine`)."""
        rows = [_Row(conversation, limits) for conversation in conversations]
        with _cpu_threads(self._threads):
            while rows:
                self._pass(rows, limits)
                rows = [row for row in rows if row.rewritten]
                for row in rows:
                    row.begin_pass(row.rewritten)

    def _pass(self, rows: list[_Row], limits: Limits) -> None:
        """Decode until every row is through, or its history is rewritten."""
        decoder, position = Decoder(self._model, len(rows), limits.max_context), 0
        while live := [n for n, row in enumerate(rows) if row.live]:
            if len(live) < COMPACT_BELOW * len(rows):
                decoder.keep(torch.tensor(live))
                rows = [rows[n] for n in live]
            end = min(position + BLOCK, *(len(row.ids) for row in rows if row.live))
            ids = [row.ids[position:end] if row.live else [self._stop] * (end - position) for row in rows]
            hidden = decoder.feed(torch.tensor(ids, device=self._model.device), position)
            self._sample(decoder, hidden, rows, end - 1, limits.temperature)
            position = end

    def _sample(self, decoder: Decoder, hidden: Tensor, rows: list[_Row], position: int, temperature: float) -> None:
        """Sample the next token of each row that has nothing left to read after `position`."""
        due = [n for n, row in enumerate(rows) if row.live and len(row.ids) == position + 1]
        if not due:
            return
        logprobs = decoder.log_probabilities(hidden[torch.tensor(due)], temperature)
        cumulative = logprobs.double().exp().cumsum(-1)
        noise = torch.from_numpy(np.array([rows[n].noise[position] for n in due])).to(cumulative)[:, None]
        tokens = torch.searchsorted(cumulative, noise * cumulative[:, -1:], right=True).clamp_(
            max=cumulative.shape[1] - 1
        )
        chosen = logprobs.gather(1, tokens)
        for n, token, logprob in zip(due, tokens[:, 0].tolist(), chosen[:, 0].tolist(), strict=True):
            rows[n].take(token, logprob, self._stop)
