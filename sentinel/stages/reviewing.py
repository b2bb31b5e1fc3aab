"""The control stage's language model: who it is, what it may cost, and where its answers are remembered."""

from __future__ import annotations

from sentinel.controller.directive import prioritise
from sentinel.controller.review import Analyst, Limits, Material, Reviewed, review
from sentinel.llm.chat import Budget, Patience, open_chat
from sentinel.llm.structured import Memory
from sentinel.records import Pattern, Review
from sentinel.seeds import derive
from sentinel.spec.models import LlmController
from sentinel.stages.context import HOME, Context

CACHE = HOME / "cache" / "chat"
"""Outside of the stage's state: what was paid for is not asked again by a later run with the same questions."""

LONG = Patience(request_seconds=900.0)
"""For thousands of tokens from a large model that reasons first."""


def reviewed(context: Context, settings: LlmController, patterns: list[Pattern], material: Material) -> Reviewed:
    """The patterns with the model's words and with priorities, or as they were counted.

    Raises:
        StageError: the profile names no server, or it does not answer or refuses the role.
    """
    limits = Limits(settings.calls, settings.tokens, settings.answer_tokens)
    budget = Budget(calls=limits.calls, tokens=limits.tokens)
    chat = open_chat(context.profile.endpoints, "controller", model=settings.model, patience=LONG, budget=budget)
    seed = derive(context.spec.seed, "control", context.iteration) % 2**31
    try:
        found = review(Analyst(chat, limits, seed, Memory(CACHE)), patterns, material)
    finally:
        chat.close()
    context.progress.say(
        f"{_told(found.account)}; {budget.spent['calls']} questions, {budget.spent['tokens']:,} tokens"
    )
    return found._replace(patterns=prioritise(found.patterns, material.history))


def _told(account: Review) -> str:
    """What came of it, in one line."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in account.dropped.items())
    parts = [f"{account.model} explained {account.explained} failures"]
    parts += [f"{account.skipped} left out for the budget"] if account.skipped else []
    parts += [f"claims dropped: {dropped}"] if dropped else []
    return ", ".join([*parts, account.reason] if account.reason else parts)


__all__ = ["Material", "reviewed"]
