"""The words of a pattern and of a directive, rendered from `prompts/*.md.j2` in a sandbox. Facts in, sentences out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from jinja2 import PackageLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sentinel.records import Contrast, LabelKind, Pattern


@cache
def _template(name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("sentinel.controller", "prompts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template(name)


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
    return _render(
        "description.md.j2",
        category=category.value,
        tool=tool,
        argument=argument,
        condition=dict(sorted(condition.items())),
        contrast=contrast,
    )


def instruct(pattern: Pattern, success_rate: float) -> str:
    """What the Proposer is asked for, in words (the paper's natural-language directive).

    Args:
        pattern: the recurring error.
        success_rate: running success rate of tasks under its condition.
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
    )
