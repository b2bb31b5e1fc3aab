"""Stored conversations as training data: any trajectory file of ours, or a result file of tau2.

    for story in read_stories(Path("results.json")).episodes:
        if story.flaw is None:
            samples += imitated(story.messages, arena)       # as if this policy had said what the agent said

The conversation is rendered in the arena's template and encoded with its tokenizer, piece by piece as an episode does
it, so a policy that plays the same words sees the same ids. Only the agent's tokens are marked as sampled; their
log-probabilities are 0, since another agent chose them. Where the template rewrites history each stretch is a sample of
its own; a conversation that outgrows the context is cut before the first turn that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from sentinel.env.overlay import World
from sentinel.env.stored import find_world, read_episodes
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.tau2_results import Stored, read_results
from sentinel.llm.engine import Finish, Sample
from sentinel.llm.templates import THOUGHT, render_call
from sentinel.llm.transcript import Tokens, Transcript
from sentinel.records import Message, Outcome, Role, Task, Trajectory, VoidReason
from sentinel.rollout.arena import Arena


class Flaw(StrEnum):
    """Why a stored episode is left out of what is imitated."""

    failed = "failed"
    unscored = "unscored"
    """Nobody says whether it succeeded."""
    unknown_task = "unknown_task"
    """So nobody can tell whether it is a held-out one."""
    held_out = "held_out"
    """Its task is one of the evaluation's, or shares people, orders or solutions with one."""
    silent = "silent"
    """The user or the agent says nothing, or nothing that fits into the context."""


class Story(NamedTuple):
    """A stored episode."""

    place: str
    """Where it stands in its file."""
    task: Task | None
    """What it played; `None` where nobody knows."""
    messages: Sequence[Message]
    flaw: Flaw | None = None
    """Why it is nothing to imitate."""
    void: VoidReason | None = None


class Stories(NamedTuple):
    """A file of episodes, and the world they were played in."""

    world: World
    episodes: list[Story]


def read_stories(path: Path) -> Stories:
    """All episodes of a file, those included that are not to be imitated.

    Raises:
        ArtifactError: The file is of neither kind, or broken; names the place.
    """
    document, trajectories = read_episodes(path)
    if document is None:
        world = find_world(path, {trajectory.task.world for trajectory in trajectories})
        return Stories(world, [_own(line, trajectory) for line, trajectory in enumerate(trajectories, 1)])
    return Stories(World.tau2(), [_tau2(each) for each in read_results(path, document, benchmark_tasks("tau2-base"))])


def _own(line: int, trajectory: Trajectory) -> Story:
    flaw = None if trajectory.outcome is Outcome.success else Flaw.failed
    return Story(f"line {line}", trajectory.task, trajectory.messages, flaw, trajectory.void_reason)


def _tau2(stored: Stored) -> Story:
    flaw = None
    if stored.task is None:
        flaw = Flaw.unknown_task
    elif not stored.ended:
        flaw = Flaw.failed
    elif stored.reward is None:
        flaw = Flaw.unscored
    elif stored.reward != 1.0:
        flaw = Flaw.failed
    return Story(stored.place, stored.task, stored.messages, flaw, stored.void)


def imitated(messages: Sequence[Message], arena: Arena) -> tuple[Tokens, ...]:
    """The token buffers of a conversation, oldest stretch first; none where the user never speaks."""
    spoken = [message for message in messages if message.role is not Role.system]
    first = next((n for n, message in enumerate(spoken) if message.role is Role.user), None)
    if first is None:
        return ()
    copy = _Copy(arena, spoken[first].content)
    for turn, answers in _turns(spoken[first + 1 :]):
        if not copy.add(turn, answers):
            break
    return copy.samples()


def _turns(messages: Sequence[Message]) -> Iterator[tuple[Message, list[Message]]]:
    """Every assistant message with what followed it."""
    starts = [n for n, message in enumerate(messages) if message.role is Role.assistant]
    for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
        yield messages[start], list(messages[start + 1 : end])


class _Copy:
    """A conversation as an episode would have it."""

    def __init__(self, arena: Arena, opening: str) -> None:
        self._arena, self._transcript = arena, Transcript()
        self._pieces = [arena.template.opening(opening)]
        self._transcript.read(list(arena.encode(self._pieces[0])))

    def add(self, turn: Message, answers: Sequence[Message]) -> bool:
        """Append a turn and its answers; whether another one can follow."""
        text = self._text(turn)
        ids = list(self._arena.encode(text))
        if len(self._transcript) + len(ids) > self._arena.max_context:
            return False
        self._transcript.sample(Sample(ids, [0.0] * len(ids), Finish.stop))
        self._pieces.append(text)
        if not answers:
            return False
        new = self._answered(answers)
        if len(self._transcript) + len(new) >= self._arena.max_context:
            return False
        self._transcript.read(new)
        return True

    def _text(self, turn: Message) -> str:
        said = "\n".join(render_call(call) for call in turn.tool_calls) or turn.content
        text = self._arena.template.turn(said)
        return f"{turn.reasoning}\n{text}" if turn.reasoning and text.startswith(THOUGHT) else text

    def _answered(self, answers: Sequence[Message]) -> list[int]:
        """The results of tools, or the user's reply, after which the template may rewrite history."""
        template = self._arena.template
        if answers[0].role is Role.tool:
            results = [answer.content for answer in answers if answer.role is Role.tool]
            self._pieces.append(template.observation(results))
            return list(self._arena.encode(self._pieces[-1]))
        reply = template.answer(answers[0].content)
        history = template.forget(self._pieces)
        if history is None:
            self._pieces.append(reply)
            return list(self._arena.encode(reply))
        self._pieces = [history + reply]
        return self._transcript.new(self._arena.encode_prompt(history + reply))

    def samples(self) -> tuple[Tokens, ...]:
        """What there is to learn: stretches in which the agent speaks."""
        return tuple(tokens for tokens in self._transcript.segments() if tokens.sampled.any())
