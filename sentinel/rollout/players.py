"""A policy that is ready to play: arena and engine opened together, from the folders and the profile a stage is given.

    with open_players(spec, policy=inputs["policy"], tasks=inputs["tasks"], profile=profile, state=state) as players:
        played = players.play(assign(tasks, 4, seed), sampling, chunk=128)

The profile names the engine: one in this process, on the weights it holds, or a client of a vLLM server that is started
here and stopped in the end; then this process holds only the tokenizer, and workers may share the episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sentinel.llm.engine import Engine, Limits
from sentinel.llm.model_folder import FolderTokenizer, policy_hash, stop_token
from sentinel.llm.server import Model, ServedEngine, serving
from sentinel.rollout.arena import Arena, open_arena
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.journal import Journal
from sentinel.rollout.pool import NOTHING, Station, chunks, play
from sentinel.rollout.workers import Crew, Patience
from sentinel.spec.models import ExperimentSpec
from sentinel.spec.profile import Endpoint, InProcess, LlmRole, ProfileSpec, VllmServer

if TYPE_CHECKING:
    from sentinel.llm.policy import Policy

WORKERS = Patience(turn_seconds=2 * 3600.0, episode_seconds=3600.0)
"""The engine loses its own patience much earlier; a worker that takes longer than this hangs."""


class Sampling(Protocol):
    """The sections of a spec that say how to sample."""

    @property
    def temperature(self) -> float:
        """Softmax temperature."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Tokens of one assistant turn."""
        ...


def _as_it_is() -> None:
    """Nothing to refresh: the engine reads the live weights, or nobody changes them."""


class Players:
    """One policy in one arena."""

    def __init__(
        self,
        name: str,
        arena: Arena,
        engine: Engine,
        *,
        refresh: Callable[[], None] = _as_it_is,
        recruit: Callable[[Limits], Crew] | None = None,
    ) -> None:
        """Put them together.

        Args:
            name: hash of the weights that the engine starts with.
            arena: where they play.
            engine: who samples.
            refresh: has the engine take over the weights that a trainer has changed.
            recruit: worker processes that play under these limits; none where this process plays by itself.
        """
        self.name, self.arena, self.engine = name, arena, engine
        self._refresh, self._recruit = refresh, recruit
        self._playing = name

    def limits(self, sampling: Sampling) -> Limits:
        """The bounds of sampling under this policy's context."""
        return Limits(sampling.temperature, sampling.max_new_tokens, self.arena.max_context)

    def play(
        self,
        assignments: Sequence[Assignment],
        sampling: Sampling,
        *,
        chunk: int,
        policy: str = "",
        journal: Journal | None = None,
        known: Mapping[int, list[Played]] = NOTHING,
        on_chunk: Callable[[list[Played]], None] = lambda played: None,
    ) -> list[Played]:
        """Play episodes in fixed chunks.

        Args:
            assignments: what is to be played.
            sampling: how.
            chunk: episodes that are played together.
            policy: who signs; another one than last time has other weights. By default the policy as it was opened.
            journal: keeps every finished chunk; workers need it.
            known: chunks that an earlier attempt has finished; they are not played.
            on_chunk: hears of each chunk that was played.
        """
        self._take_over(policy or self.name)
        limits = self.limits(sampling)
        if journal and self._recruit:
            return self._recruit(limits).play(chunks(assignments, chunk), journal, known=known, on_chunk=on_chunk)

        def keep(played: list[Played]) -> None:
            if journal:
                journal.write(played)
            on_chunk(played)

        return play(
            assignments, self.arena, self.engine, limits, chunk=chunk, policy=self._playing, known=known, on_chunk=keep
        )

    def _take_over(self, policy: str) -> None:
        if policy != self._playing:
            self._refresh()
            self._playing = policy


@contextmanager
def open_players(
    spec: ExperimentSpec,
    *,
    policy: Path,
    tasks: Path,
    profile: ProfileSpec,
    state: Path,
    live: Policy | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Players]:
    """Open a policy and everything it needs to play.

    Args:
        spec: the experiment.
        policy: the policy's folder.
        tasks: the folder of the base's tasks.
        profile: which engine plays, and where; for one in this process, its threads are fixed.
        state: the stage's own folder; a server's log goes there.
        live: the same policy as a trainer holds it; the engine takes over its weights when its signature changes.
        say: hears of what a person should know.
    """
    if profile.engine.type == "hf":
        yield _in_process(spec, policy, tasks, profile, profile.engine, live)
        return
    client = _Client(spec, policy, tasks, profile.endpoints, profile.engine.concurrency, policy_hash(policy))
    with _served(client, profile.engine, profile.workers, state, live, say) as players:
        yield players


def _in_process(
    spec: ExperimentSpec, policy: Path, tasks: Path, profile: ProfileSpec, engine: InProcess, live: Policy | None
) -> Players:
    """The engine reads the live weights, so there is nothing to refresh."""
    from sentinel.llm.hf import HfEngine
    from sentinel.llm.policy import load_policy

    loaded = live or load_policy(policy, profile.device, spec.policy.dtype)
    arena = open_arena(spec, tasks, loaded.tokenizer, profile.endpoints)
    stop = stop_token(loaded.tokenizer, policy)
    return Players(policy_hash(policy), arena, HfEngine(loaded.model, stop, engine.threads))


@contextmanager
def _served(
    client: _Client,
    server: VllmServer,
    workers: int,
    state: Path,
    live: Policy | None,
    say: Callable[[str], None],
) -> Iterator[Players]:
    """A policy that changes is served from a copy, which is overwritten before each reload."""
    settings, folder, arena = client.spec.policy, client.policy, client.arena()
    if live:
        folder = state / "served"
        _save(folder, live)
    model = Model(folder, client.name, settings.dtype, settings.max_context)
    with serving(model, server, log=state / "server.log", reloading=live is not None, say=say) as url:
        engine = client.engine(url, arena)

        def refresh() -> None:
            if live:
                _save(folder, live)
                engine.reload_weights()

        recruit = partial(_recruit, client, url, workers) if workers > 1 else None
        yield Players(client.name, arena, engine, refresh=refresh, recruit=recruit)


def _save(folder: Path, live: Policy) -> None:
    from sentinel.llm.policy import save_policy

    save_policy(folder, live)


def _recruit(client: _Client, url: str, processes: int, limits: Limits) -> Crew:
    return Crew(partial(client.station, url, limits), processes, WORKERS)


@dataclass(frozen=True)
class _Client:
    """What a process needs to play on a server; workers are sent it, so it is plain data."""

    spec: ExperimentSpec
    policy: Path
    tasks: Path
    endpoints: Mapping[LlmRole, Endpoint]
    concurrency: int
    name: str

    def arena(self) -> Arena:
        """Where they play; of the policy it holds only the tokenizer."""
        return open_arena(self.spec, self.tasks, FolderTokenizer(self.policy), self.endpoints)

    def engine(self, url: str, arena: Arena) -> ServedEngine:
        """A client of the server."""
        return ServedEngine(url, self.name, stop_token(arena.tokenizer, self.policy), concurrency=self.concurrency)

    def station(self, url: str, limits: Limits) -> Station:
        """A worker's place."""
        arena = self.arena()
        return Station(arena, self.engine(url, arena), limits, self.name)
