"""Made-up but realistic artifacts of an experiment, for the tests of the report and for looking at its page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sentinel.artifacts import write_json, write_jsonl, write_text
from sentinel.evaluation.metrics import Floors, evaluate_metrics
from sentinel.records import (
    Attribution,
    Constraints,
    Contrast,
    Counts,
    Directive,
    Ending,
    Evidence,
    Failure,
    Label,
    LabelKind,
    Lift,
    Outcome,
    Party,
    Pattern,
    PatternLift,
    PatternStatus,
    Quota,
    Tally,
    TaskSet,
    Trial,
    VoidReason,
)
from sentinel.seeds import generator
from sentinel.spec.models import ExperimentSpec

CONDITIONS = {
    "cancel/plain": ("base", ("cancel_pending_order",), 0.9, 0.95),
    "cancel/no_reason": ("ask", ("cancel_pending_order",), 0.5, 0.92),
    "cancel/no_order": ("ask", ("cancel_pending_order",), 0.35, 0.9),
    "address/plain": ("base", ("modify_pending_order_address",), 0.93, 0.9),
    "user_address/plain": ("base", ("modify_user_address",), 0.9, 0.93),
    "payment/plain": ("ask", ("modify_pending_order_payment",), 0.6, 0.75),
    "items/variant": ("variant", ("modify_pending_order_items",), 0.1, 0.15),
    "return/plain": ("base", ("return_delivered_order_items",), 0.85, 0.9),
    "return/other_payment": ("refund_method", ("return_delivered_order_items",), 0.4, 0.7),
    "exchange/one": ("variant", ("exchange_delivered_order_items",), 0.3, 0.4),
    "exchange/two": ("two_items", ("exchange_delivered_order_items",), 0.05, 0.1),
    "refuse/return_pending": ("refuse", (), 0.2, 0.93),
    "refuse/cancel_delivered": ("refuse", (), 0.15, 0.9),
    "transfer/unsupported": ("transfer", (), 0.25, 0.97),
    "two/cancel_and_return": ("two_requests", ("cancel_pending_order", "return_delivered_order_items"), 0.06, 0.2),
}
"""Condition -> skill, write tools, success at the start and in the end."""

TASKS = TaskSet(name="synthetic", version="world 00ff", digest="0123abcd", reward_basis=("DB", "COMMUNICATE"))
SPEC = ExperimentSpec.model_validate_json(
    """{
    "seed": 7, "iterations": 3, "base": {"name": "toy"},
    "environment": {"world": {"type": "synthetic", "ids": "atomic"}, "observation": "compact", "max_turns": 12,
                    "user": {"type": "scripted"}},
    "policy": {"type": "tiny"},
    "warmup": {"clean_steps": 10, "weak_steps": 5},
    "seed_tasks": {"general": 64, "dev": 16, "demonstrations": 100, "evaluate": {"set": "synthetic", "tasks": 120}},
    "rollout": {"tasks": 58}, "controller": {"type": "deterministic"}, "proposer": {"tasks": 128}, "trainer": {}
    }"""
)
PATTERNS = (
    (
        LabelKind.against_policy,
        "Attempts a return of an order that is still pending",
        "refuse/return_pending",
        (41, 6, 0),
    ),
    (
        LabelKind.missing_transfer,
        "Does not hand over a request that no tool supports",
        "transfer/unsupported",
        (35, 3, 0),
    ),
    (LabelKind.wrong_argument, "Cancels with a guessed reason instead of asking", "cancel/no_reason", (22, 9, 2)),
    (LabelKind.wrong_argument, "Refunds to the wrong payment method", "return/other_payment", (18, 14, 11)),
    (LabelKind.missing_write, "Exchanges the first of two items only", "exchange/two", (17, 19, 16)),
    (LabelKind.wrong_argument, "Chooses a variant that was not asked for", "items/variant", (16, 15, 15)),
    (LabelKind.missing_write, "Forgets the second request", "two/cancel_and_return", (0, 12, 13)),
)


def trial(task: str, number: int, outcome: Outcome, condition: str = "cancel/plain") -> Trial:
    """One trial of a task of this condition."""
    skill, tools, *_ = CONDITIONS[condition]
    return Trial(
        task=task,
        trial=number,
        outcome=outcome,
        void_reason=VoidReason.infrastructure if outcome is Outcome.void else None,
        knobs={"condition": condition, "family": condition.split("/")[0], "skill": skill},
        tools=tools,
        ending=Ending.user_stop,
        counts=Counts(turns=6, tokens=90, errors=0),
    )


def trials(progress: float, tasks_each: int = 8, seed: int = 0) -> list[Trial]:
    """An evaluation of a policy that has gone this share of the way; about one trial in 200 is void."""
    rng = generator(seed, int(1000 * progress))
    return [
        trial(f"{condition}-{task}", number, _outcome(rng, start + progress * (end - start)), condition)
        for condition, (_, _, start, end) in CONDITIONS.items()
        for task in range(tasks_each)
        for number in range(4)
    ]


def _outcome(rng: np.random.Generator, success: float) -> Outcome:
    if rng.random() < 0.005:
        return Outcome.void
    return Outcome.success if rng.random() < success else Outcome.failure


def write_experiment(root: Path, description: str | None = None) -> dict[str, Path]:
    """Write the artifacts of all stages below `root` and return the inputs of the report stage."""
    inputs = {}
    for number, progress in enumerate((0.0, 0.7, 0.95, 1.0)):
        inputs[f"evaluate_{number:02d}"] = _evaluation(root / f"{number:02d}/evaluate", number, progress)
    for number in (1, 2, 3):
        folder = root / f"{number:02d}"
        inputs[f"rollout_{number:02d}"] = _rollout(folder / "rollout")
        inputs[f"control_{number:02d}"] = _control(folder / "control", number, description)
        inputs[f"propose_{number:02d}"] = _propose(folder / "propose", number)
        inputs[f"train_{number:02d}"] = _train(folder / "train", number)
    return inputs


def _evaluation(folder: Path, number: int, progress: float) -> Path:
    played = trials(progress)
    floors = Floors(do_nothing=0.0, refuse_always=2 / 15) if number == 0 else None
    write_jsonl(folder / "trials.jsonl", played)
    write_json(folder / "metrics.json", evaluate_metrics(played, SPEC.evaluator, TASKS, floors=floors))
    return folder


def _rollout(folder: Path) -> Path:
    write_text(folder / "trajectories.jsonl", episodes(None, 200, 90) + episodes("pattern0", 32, 8))
    return folder


def episodes(pattern: str | None, number: int, successes: int) -> str:
    """Lines of trajectories, as far as the report reads them; the last one is void if there are any others."""
    outcomes = ["success"] * successes + ["failure"] * (number - successes - 1) + ["void"]
    task = {"origin": {"pattern": pattern}}
    return "".join(json.dumps({"outcome": outcome, "task": task}) + "\n" for outcome in outcomes)


def _control(folder: Path, number: int, description: str | None) -> Path:
    patterns = [pattern for index in range(len(PATTERNS)) if (pattern := _pattern(index, number, description))]
    plain = {"tasks": 14, "constraints": Constraints(), "instruction": ""}
    quotas = tuple(Quota(pattern=one.id, **plain) for one in patterns if one.support)
    write_jsonl(folder / "patterns.jsonl", patterns)
    write_json(folder / "directive.json", Directive(iteration=number, quotas=quotas, explore=26))
    write_jsonl(folder / "failures.jsonl", _failures(number))
    return folder


def _pattern(index: int, number: int, description: str | None) -> Pattern | None:
    category, text, condition, supports = PATTERNS[index]
    support = supports[number - 1]
    before = supports[number - 2] if number > 1 else 0
    if not support and not before:
        return None
    status = PatternStatus.persistent if before else PatternStatus.new
    return Pattern(
        id=f"pattern{index}",
        category=category,
        description=description or text,
        tools=CONDITIONS[condition][1],
        arguments=(),
        condition={"condition": condition},
        support=support,
        contrast=Contrast(failures=support, episodes=max(support, 44), failures_elsewhere=2, episodes_elsewhere=188),
        evidence=(Evidence(trajectory="t#0", turn=3),),
        status=status if support else PatternStatus.resolved,
        priority=float(support),
    )


def _failures(number: int) -> Iterator[Failure]:
    for index, (category, _, _, supports) in enumerate(PATTERNS):
        for case in range(supports[number - 1]):
            yield _failure(f"f{index}-{case}", category, Party.agent)
    yield _failure("broken", LabelKind.tool_error, Party.user_simulator)


def _failure(task: str, kind: LabelKind, party: Party) -> Failure:
    return Failure(
        trajectory=f"{task}#0",
        task=task,
        trial=0,
        knobs={},
        labels=(Label(kind=kind, turn=3),),
        decisive=0,
        attribution=Attribution(party=party, reason="gold differs"),
    )


def _propose(folder: Path, number: int) -> Path:
    rejected = {"same_solution": 3 + number, "never_solved": 14, "always_solved": 5 * number, "leaked_identity": 1}
    kept = 128 - sum(rejected.values()) - 2
    write_json(
        folder / "yield.json", Tally(requested=128, kept=kept, rejected=rejected, void={"infrastructure": 2}).check()
    )
    lifts = {"pattern0": PatternLift(tasks=14, episodes=56, failure_rate=0.7, control_failure_rate=0.4, lift=1.75)}
    write_json(folder / "lift.json", Lift(patterns=lifts, episodes=512))
    return folder


def _train(folder: Path, number: int) -> Path:
    rng = generator(number)
    lines = []
    for step in range(12):
        done = 1 - math.exp(-(12 * (number - 1) + step) / 10)
        noise = rng.normal(0, 0.02, 5)
        dev = f"{0.5 + 0.2 * done + noise[4]:.4f}" if step % 6 == 5 else "null"
        lines.append(
            f'{{"schema_version":1,"step":{step},"episodes":128,"reward":{0.45 + 0.25 * done + noise[0]:.4f},'
            f'"success_rate":{0.44 + 0.25 * done + noise[0]:.4f},"informative_share":{0.6 - 0.2 * done + noise[1]:.4f},'
            f'"loss":{0.02 + noise[2] / 4:.5f},"kl":{0.001 * step + abs(noise[3]) / 40:.6f},'
            f'"entropy":{0.5 - 0.3 * done + noise[3] / 2:.4f},"dev":{dev},"skipped":null}}\n'
        )
    write_text(folder / "metrics.jsonl", "".join(lines))
    write_text(folder / "trajectories.jsonl", episodes(None, 64, 30) + episodes("pattern0", 97, 41))
    return folder
