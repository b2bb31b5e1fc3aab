"""Everything the episodes of a stage share: world, language, user simulator, limits.

arena = open_arena(context.spec, context.inputs["tasks"], policy.tokenizer)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from sentinel.artifacts import require
from sentinel.env.overlay import Delta, World
from sentinel.env.render import Observation
from sentinel.env.scoring import gold_delta
from sentinel.env.tau2 import policy_text, tool_schemas
from sentinel.env.users import ScriptedUser, User
from sentinel.errors import ArtifactError
from sentinel.llm.templates import START, Hermes, Qwen3Thinking, Template, qwen3_system_prompt, system_prompt
from sentinel.records import Task
from sentinel.spec.models import Environment, ExperimentSpec
from sentinel.spec.profile import Endpoint, LlmRole

NewUser = Callable[[Task, int, Callable[[], bool]], User]
"""Makes the user of an episode from its task, its seed, and a way to ask whether something it wants is still undone."""


def scripted_user(task: Task, seed: int, unfinished: Callable[[], bool]) -> User:
    """The user without a model; equal words get equal answers, so it needs no seed."""
    return ScriptedUser(task.scenario)


class Tokenizer(Protocol):
    """What an episode needs of a tokenizer (transformers' fast ones have it)."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """Token ids of a text."""
        ...

    def decode(self, ids: Any) -> Any:
        """The exact text of token ids."""
        ...


@dataclass
class Arena:
    """What an episode needs besides its task."""

    world: World
    template: Template
    tokenizer: Tokenizer
    observation: Observation
    max_turns: int
    max_context: int
    user: NewUser = scripted_user
    void_user_faults: bool = True
    _gold: dict[str, Delta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.encode = lru_cache(maxsize=100_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a whole prompt, message by message: earlier ones are remembered.

        Tokenizers split at special tokens first, and every message begins with one, so this is the whole's encoding.
        """
        messages = re.split(f"(?={re.escape(START)})", text)
        return [token for message in messages if message for token in self.encode(message)]

    def decode(self, ids: list[int]) -> str:
        """Exactly the text of these tokens."""
        return str(self.tokenizer.decode(ids))

    def gold(self, task: Task) -> Delta:
        """What the gold answer of the task changes; replayed once per task."""
        if task.id not in self._gold:
            self._gold[task.id] = gold_delta(self.world, task)
        return self._gold[task.id]


def open_world(environment: Environment, tasks: Path) -> World:
    """The base world of an experiment: tau2's, or the one that the seed stage wrote."""
    if environment.world.type == "tau2":
        return World.tau2()
    path = require(tasks / "world.json")
    try:
        return World.from_data(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ArtifactError(path, f"not a world of tau2's data model: {error}") from error


def open_arena(
    spec: ExperimentSpec, tasks: Path, tokenizer: Tokenizer, endpoints: Mapping[LlmRole, Endpoint] | None = None
) -> Arena:
    """The arena of an experiment, over the base's tasks folder; `endpoints` of the profile are for LLM users."""
    environment, user = spec.environment, spec.environment.user
    arena = Arena(
        world=open_world(environment, tasks),
        template=_template(spec),
        tokenizer=tokenizer,
        observation=environment.observation,
        max_turns=environment.max_turns,
        max_context=spec.policy.max_context,
    )
    if user.type == "llm":
        from sentinel.env.llm_user import open_users

        arena.user, arena.void_user_faults = open_users(user, endpoints or {}), user.faults == "void"
    return arena


def _template(spec: ExperimentSpec) -> Template:
    thinking = spec.policy.template == "qwen3-thinking"
    prompt = qwen3_system_prompt if thinking else system_prompt
    system = prompt(policy_text(), tool_schemas()) if spec.environment.system_prompt else ""
    return Qwen3Thinking(system) if thinking else Hermes(system)
