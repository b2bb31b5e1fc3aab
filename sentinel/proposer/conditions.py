"""What the generator can be asked for: its conditions, each a combination of task knobs.

    matching({"family": "cancel"})            # all conditions whose knobs agree

A condition is data (`conditions.yaml`); `sentinel.proposer.trajectory` knows how to build a task for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

Knobs = Mapping[str, str | int | bool]


class Condition(BaseModel):
    """One kind of task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    condition: str
    """Its unique name, `family/twist`."""
    family: str
    """What the user wants."""
    skill: str
    """The decision skill it takes."""
    requests: tuple[
        Literal["cancel", "address", "user_address", "payment", "items", "return", "exchange", "transfer"], ...
    ]
    withheld: Literal["none", "identity", "order", "reason", "payment"] = "none"
    """What the user tells only when asked."""
    declined: bool = False
    """Whether the user says no when asked to confirm."""
    items: Literal[1, 2] = 1
    """Items that a return, exchange or modification touches."""
    method: Literal["original", "named"] = "original"
    """Whether a refund goes to the original payment method or to one that the user names."""
    obstacle: Literal["none", "status", "reason", "method", "balance"] = "none"
    """Why policy forbids the request: the right answer is to refuse."""
    weight: float = 1.0
    """Share in the natural mix, relative to the others."""

    def knobs(self) -> dict[str, str | int | bool]:
        """The knobs that a task of this condition is recorded with."""
        return self.model_dump(exclude={"requests", "weight"}) | {"requests": len(self.requests)}


@cache
def conditions() -> tuple[Condition, ...]:
    """All conditions, in the order of the file."""
    text = resources.files("sentinel.proposer").joinpath("conditions.yaml").read_text(encoding="utf-8")
    return tuple(Condition.model_validate(entry) for entry in YAML(typ="safe").load(text))


TOOL_OF: Mapping[str, str] = MappingProxyType(
    {
        "cancel": "cancel_pending_order",
        "address": "modify_pending_order_address",
        "user_address": "modify_user_address",
        "payment": "modify_pending_order_payment",
        "items": "modify_pending_order_items",
        "return": "return_delivered_order_items",
        "exchange": "exchange_delivered_order_items",
        "transfer": "transfer_to_human_agents",
    }
)
"""The tool that fulfils a request."""


def matching(constraints: Knobs, tools: Collection[str] = ()) -> list[Condition]:
    """Conditions whose knobs agree with every constraint; knobs that no condition has are left to the builder.

    Args:
        constraints: knob values.
        tools: tools of which every condition's requests must need each that fulfils a request at all.
    """
    needed = {tool for tool in tools if tool in TOOL_OF.values()}
    return [
        condition
        for condition in conditions()
        if all(condition.knobs().get(knob, value) == value for knob, value in constraints.items())
        and needed <= {TOOL_OF[request] for request in condition.requests}
    ]
