"""How fast is the in-process engine? The same conversations batched, and one at a time through `model.generate`.

    python -m tests.bench.engine --json [--policy FOLDER]

Both sides use the numbers that an episode's seed gives for each position, so they sample the same tokens (but for the
rare number that falls between two roundings) and play the same episodes. The policy is made on the spot, as the warmup
stage makes it but shorter, unless a folder is given. The batched side plays all episodes, several times over, and its
median counts; `generate`, which takes them singly and so a time proportional to their number, plays every fourth.
`ratio` is one of wall-clock times per episode: one thread for the engine, as a stage gives it, and the threads of a
stage for `generate` (`cpu_ratio`: of CPU seconds, less sensitive to what else the machine does). `max_logprob_error`
compares the engine's log-probabilities with the trainer's forward pass.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from sentinel.env.synthetic import atoms
from sentinel.llm.engine import Conversation, Engine, Finish, Limits, Sample
from sentinel.llm.hf import HfEngine
from sentinel.llm.policy import Policy, load_policy, new_policy
from sentinel.llm.templates import Hermes
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.records import Task
from sentinel.rollout.arena import Arena, Tokenizer
from sentinel.rollout.episode import Played
from sentinel.rollout.pool import assign, play
from sentinel.seeds import generator
from sentinel.solver import batch
from sentinel.solver.demonstrations import Codebook, demonstrate
from sentinel.solver.loss import score
from sentinel.solver.warmup import Teaching
from sentinel.spec.models import TinyPolicy
from sentinel.spec.profile import ProfileSpec
from tests.unit.builders import mixed, world

SETTINGS = TinyPolicy(type="tiny", max_context=320)
TURN = 48
"""Tokens of one turn."""
SHARE = 4
"""One in so many episodes is played by `generate`, in batch order, so that all kinds of tasks are among them."""


class Timed(NamedTuple):
    """What was played, and how long it took by the clock and by the CPU."""

    played: list[Played]
    seconds: float
    cpu_seconds: float

    @property
    def sampled(self) -> int:
        return sum(int(each.tokens.sampled.sum()) for each in self.played)


def arena(tokenizer: Tokenizer) -> Arena:
    return Arena(world(), Hermes(), tokenizer, "compact", max_turns=20, max_context=SETTINGS.max_context)


def make_policy(steps: int) -> Policy:
    """A policy that has begun to talk like the demonstrations."""
    tasks, book = mixed(232, number=10_000), Codebook()
    list(demonstrate(tasks, arena(book), {}, 0, lambda: None))
    tokenizer = train_tokenizer(book.texts, atoms(), max_context=SETTINGS.max_context)
    policy = new_policy(SETTINGS, tokenizer, seed=0)
    lesson = Teaching(
        policy.model,
        list(demonstrate(tasks, arena(tokenizer), {}, 0, lambda: None)),
        steps=steps,
        batch_size=16,
        learning_rate=0.01,
        rng=generator("bench"),
        pad=tokenizer.pad_token_id,
    )
    for step in range(1, steps + 1):
        lesson.step(step)
    return policy


class _Drawn(LogitsProcessor):  # type: ignore[misc]
    """Leaves only the token that the episode's number for this position picks."""

    def __init__(self, conversation: Conversation, limits: Limits) -> None:
        self._noise, self._temperature = conversation.noise(limits.max_context), limits.temperature
        self.logprobs: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logprobs = (scores[0].float() / self._temperature).log_softmax(-1)
        cumulative = logprobs.double().exp().cumsum(-1)
        number = self._noise[input_ids.shape[1] - 1] * cumulative[-1:]
        token = torch.searchsorted(cumulative, number, right=True).clamp_(max=len(cumulative) - 1)
        self.logprobs.append(float(logprobs[token]))
        return torch.full_like(scores, float("-inf")).scatter_(1, token[None], 0.0)


