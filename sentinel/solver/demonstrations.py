"""Demonstrations for the warm start: reference agents play tasks, and their token buffers are the training data.

Two passes over the same code: the first collects every text that is read or written, from which the tokenizer is
made; the second plays with that tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.transcript import Tokens
from sentinel.records import Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Action, Demonstration, careless, expert
from sentinel.rollout.episode import Assignment
from sentinel.seeds import generator


class Codebook:
    """Stands in for a tokenizer while there is none: every text is one token, and is remembered."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The number of this text."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return [self._numbers[text]]

    def decode(self, ids: Sequence[int]) -> str:
        """The texts of these numbers, joined."""
        return "".join(self.texts[number] for number in ids)


def actions(task: Task, arena: Arena, weaknesses: dict[str, float], seed: int) -> list[Action]:
    """What the demonstrator does: its skill's share of tasks correctly, the rest carelessly."""
    rng = generator(seed, "demonstration", task.id)
    correct = rng.random() < weaknesses.get(str(task.knobs["skill"]), 1.0)
    return expert(task) if correct else careless(task, arena.world, rng)


def demonstrate(
    tasks: Sequence[Task], arena: Arena, weaknesses: dict[str, float], seed: int, tick: Callable[[], None]
) -> Iterator[Tokens]:
    """Play each task once; with no weaknesses every demonstration is an expert's."""
    engine, limits = ScriptedEngine(), Limits(1.0, arena.max_context, arena.max_context)
    for task in tasks:
        episode = Demonstration(Assignment(task, 0, 0), arena, actions(task, arena, weaknesses, seed))
        engine.run([episode], limits)
        yield from episode.samples()
        tick()
