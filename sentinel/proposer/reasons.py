"""The closed set of words with which a gate rejects a candidate; every drop is counted under one of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from sentinel.records import Gate


class Reason(StrEnum):
    """Why a candidate is dropped; `GATE_OF` tells the gate that says so."""

    unsatisfiable = "unsatisfiable"
    """The generator found no world in which the constraints can be met."""
    off_target = "off_target"
    """The task lacks a knob that the directive asked for."""

    wrong_world = "wrong_world"
    invalid_record = "invalid_record"
    empty_request = "empty_request"
    unknown_tool = "unknown_tool"
    missing_argument = "missing_argument"
    unknown_argument = "unknown_argument"
    wrong_type = "wrong_type"
    unsayable = "unsayable"
    """A fact to communicate is empty, or has a comma, which tau2 removes from what the agent says."""

    gold_error = "gold_error"
    gold_differs = "gold_differs"
    several_users = "several_users"

    noop_succeeds = "noop_succeeds"
    wrong_write_succeeds = "wrong_write_succeeds"

    too_short = "too_short"
    given_away = "given_away"
    """A fact to communicate that the user says itself: an agent need only repeat it."""
    many_spellings = "many_spellings"
    invented_amount = "invented_amount"

    unauthenticated = "unauthenticated"
    breaks_one_customer = "breaks_one_customer"
    breaks_same_item = "breaks_same_item"
    breaks_after_transfer = "breaks_after_transfer"
    needless_transfer = "needless_transfer"
    forbidden_write = "forbidden_write"
    """The gold answer makes a write that the task itself calls a temptation."""

    nobody_authenticated = "nobody_authenticated"
    identity_untold = "identity_untold"
    identity_shared = "identity_shared"

    addresses_reader = "addresses_reader"
    """The words speak to whoever reads them: instructions, tool names, markup."""
    other_person = "other_person"
    invented_name = "invented_name"
    """An id or e-mail that nothing in the world has."""
    invented_price = "invented_price"

    open_order = "open_order"
    """What the words and the world leave open; so the next ones."""
    open_item = "open_item"
    open_choice = "open_choice"
    open_payment = "open_payment"
    open_reason = "open_reason"
    open_address = "open_address"

    order_matters = "order_matters"
    """The same writes in another order end in another state."""
    item_order_matters = "item_order_matters"

    mutant_succeeds = "mutant_succeeds"
    unsolved_by_talking = "unsolved_by_talking"

    leaked_task = "leaked_task"
    leaked_user = "leaked_user"
    leaked_order = "leaked_order"
    leaked_identity = "leaked_identity"
    leaked_items = "leaked_items"
    """The same items are exchanged for the same, or more than one item is returned together, as in a held-out task."""
    leaked_words = "leaked_words"
    """A run of words of a held-out task."""
    leaked_solution = "leaked_solution"

    same_solution = "same_solution"

    no_rewording = "no_rewording"
    """The language model gave no words that can be used."""
    contradicts_gold = "contradicts_gold"
    """It named something that the gold answer is not about."""
    reveals_withheld = "reveals_withheld"

    no_lift = "no_lift"
    """The policy fails on the pattern's tasks no more often than on the control tasks: they do not hit it."""

    never_solved = "never_solved"
    """Parked rather than condemned: a later policy may be ready for it."""
    always_solved = "always_solved"


_REASONS: Mapping[Gate, tuple[Reason, ...]] = {
    Gate.generation: (Reason.unsatisfiable, Reason.off_target),
    Gate.schema: (
        *(Reason.wrong_world, Reason.invalid_record, Reason.empty_request, Reason.unknown_tool),
        *(Reason.missing_argument, Reason.unknown_argument, Reason.wrong_type, Reason.unsayable),
    ),
    Gate.gold_replay: (Reason.gold_error, Reason.gold_differs, Reason.several_users),
    Gate.noop: (Reason.noop_succeeds, Reason.wrong_write_succeeds),
    Gate.communicate: (Reason.too_short, Reason.given_away, Reason.many_spellings, Reason.invented_amount),
    Gate.policy: (
        *(Reason.unauthenticated, Reason.needless_transfer, Reason.forbidden_write),
        *(reason for reason in Reason if reason.startswith("breaks_")),
    ),
    Gate.identity: (Reason.nobody_authenticated, Reason.identity_untold, Reason.identity_shared),
    Gate.wording: (Reason.addresses_reader, Reason.other_person, Reason.invented_name, Reason.invented_price),
    Gate.determined: tuple(reason for reason in Reason if reason.startswith("open_")),
    Gate.leakage: tuple(reason for reason in Reason if reason.startswith("leaked_")),
    Gate.duplicate: (Reason.same_solution,),
    Gate.end_state: (Reason.order_matters, Reason.item_order_matters),
    Gate.mutants: (Reason.mutant_succeeds,),
    Gate.dialogue: (Reason.unsolved_by_talking,),
    Gate.rewriting: (Reason.no_rewording, Reason.contradicts_gold, Reason.reveals_withheld),
    Gate.lift: (Reason.no_lift,),
    Gate.solvability: (Reason.never_solved, Reason.always_solved),
}
GATE_OF: Mapping[Reason, Gate] = MappingProxyType(
    {reason: gate for gate, reasons in _REASONS.items() for reason in reasons}
)
"""The gate that says a reason."""


class Rejection(NamedTuple):
    """Why a candidate is dropped."""

    reason: Reason
    detail: str = ""

    @property
    def gate(self) -> Gate:
        """The gate that says so."""
        return GATE_OF[self.reason]

    def __str__(self) -> str:
        """`gate:reason`, the key under which it is counted."""
        return f"{self.gate}:{self.reason}"
