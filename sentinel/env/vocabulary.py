"""The words of synthetic worlds and scripted dialogues, read once from `vocabulary.yaml`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from ruamel.yaml import YAML


@cache
def vocabulary() -> dict[str, Any]:
    """The whole vocabulary; treat it as read-only."""
    text = resources.files("sentinel.env").joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    words: dict[str, Any] = YAML(typ="safe").load(text)
    return words


def user_says(phrase: str, **facts: str) -> str:
    """A sentence of the scripted user, with the facts filled in."""
    sentence: str = vocabulary()["user"][phrase]
    return sentence.format(**facts)


def agent_says(phrase: str) -> str:
    """A sentence of the scripted reference agent."""
    sentence: str = vocabulary()["agent"][phrase]
    return sentence
