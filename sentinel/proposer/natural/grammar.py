"""The sentences of natural requests: written by drawing one of many ways, and read backwards.

    words = Words(rng)
    words.say("cancel", order="order #W1")            # "I would like to cancel order #W1."
    read("I would like to cancel order #W1.")         # [Heard("cancel", {"order": "order #W1"})]
    second_person("I want my refund.")                # "You want your refund."

What the reference agent understands is exactly what `words.yaml` says, so a request that it misreads is ambiguous in
our own language. Nothing is understood beyond that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from ruamel.yaml import YAML

PHRASES = ("order", "payment", "address", "choice")
"""Parts of sentences; all other entries are sentences."""
_LISTS = ("greeting", "connector", "hesitation", "instead", "resigned", "manner", "identity_email", "identity_name")
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_PERSONS = {
    "i am": "you are",
    "i have": "you have",
    "i": "you",
    "my": "your",
    "me": "you",
    "mine": "yours",
}
_FIRST_PERSON = re.compile(r"\b(I am|I have|I|[Mm]y|me|mine)\b")


@cache
def grammar() -> dict[str, Any]:
    """The whole file; treat it as read-only."""
    text = resources.files("sentinel.proposer.natural").joinpath("words.yaml").read_text(encoding="utf-8")
    words: dict[str, Any] = YAML(typ="safe").load(text)
    return words


class Sentence(NamedTuple):
    """One thing said in two ways: as the user says it, and as the scenario tells it."""

    spoken: str
    told: str
    """In the first person still."""


class Words:
    """Draws among the ways to say something."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def one(self, ways: Sequence[str], **slots: str) -> str:
        """One of these ways, filled in."""
        return ways[int(self._rng.integers(len(ways)))].format(**slots)

    def pick(self, key: str, **slots: str) -> str:
        """One of a plain list of the grammar."""
        return self.one(grammar()[key], **slots)

    def different(self, key: str, count: int) -> list[str]:
        """So many of a plain list, each at most once as long as there are others."""
        ways = grammar()[key]
        return [ways[int(n)] for n in self._rng.permutation(len(ways))][:count] if count <= len(ways) else ways * count

    def phrase(self, key: str, form: str, **slots: str) -> str:
        """A part of a sentence."""
        return self.one(grammar()[key][form], **slots)

    def say(self, key: str, **slots: str) -> Sentence:
        """A sentence, spoken and told."""
        ways, asked = grammar()[key]["say"], grammar()[key].get("ask", [])
        spoken = self.one([*ways, *asked], **slots)
        told = spoken if spoken not in [way.format(**slots) for way in asked] else self.one(ways, **slots)
        return Sentence(spoken, told)

    def chance(self, share: float) -> bool:
        """Whether something happens that happens so often."""
        return bool(self._rng.random() < share)


def join(connector: str, sentence: str) -> str:
    """A sentence after a connector: it goes on in lower case, except for `I`."""
    starts = sentence.split(" ", 1)[0]
    return connector + (sentence if not connector or starts == "I" else sentence[0].lower() + sentence[1:])


def second_person(text: str) -> str:
    """What the user says of itself, as the scenario tells it to the one who plays it."""
    turned = _FIRST_PERSON.sub(lambda found: _PERSONS[found[1].lower()], text)
    turned = turned.replace("you was", "you were")
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda found: found[1] + found[2].upper(), turned)


class Heard(NamedTuple):
    """A sentence that was understood."""

    topic: str
    """Key of the grammar; `correction/…` and `fact/…` for those."""
    slots: Mapping[str, str]


class _Pattern(NamedTuple):
    topic: str
    regex: re.Pattern[str]
    literal: int
    """Letters that are not in slots: of several readings the most literal one counts."""
    cue: str
    """The longest literal part in lower case: a quick look before the regex."""


def _compiled(topic: str, template: str) -> _Pattern:
    parts = _SLOT.split(template)
    regex = "".join(re.escape(part) if n % 2 == 0 else f"(?P<{part}>.+?)" for n, part in enumerate(parts))
    literals = parts[::2]
    return _Pattern(
        topic, re.compile(regex, re.IGNORECASE), sum(map(len, literals)), max(literals, key=len).strip().lower()
    )


def _templates() -> Iterator[tuple[str, str]]:
    for key, entry in grammar().items():
        if key in _LISTS:
            if key.startswith("identity"):
                yield from ((key, template) for template in entry)
        elif key in ("correction", "fact"):
            yield from ((f"{key}/{name}", template) for name, ways in entry.items() for template in ways)
        elif key not in PHRASES:
            yield from ((key, template) for ways in entry.values() for template in ways)


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """All sentences, the most literal first."""
    return tuple(sorted((_compiled(*each) for each in _templates()), key=lambda pattern: -pattern.literal))


@cache
def _phrases(key: str) -> tuple[_Pattern, ...]:
    found = [_compiled(form, template) for form, ways in grammar()[key].items() for template in ways]
    return tuple(sorted(found, key=lambda pattern: -pattern.literal))


@cache
def _prefixes() -> tuple[str, ...]:
    words = grammar()
    return tuple(prefix.lower() for key in ("connector", "hesitation", "instead", "resigned") for prefix in words[key])


def read(text: str) -> list[Heard]:
    """All sentences of a message that are understood, in order."""
    return list(filter(None, map(_sentence, _SENTENCE.split(text.strip()))))


@lru_cache(maxsize=4096)
def _sentence(sentence: str) -> Heard | None:
    lowered = sentence.lower()
    prefix = next((prefix for prefix in _prefixes() if lowered.startswith(prefix)), "")
    rest = sentence[len(prefix) :]
    lowered = lowered[len(prefix) :]
    for pattern in _patterns():
        if pattern.cue in lowered and (found := pattern.regex.fullmatch(rest)):
            return Heard(pattern.topic, found.groupdict())
    return None


@lru_cache(maxsize=4096)
def read_phrase(key: str, text: str) -> Heard | None:
    """A part of a sentence, understood."""
    for pattern in _phrases(key):
        if found := pattern.regex.fullmatch(text):
            return Heard(pattern.topic, found.groupdict())
    return None
