"""The words of a pattern and of a directive, rendered from `prompts/*.md.j2` in a sandbox. Facts in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from jinja2 import PackageLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sentinel.llm.quoting import quoted
from sentinel.records import Contrast, Json, LabelKind, Pattern


@cache
def _template(name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("sentinel.controller", "prompts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters["quoted"] = quoted
    return environment.get_template(name)


def prompt(name: str, **data: Json) -> str:
    """A question to a language model; data reach it `quoted`, whatever they say."""
    return _template(f"{name}.md.j2").render(**data).strip()


def _render(name: str, **facts: object) -> str:
    """A template in one line: line breaks are the author's, not the text's."""
    return " ".join(_template(name).render(**facts).split())


def describe(
    category: LabelKind,
    tool: str | None,
    argument: str | None,
    condition: Mapping[str, str | int | bool],
    contrast: Contrast,
) -> str:
    """A pattern in one sentence."""
    error = error_of(category, tool, argument, condition)
    return _render("description.md.j2", error=error, condition=condition, contrast=contrast)


def error_of(
    category: LabelKind, tool: str | None, argument: str | None, condition: Mapping[str, str | int | bool]
) -> str:
    """The same without its counts: what happens, and when."""
    ordered = dict(sorted(condition.items()))
    return _render("error.md.j2", category=category.value, tool=tool, argument=argument, condition=ordered)


def instruct(pattern: Pattern, success_rate: float, tried: int = 0, passed: int = 0) -> str:
    """What the Proposer is asked for, in words (the paper's natural-language directive).

    Args:
        pattern: the recurring error.
        success_rate: running success rate of the tasks that can show it.
        tried: episodes of earlier tasks that were made for it.
        passed: how many of them succeeded.
    """
    return _render(
        "instruction.md.j2",
        category=pattern.category.value,
        tool=next(iter(pattern.tools), None),
        argument=next(iter(pattern.arguments), None),
        condition=dict(sorted(pattern.condition.items())),
        contrast=pattern.contrast,
        status=pattern.status.value,
        success_rate=success_rate,
        tried=tried,
        passed=passed,
    )
