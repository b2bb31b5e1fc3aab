"""The parameters of a run are display copies: what Kubeflow's compare page lines up. The spec is what runs.

A person can clone a run in the UI and edit its parameters there; nothing would change, so the first container refuses.
"""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.errors import StageError

UNRESOLVED = "{{$."
"""How a placeholder begins that a backend left in a constant."""


def to_text(parameters: Mapping[str, str]) -> str:
    """One `key=value` a line; values hold neither quotes nor line breaks."""
    return "\n".join(f"{key}={value}" for key, value in parameters.items())


def from_text(text: str) -> dict[str, str]:
    """The inverse of `to_text`."""
    return {key: value for key, _, value in (line.partition("=") for line in text.splitlines())}


def require_unedited(submitted: Mapping[str, str], text: str) -> None:
    """Raise `StageError` if the run's parameters are not those that were submitted."""
    found = from_text(text)
    edited = [
        f"    {key}: submitted '{value}', found '{found[key]}'"
        for key, value in submitted.items()
        if found.get(key, value) != value and UNRESOLVED not in found[key]
    ]
    if edited:
        raise StageError(
            "the parameters of this run were edited, but they only show what the spec says:\n"
            + "\n".join(edited)
            + "\n    change the spec, or use `kfp run submit SPEC --set key=value`"
        )
