"""One conversation between policy, user and world, as a state machine without input or output.

An engine calls `start` and then `advance` after every sampled turn; the episode keeps the token buffer, talks to its
private world and its user, and in the end scores itself. What decides an outcome is counted in turns and tokens: an
episode that outgrows its context has failed. Faults of others make it void instead: of the user, of the servers, of the
engine's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sentinel.env.overlay import Delta
from sentinel.env.render import observe
from sentinel.env.scoring import reached, score
from sentinel.env.users import FAULT, UserFault, UserUnavailable, ends
from sentinel.llm.engine import Finish, Rewritten, Sample
from sentinel.llm.templates import Parsed
from sentinel.llm.transcript import BrokenPrefix, Tokens, Transcript
from sentinel.records import Counts, Ending, Message, Outcome, Reward, Role, Task, Trajectory, VoidReason
from sentinel.rollout.arena import Arena
from sentinel.seeds import generator

MAX_CALLS = 20
"""Calls of one turn that are executed; the rest are errors to observe."""


class Assignment(NamedTuple):
    """An episode to be played."""

    task: Task
    trial: int
    seed: int


class Played(NamedTuple):
    """A finished episode."""

    trajectory: Trajectory
    samples: tuple[Tokens, ...]
    """Its training data, oldest first: one for an append-only template, more where history was rewritten."""

    @property
    def tokens(self) -> Tokens:
        """The whole episode under an append-only template; a `ValueError` where history was rewritten."""
        (tokens,) = self.samples
        return tokens


class Episode:
    """A `Conversation` for the engine; after the run, `played` gives its trajectory."""

    def __init__(self, assignment: Assignment, arena: Arena) -> None:
        self.assignment, self._arena = assignment, arena
        task = assignment.task
        self._session = arena.world.open(task.records)
        self._user = arena.user(task, assignment.seed, self._unfinished)
        self._transcript = Transcript()
        self._pieces: list[str] = []
        self._messages: list[Message] = []
        self._turns = self._errors = 0
        self._ending: Ending | None = None
        self._void: VoidReason | None = None

    def start(self) -> list[int]:
        """The prompt: system message if any, and the user's opening; nothing where the user cannot speak."""
        try:
            opening = self._listen(self._user.opening)
        except (UserFault, UserUnavailable) as fault:
            self._give_up(fault)
            return []
        self._pieces.append(self._arena.template.opening(opening))
        return self._transcript.read(list(self._arena.encode(self._pieces[-1])))

    def abandon(self, reason: str) -> None:
        """End as void: the infrastructure failed, for the reason given in the last message."""
        self._end_void(VoidReason.infrastructure, reason)

    def noise(self, count: int) -> NDArray[np.float64]:
        """The sampling noise of this (task, trial), one number per position."""
        return generator(self.assignment.seed, "noise").random(count)

    def advance(self, sample: Sample) -> list[int] | None:
        """Act on a sampled turn."""
        try:
            self._transcript.sample(sample)
            self._turns += 1
            text = self._arena.decode(sample.ids)
            if sample.finish is not Finish.stop:
                self._cut(text, sample.finish)
                return None
            new = self._answer(text)
        except (BrokenPrefix, UserFault, UserUnavailable) as fault:
            self._give_up(fault)
            return None
        return None if new is None else self._transcript.read(new)

    def _cut(self, text: str, finish: Finish) -> None:
        """The turn was cut off by a limit: too long for a turn, or for the context."""
        self._say(Role.assistant, text)
        self._ending = Ending.malformed if finish is Finish.turn_limit else Ending.out_of_context

    def _answer(self, text: str) -> list[int] | None:
        """Let world or user respond; returns what the policy reads next, `None` at the end."""
        self._pieces.append(text)
        parsed = self._arena.template.parse(text)
        new = self._act(parsed) if parsed.calls or parsed.problem else self._talk(parsed)
        self._ending = self._over(new)
        return new if self._ending is None else None

    def _over(self, new: list[int] | None) -> Ending | None:
        """How the episode ends here, if it does."""
        if new is None:
            return Ending.user_stop
        if self._turns >= self._arena.max_turns:
            return Ending.out_of_turns
        before = 0 if isinstance(new, Rewritten) else len(self._transcript)
        return Ending.out_of_context if before + len(new) >= self._arena.max_context else None

    def _act(self, parsed: Parsed) -> list[int]:
        """Execute the calls, or complain about a malformed one."""
        self._reply(parsed)
        results = [(f"Error: {parsed.problem}", True)] if parsed.problem else []
        for number, call in enumerate(() if parsed.problem else parsed.calls):
            if number < MAX_CALLS:
                result = self._session.call(call)
                results.append((observe(result, self._arena.observation), result.error))
            else:
                results.append((f"Error: not executed: a turn may have at most {MAX_CALLS} calls", True))
        return self._extended(self._observe(results))

    def _observe(self, results: list[tuple[str, bool]]) -> str:
        for text, error in results:
            self._errors += error
            self._messages.append(Message(role=Role.tool, content=text, error=error, turn=self._turns))
        return self._arena.template.observation([text for text, _ in results])

    def _talk(self, parsed: Parsed) -> list[int] | None:
        """Speak to the user; `None` when the user ends the conversation."""
        self._reply(parsed)
        reply = self._listen(lambda: self._user.reply(parsed.text))
        if ends(reply):
            return None
        answer = self._arena.template.answer(reply)
        history = self._arena.template.forget(self._pieces)
        if history is None:
            return self._extended(answer)
        self._pieces = [history + answer]
        return self._transcript.new(self._arena.encode_prompt(history + answer))

    def _extended(self, text: str) -> list[int]:
        self._pieces.append(text)
        return list(self._arena.encode(text))

    def _listen(self, speak: Callable[[], str]) -> str:
        """What the user says; a fault is noted in the episode where the spec does not void it."""
        try:
            said = speak()
        except UserFault as fault:
            if self._arena.void_user_faults:
                raise
            self._say(Role.system, f"{FAULT}{fault}")
            said = fault.said
        self._say(Role.user, said)
        return said

    def _unfinished(self) -> bool:
        """Whether something that the gold answer writes is still missing."""
        return not reached(self._session.delta(), self._arena.gold(self.assignment.task))

    def _give_up(self, fault: BrokenPrefix | UserFault | UserUnavailable) -> None:
        match fault:
            case BrokenPrefix():
                self._end_void(VoidReason.broken_prefix, str(fault))
            case UserFault():
                if fault.said:
                    self._say(Role.user, fault.said)
                self._end_void(VoidReason.user_simulator, f"{FAULT}{fault}")
            case UserUnavailable():
                self._end_void(VoidReason.infrastructure, str(fault))

    def _end_void(self, void: VoidReason, reason: str) -> None:
        self._ending, self._void = Ending.error, void
        self._say(Role.system, reason)

    def _reply(self, parsed: Parsed) -> None:
        self._messages.append(
            Message(
                role=Role.assistant,
                content=parsed.text,
                tool_calls=parsed.calls,
                reasoning=parsed.reasoning,
                turn=self._turns,
            )
        )

    def _say(self, role: Role, text: str) -> None:
        self._messages.append(Message(role=role, content=text, turn=self._turns))

    def played(self, policy: str, chunk: int, row: int) -> Played:
        """The scored trajectory and its tokens; an episode that was left unfinished has run out of turns or context."""
        full = len(self._transcript) >= self._arena.max_context
        ending = self._ending or (Ending.out_of_context if full else Ending.out_of_turns)
        delta, gold = self._session.delta(), self._arena.gold(self.assignment.task)
        reward = None if self._void else self._reward(ending, delta, gold)
        trajectory = Trajectory(
            task=self.assignment.task,
            trial=self.assignment.trial,
            seed=self.assignment.seed,
            policy=policy,
            chunk=chunk,
            row=row,
            messages=tuple(self._messages),
            ending=ending,
            outcome=_outcome(reward),
            void_reason=self._void,
            reward=reward,
            world_delta=delta,
            gold_delta=gold,
            counts=Counts(turns=self._turns, tokens=self._transcript.total, errors=self._errors),
        )
        return Played(trajectory, self.samples())

    def samples(self) -> tuple[Tokens, ...]:
        """What was read and sampled so far."""
        return self._transcript.segments()

    def _reward(self, ending: Ending, delta: Delta, gold: Delta) -> Reward:
        """As tau2: an episode that the user did not end scores nothing."""
        if ending is not Ending.user_stop:
            return Reward(db=0.0, communicate=0.0)
        said = [m.content for m in self._messages if m.role is Role.assistant and not m.tool_calls]
        return score(self.assignment.task, delta, gold, said)


def _outcome(reward: Reward | None) -> Outcome:
    """A void episode has no reward, and no reward is not a failure."""
    if reward is None:
        return Outcome.void
    return Outcome.success if reward.total == 1.0 else Outcome.failure
