"""What the natural generator can be asked for: its kinds of tasks, with what is fixed of each and what is drawn.

    kind = natural_kinds()[0]        # Kind(condition="cancel/plain", requests=("cancel",), …)
    kind.knobs()                     # {"condition": "cancel/plain", "family": "cancel", "withheld": "none", …}

A kind is data (`kinds.yaml`); `sentinel.proposer.natural.ground` finds people to whom it can happen.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

Wanted = Literal["cancel", "address", "user_address", "payment", "items", "return", "exchange", "ask", "transfer"]
WRITES: tuple[Wanted, ...] = ("return", "items", "exchange", "cancel", "address", "user_address", "payment")
"""What `any` may be."""
SHARES = (0.24, 0.21, 0.20, 0.14, 0.12, 0.06, 0.03)
"""How often it is what: the share of the writes in tau2-base, where `payment` has one in 177."""


class Kind(BaseModel):
    """One kind of task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    condition: str
    """Its unique name, `family/twist`."""
    family: str
    """What the user wants."""
    requests: tuple[Wanted | Literal["any"], ...]
    """What is asked for, in this order."""
    withheld: Literal["none", "identity", "order", "reason", "payment", "choice"] = "none"
    """What the user tells only when asked."""
    correction: Literal["none", "choice", "drop", "address", "declined"] = "none"
    """What the user takes back when asked to confirm."""
    obstacle: Literal["none", "status", "reason", "partial", "method", "balance", "stock", "product", "customer"] = (
        "none"
    )
    """Why policy forbids the first request: the right answer is to refuse it."""
    question: Literal["none", "total", "tracking", "price", "refund", "difference"] = "none"
    """What the user wants to be told besides."""
    reference: Literal["any", "similar"] = "any"
    """`similar`: the customer has another item of the same product, so its name alone does not tell which is meant."""
    items: Literal[1, 2] | None = None
    """Items of the first request; drawn where it is left open."""
    method: Literal["any", "named"] = "any"
    """`named`: the refund goes to another method than the order was paid with."""
    weight: float = 1.0
    """Share in the natural mix, relative to the others."""

    @property
    def skill(self) -> str:
        """The decision skill it takes, in the words of the synthetic demonstrations."""
        if self.withheld != "none":
            return "ask"
        if self.obstacle != "none":
            return "refuse"
        twists = {"correct": self.correction, "similar": self.reference, "refund_method": self.method}
        usual = {"several": "two_requests", "transfer": "transfer", "ask": "tell"}.get(self.family, "base")
        return next((skill for skill, twist in twists.items() if twist not in _USUAL), usual)

    def knobs(self) -> dict[str, str | int | bool]:
        """The knobs that a task of this kind is recorded with; what is drawn for one task is added to them."""
        fixed = self.model_dump(include={"condition", "family", "withheld", "correction", "obstacle", "question"})
        return fixed | {"skill": self.skill, "requests": len(self.requests), "declined": self.correction == "declined"}


_USUAL = ("none", "any")


@cache
def natural_kinds() -> tuple[Kind, ...]:
    """All kinds, in the order of the file."""
    text = resources.files("sentinel.proposer.natural").joinpath("kinds.yaml").read_text(encoding="utf-8")
    return tuple(Kind.model_validate(entry) for entry in YAML(typ="safe").load(text))
