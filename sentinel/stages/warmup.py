"""The warmup stage: the base's tasks -> its starting policy, with the decision skills it lacks.

A pretrained policy is brought here as it was published, and checked; it is not taught (its SFT arm belongs to the
trainer's deeper version). A tiny one is made here: tokenizer from the demonstrations' own texts, then clean and weak
fine-tuning. After the clean phase the policy is kept in the stage's state, so a killed warm start does not begin anew.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedTokenizerFast

from sentinel.artifacts import read_jsonl, write_jsonl
from sentinel.env.synthetic import atoms
from sentinel.errors import StageError
from sentinel.llm.hub import fetch
from sentinel.llm.model_folder import FolderTokenizer, policy_hash, stop_token
from sentinel.llm.policy import Policy, load_policy, new_policy, save_policy
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.llm.transcript import Tokens
from sentinel.records import Record, Task
from sentinel.rollout.arena import Arena, Tokenizer, open_arena
from sentinel.seeds import derive, generator
from sentinel.solver.demonstrations import Codebook, demonstrate
from sentinel.solver.warmup import Step, fine_tune
from sentinel.spec.models import PretrainedPolicy, TinyPolicy
from sentinel.stages.context import Context

LOG_EVERY = 10


class WarmupStep(Record):
    """One logged step of the warm start."""

    phase: str
    step: int
    loss: float
    """Mean negative log-likelihood of the assistant's tokens since the last logged step, nats."""


def run(context: Context) -> None:
    """Make the starting policy of a base."""
    settings = context.spec.policy
    torch.set_num_threads(context.profile.threads)
    if settings.type == "pretrained":
        _adopt(context, settings)
        return
    torch.use_deterministic_algorithms(True)
    tasks = read_jsonl(context.inputs["tasks"] / "demonstrations.jsonl", Task)
    warming = _Warming(context, tasks)
    policy = warming.clean(settings)
    warming.weak(policy)
    save_policy(context.output / "policy", policy)
    write_jsonl(context.output / "warmup.jsonl", warming.log)


def _adopt(context: Context, settings: PretrainedPolicy) -> None:
    """Bring a published model, and refuse it here rather than in the middle of the loop if it cannot be the policy."""
    steps = context.spec.warmup
    if steps.clean_steps or steps.weak_steps:
        raise StageError("warmup.clean_steps: a pretrained policy is not taught in this version; set all steps to 0")
    folder = context.output / "policy"
    fetch(settings.model, settings.revision, folder, say=context.progress.say)
    policy = load_policy(folder, dtype=settings.dtype)
    longest = getattr(policy.model.config, "max_position_embeddings", settings.max_context)
    if settings.max_context > longest:
        raise StageError(f"policy.max_context: {settings.max_context}, but '{settings.model}' has room for {longest}")
    stop_token(FolderTokenizer(folder), folder)
    context.progress.say(
        f"{settings.model}: {policy.model.num_parameters():,} parameters, policy {policy_hash(folder)}"
    )
    write_jsonl(context.output / "warmup.jsonl", [])


class _Warming:
    """The two phases over one set of tasks."""

    def __init__(self, context: Context, tasks: list[Task]) -> None:
        self._context, self._tasks, self._seed = context, tasks, context.spec.base.seed
        self._settings = context.spec.warmup
        self.log: list[WarmupStep] = []

    def clean(self, settings: TinyPolicy) -> Policy:
        """The policy after the clean phase: from the state folder if an earlier attempt got that far."""
        kept = self._context.state / "clean"
        log = self._context.state / "clean.jsonl"
        if not (kept.exists() and log.exists()):
            tokenizer = self._tokenizer(settings)
            policy = new_policy(settings, tokenizer, derive(self._seed, "initial weights"))
            self._train("clean", policy, {}, self._settings.clean_steps)
            save_policy(kept, policy)
            write_jsonl(log, self.log)
        self.log = read_jsonl(log, WarmupStep, may_be_empty=True)
        return load_policy(kept, self._context.profile.device)

    def weak(self, policy: Policy) -> None:
        """Plant the weaknesses."""
        self._train("weak", policy, dict(self._settings.weaknesses), self._settings.weak_steps)

    def _tokenizer(self, settings: TinyPolicy) -> PreTrainedTokenizerFast:
        """Phrases of clean and of weak demonstrations are all in it."""
        book = Codebook()
        arena = self._arena(book)
        for weaknesses in ({}, dict(self._settings.weaknesses)):
            self._play(arena, weaknesses, "texts")
        return train_tokenizer(book.texts, atoms(), max_context=settings.max_context)

    def _arena(self, tokenizer: Tokenizer) -> Arena:
        return open_arena(self._context.spec, self._context.inputs["tasks"], tokenizer)

    def _play(self, arena: Arena, weaknesses: dict[str, float], what: str) -> list[Tokens]:
        progress = self._context.progress
        progress.start(len(self._tasks), f"demonstrations ({what})")
        return list(demonstrate(self._tasks, arena, weaknesses, self._seed, lambda: progress.advance()))

    def _train(self, phase: str, policy: Policy, weaknesses: dict[str, float], steps: int) -> None:
        if not steps:
            return
        demonstrations = self._play(self._arena(policy.tokenizer), weaknesses, phase)
        self._context.progress.start(steps, f"{phase} steps")
        fine_tune(
            policy.model,
            demonstrations,
            steps=steps,
            batch_size=self._settings.batch_size,
            learning_rate=self._settings.learning_rate,
            rng=generator(self._seed, "warmup", phase),
            pad=policy.tokenizer.pad_token_id,
            on_step=self._logger(phase),
        )

    def _logger(self, phase: str) -> Callable[[Step], None]:
        losses: list[float] = []

        def note(step: Step) -> None:
            losses.append(step.loss)
            mean = round(sum(losses) / len(losses), 6)
            self._context.progress.advance(loss=mean)
            if step.step % LOG_EVERY == 0:
                self.log.append(WarmupStep(phase=phase, step=step.step, loss=mean))
                losses.clear()

        return note
