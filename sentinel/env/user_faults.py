"""What a user simulator may not do, found by rules: whoever breaks them has spoilt the episode, not the agent.

    kind = find_fault(scenario, heard, said, unfinished)       # after each message of the user; None where it is fine

Up to 30% of failed retail episodes are the user simulator's (tau2-bench PR #392), most of them a ###STOP### that comes
with the confirmation, before the write (PR #297). The rules want evidence: in doubt the episode counts, and what they
miss is left to the Controller's attribution. They read words, so they know English only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from sentinel.env.users import STOP, TRANSFER, FaultKind, ends
from sentinel.records import Scenario

REPEATS = 3
"""Equal messages in a row, to different words of the agent, that are a fault."""
QUOTED = 30
"""Characters from which on a sentence of the instructions that is said word for word is no coincidence."""
_IDENTIFIER = re.compile(
    r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.\w+)+|(?<!\w)#?w\d{2,}|(?:credit_card|gift_card|paypal)_\d+|\b[a-z]+_[a-z]+_\d{4}\b|\b\d{10}\b"
)
_OUT_OF_ROLE = re.compile(r"</?scenario>|as an ai\b|language model|user simulat")
_AGREES = re.compile(r"\b(?:yes|yeah|sure|confirm(?:ed)?|go ahead|proceed|sounds good|that works|please do)\b")
_DECLINES = re.compile(r"\b(?:no|not|don't|never mind|instead)\b")
_ASKS = re.compile(r"\b(?:confirm|proceed|go ahead|yes\b.{0,8}\bno)\b")
_THROUGH = re.compile(r"anything else|something else|further (?:help|assistance)|cannot|can't|unable|not able|won't")
_TRANSFERS = re.compile(r"transfer|human|representative|supervisor|specialist|escalat|colleague")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def find_fault(
    scenario: Scenario, heard: Sequence[str], said: Sequence[str], unfinished: Callable[[], bool]
) -> FaultKind | None:
    """The fault of the user's last message, if it is one.

    Args:
        scenario: what the user knows and wants.
        heard: the agent's messages, the greeting first.
        said: the user's messages, each the answer to the one at its place in `heard`.
        unfinished: whether something that the user asked for is still undone; asked only where it matters.
    """
    last, agent = _plain(said[-1]), _plain(heard[-1])
    if not last:
        return FaultKind.empty
    if len(said) == 1 and ends(said[-1]):
        return FaultKind.stopped_early
    if _reveals(scenario, last, opening=len(said) == 1):
        return FaultKind.revealed
    if any(not _is_known(found, scenario, heard) for found in identifiers(last)):
        return FaultKind.invented
    if TRANSFER in said[-1] and not _TRANSFERS.search(agent):
        return FaultKind.left_without_transfer
    if STOP in said[-1] and _stops_early(agent, last.replace(STOP.lower(), "")) and unfinished():
        return FaultKind.stopped_early
    return FaultKind.repeated if _repeats(heard, said) else None


def _plain(text: str) -> str:
    return text.lower().replace("’", "'").strip()


def _identifiers(texts: Iterable[str]) -> set[str]:
    return {found for text in texts for found in identifiers(text)}


@lru_cache(maxsize=256)
def identifiers(text: str) -> frozenset[str]:
    """What names a record in a text; remembered, since every message is held against all that were heard before."""
    return frozenset(found.lstrip("#") for found in _IDENTIFIER.findall(_plain(text)))


def _is_known(identifier: str, scenario: Scenario, heard: Sequence[str]) -> bool:
    """Whether the user can have it from its scenario or from the agent; most texts are not even looked into."""
    return any(identifier in _plain(text) and identifier in identifiers(text) for text in (*_known(scenario), *heard))


def _reveals(scenario: Scenario, text: str, *, opening: bool) -> bool:
    """Speaks of its role, recites its instructions, or opens with what it should keep until asked."""
    sentences = (_plain(sentence) for part in _instructions(scenario) for sentence in _SENTENCE.split(part))
    if _OUT_OF_ROLE.search(text) or any(
        len(sentence) >= QUOTED and re.search(r"\byour?\b", sentence) and sentence in text for sentence in sentences
    ):
        return True
    return opening and bool(_identifiers([text]) & _withheld(scenario))


def _instructions(scenario: Scenario) -> list[str]:
    return [scenario.reason_for_call, scenario.known_info, scenario.unknown_info, scenario.instructions]


def _known(scenario: Scenario) -> list[str]:
    facts = [fact for intent in scenario.intents for fact in (intent.request, *intent.facts.values())]
    return [*_instructions(scenario), scenario.identity, *facts]


def _withheld(scenario: Scenario) -> set[str]:
    """Identifiers that a generated task's user has but does not volunteer."""
    open_words = [intent.request for intent in scenario.intents]
    open_words += [scenario.identity] if scenario.identity_volunteered else []
    facts = [fact for intent in scenario.intents for fact in intent.facts.values()]
    return _identifiers([scenario.identity, *facts]) - _identifiers(open_words)


def _stops_early(agent: str, rest: str) -> bool:
    """Ends on a question of the agent: agrees and leaves, or leaves without a word where a confirmation was wanted."""
    if _THROUGH.search(agent) or _DECLINES.search(rest):
        return False
    return bool("?" in agent and _AGREES.search(rest)) or bool(_ASKS.search(agent) and not rest.strip())


def _repeats(heard: Sequence[str], said: Sequence[str]) -> bool:
    """Says the same whatever the agent says; an agent that repeats itself gets equal answers with good reason."""
    answers = {_plain(text) for text in said[-REPEATS:]}
    questions = {_plain(text) for text in heard[-REPEATS:]}
    return len(said) >= REPEATS and len(answers) == 1 and len(questions) == REPEATS