class GenerateEngine:
    """The obvious way: each turn of each conversation is one call of `generate`."""

    def __init__(self, policy: Policy) -> None:
        self._model, self._stop = policy.model, policy.tokenizer.eos_token_id

    @torch.inference_mode()
    def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        for conversation in conversations:
            drawn = _Drawn(conversation, limits)
            ids, new = [], conversation.start() or None
            while new is not None:
                ids += new
                sample = self._turn(ids, drawn, limits)
                ids += sample.ids
                new = conversation.advance(sample)

    def _turn(self, ids: list[int], drawn: _Drawn, limits: Limits) -> Sample:
        prompt = torch.tensor([ids])
        drawn.logprobs = []
        out = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            logits_processor=LogitsProcessorList([drawn]),
            do_sample=False,
            max_new_tokens=min(limits.max_new_tokens, limits.max_context - len(ids)),
        )[0, len(ids) :].tolist()
        if out[-1] == self._stop:
            finish = Finish.stop
        else:
            finish = Finish.turn_limit if len(out) >= limits.max_new_tokens else Finish.context_limit
        return Sample(out, drawn.logprobs, finish)


def timed(engine: Engine, tasks: Sequence[Task], where: Arena) -> Timed:
    """Play one episode of each task."""
    limits = Limits(1.0, TURN, where.max_context)
    began, cpu = time.perf_counter(), time.process_time()
    played = play(assign(tasks, 1, "bench"), where, engine, limits, chunk=len(tasks))
    return Timed(played, time.perf_counter() - began, time.process_time() - cpu)


def logprob_error(played: Sequence[Played], policy: Policy) -> float:
    """The largest difference between the engine's log-probabilities and the trainer's."""
    worst = 0.0
    samples = [batch.Sample(each.tokens, 0.0) for each in played]
    with torch.no_grad():
        for micro in batch.micro_batches(samples, max_tokens=4096):
            scores = score(policy.model, micro, temperature=1.0)
            worst = max(worst, float((scores.logprobs - micro.behaviour).abs().max()))
    return worst


def same(one: Sequence[Played], other: Sequence[Played]) -> int:
    """Episodes in which both sides sampled the same tokens."""
    return sum(np.array_equal(a.tokens.ids, b.tokens.ids) for a, b in zip(one, other, strict=True))


def per_episode(runs: Sequence[Timed], seconds: Callable[[Timed], float]) -> float:
    """Median over the runs."""
    return median(seconds(run) / len(run.played) for run in runs)


def compare(policy: Policy, episodes: int, runs: int) -> dict[str, Any]:
    """Both sides, measured after a warm-up."""
    tasks, where = mixed(episodes), arena(policy.tokenizer)
    engine, peer = HfEngine(policy.model, policy.tokenizer.eos_token_id), GenerateEngine(policy)
    for each in (engine, peer):
        timed(each, tasks[:2], where)
    batched, single = [timed(engine, tasks, where) for _ in range(runs)], [timed(peer, tasks[::SHARE], where)]
    wall, cpu = (
        [per_episode(side, seconds) for side in (batched, single)]
        for seconds in (lambda run: run.seconds, lambda run: run.cpu_seconds)
    )
    first, other = batched[0], single[0]
    return {
        "episodes": len(first.played),
        "runs": runs,
        "tokens_sampled": first.sampled,
        "threads": torch.get_num_threads(),
        "ratio": round(wall[1] / wall[0], 2),
        "cpu_ratio": round(cpu[1] / cpu[0], 2),
        "batched_seconds_per_episode": round(wall[0], 4),
        "generate_seconds_per_episode": round(wall[1], 4),
        "batched_tokens_per_second": round(first.sampled / wall[0] / len(first.played), 1),
        "generate_episodes": len(other.played),
        "same_episodes": same(first.played[::SHARE], other.played),
        "max_logprob_error": logprob_error(first.played, policy),
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--policy", type=Path, help="a saved policy instead of one made on the spot")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3, help="passes of the batched side")
    parser.add_argument("--threads", type=int, default=ProfileSpec().threads, help="of `generate`; ours has one")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of a policy made on the spot")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = load_policy(arguments.policy) if arguments.policy else make_policy(arguments.steps)
    result = compare(policy, arguments.episodes, arguments.runs)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(f"{name.replace('_', ' '):26} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
