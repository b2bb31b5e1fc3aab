"""An engine without a model: every conversation brings the turns it is going to say.

For demonstrations, reference agents and tests: the episodes are played in the same world, by the same code, as a
policy's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from sentinel.llm.engine import Conversation, Finish, Limits, Rewritten, Sample


@runtime_checkable
class Scripted(Conversation, Protocol):
    """A conversation that knows its own turns."""

    def script(self) -> Iterator[list[int]]:
        """Token ids of each assistant turn, the stop token included."""
        ...


class ScriptedEngine:
    """Feeds each conversation its own script; log-probabilities are 0 (the script is certain)."""

    def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        """Drive every conversation (`Scripted` ones) to its end, in order; a script that ends early ends in silence."""
        for conversation in conversations:
            if not isinstance(conversation, Scripted):
                raise TypeError(f"{type(conversation).__name__} brings no script")
            prompt = conversation.start()
            room = limits.max_context - len(prompt)
            for ids in conversation.script() if prompt and room > 0 else ():
                finish = Finish.stop if len(ids) <= room else Finish.context_limit
                new = conversation.advance(Sample(ids[:room], [0.0] * len(ids[:room]), finish))
                if new is None:
                    break
                room = limits.max_context - len(new) if isinstance(new, Rewritten) else room - len(ids) - len(new)
