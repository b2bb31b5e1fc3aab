"""The warmup stage: the base's tasks -> its starting policy, with the decision skills it lacks.

    pretrained:  brought here as it was published, and checked
    tiny:        tokenizer from its own texts -> clean demonstrations -> demonstrations with weaknesses
    both:        -> stored conversations, where the spec names a file of them

The policy after each phase is kept in the stage's state, and so is every `KEEP_EVERY`th step of a phase: a killed warm
start goes on from there, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from sentinel.artifacts import read_jsonl, write_jsonl
from sentinel.env.synthetic import atoms
from sentinel.errors import SpecError
from sentinel.llm.hub import fetch
from sentinel.llm.model_folder import FolderTokenizer, policy_hash, stop_token
from sentinel.llm.policy import Policy, load_policy, new_policy, save_policy
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.llm.transcript import Tokens
from sentinel.records import Task
from sentinel.rollout.arena import Arena, Tokenizer, open_arena
from sentinel.rollout.imitation import imitated
from sentinel.seeds import derive, generator
from sentinel.solver.checkpoint import Checkpoints
from sentinel.solver.demonstrations import Codebook, demonstrate
from sentinel.solver.phases import WarmupStep, run_phase
from sentinel.solver.warmup import Teaching
from sentinel.spec.models import PretrainedPolicy, TinyPolicy
from sentinel.stages.context import Context
from sentinel.stages.imitation import Stored, imitate

KEEP_EVERY = 50
"""Steps on demonstrations between checkpoints: some seconds of work, and far less to write."""


def run(context: Context) -> None:
    """Make the starting policy of a base."""
    settings, output = context.spec.policy, context.output / "policy"
    torch.set_num_threads(context.profile.threads)
    stored = Stored(context) if context.spec.warmup.imitation else None
    log: list[WarmupStep] = []
    if settings.type == "pretrained":
        folder = context.state / "published" if stored else output
        if not folder.exists():
            _adopt(context, settings, folder)
    else:
        torch.use_deterministic_algorithms(True)
        warming = _Warming(context, stored)
        folder = warming.taught(settings, context.state / "weak" if stored else output)
        log = warming.log
    if stored:
        policy = load_policy(folder, context.profile.device, settings.dtype)
        arena = open_arena(context.spec, context.inputs["tasks"], policy.tokenizer)
        log = [*log, *imitate(context, policy, folder, stored.conversations(arena))]
        save_policy(output, policy)
    write_jsonl(context.output / "warmup.jsonl", log)


def _adopt(context: Context, settings: PretrainedPolicy, folder: Path) -> None:
    """Bring a published model, and refuse it here rather than in the middle of the loop if it cannot be the policy."""
    fetch(settings.model, settings.revision, folder, say=context.progress.say)
    policy = load_policy(folder, dtype=settings.dtype)
    longest = getattr(policy.model.config, "max_position_embeddings", settings.max_context)
    if settings.max_context > longest:
        raise SpecError([f"policy.max_context: {settings.max_context}, but '{settings.model}' has room for {longest}"])
    stop_token(FolderTokenizer(folder), folder)
    context.progress.say(
        f"{settings.model}: {policy.model.num_parameters():,} parameters, policy {policy_hash(folder)}"
    )


class _Warming:
    """The two phases of a tiny policy over one set of tasks."""

    def __init__(self, context: Context, stored: Stored | None) -> None:
        self._context, self._stored, self._seed = context, stored, context.spec.base.seed
        self._settings = context.spec.warmup
        demonstrations = context.inputs["tasks"] / "demonstrations.jsonl"
        self._tasks = read_jsonl(demonstrations, Task, may_be_empty=stored is not None)
        self.log: list[WarmupStep] = []

    def taught(self, settings: TinyPolicy, folder: Path) -> Path:
        """The folder of the policy after both phases: `folder`."""
        clean = self._kept(self._context.state / "clean", lambda: self._clean(settings))
        return self._kept(folder, lambda: self._weak(clean))

    def _kept(self, folder: Path, teach: Callable[[], Policy]) -> Path:
        """The policy after a phase, made unless an earlier attempt got that far; the log goes on from there."""
        log = self._context.state / f"{folder.name}.jsonl"
        if not (folder.exists() and log.exists()):
            policy = teach()
            write_jsonl(log, self.log)
            save_policy(folder, policy)
        self.log = read_jsonl(log, WarmupStep, may_be_empty=True)
        return folder

    def _clean(self, settings: TinyPolicy) -> Policy:
        """A new policy, and the clean phase."""
        tokenizer = self._tokenizer(settings)
        policy = new_policy(settings, tokenizer, derive(self._seed, "initial weights"))
        self._train("clean", policy, {}, self._settings.clean_steps)
        return policy

    def _weak(self, clean: Path) -> Policy:
        """Plant the weaknesses."""
        policy = load_policy(clean, self._context.profile.device)
        self._train("weak", policy, dict(self._settings.weaknesses), self._settings.weak_steps)
        return policy

    def _tokenizer(self, settings: TinyPolicy) -> PreTrainedTokenizerFast:
        """Phrases of clean and of weak demonstrations, and of stored conversations, are all in it."""
        book = Codebook()
        arena = self._arena(book)
        for weaknesses in ({}, dict(self._settings.weaknesses)):
            self._play(arena, weaknesses, "texts")
        for messages in self._stored.texts() if self._stored else ():
            imitated(messages, arena)
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
        lesson = Teaching(
            policy.model,
            self._play(self._arena(policy.tokenizer), weaknesses, phase),
            steps=steps,
            batch_size=self._settings.batch_size,
            learning_rate=self._settings.learning_rate,
            rng=generator(self._seed, "warmup", phase),
            pad=policy.tokenizer.pad_token_id,
        )
        self.log += run_phase(
            phase,
            lesson,
            steps=steps,
            checkpoints=Checkpoints(self._context.state / f"{phase}-steps", say=self._context.progress.say),
            every=KEEP_EVERY,
            progress=self._context.progress,
        )
