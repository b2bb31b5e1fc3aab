"""What the iterations of an experiment left behind, read from the folders of its stages.

    history = collect(context.inputs, spec.iterations)

Iteration 0 is the starting policy: it has an evaluation and nothing else. In iteration i the policy of i-1 is diagnosed
(rollout, control), tasks are made (propose), and the policy of i is trained and evaluated. Records are read strictly;
the log `train/metrics.jsonl` tolerantly, since a report should not fail for a new curve.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sentinel.artifacts import REBUILD, read_json, read_jsonl, require
from sentinel.errors import ArtifactError
from sentinel.evaluation.fates import Fate, fates
from sentinel.evaluation.metrics import EvaluationMetrics
from sentinel.records import Directive, Failure, Json, Lift, Party, Pattern, PatternLift, Review, Tally, Trial

LogLine = dict[str, Json]
"""One step of training: `step`, `reward`, `informative_share`, `loss`, `kl`, `entropy`, `episodes`, …"""


class Rollouts(NamedTuple):
    """Episodes that the policy played outside evaluation: the budget at which arms are compared."""

    diagnosis: int = 0
    probing: int = 0
    training: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


@dataclass(frozen=True)
class Iteration:
    """One round of the loop, or the starting policy (number 0)."""

    number: int
    trials: list[Trial]
    metrics: EvaluationMetrics
    rollouts: Rollouts = field(default_factory=Rollouts)
    patterns: list[Pattern] = field(default_factory=list)
    """Found in this iteration's diagnosis, the greatest support first."""
    ordered: dict[str, int] = field(default_factory=dict)
    """Pattern id -> tasks that the directive asks for."""
    lifts: dict[str, str] = field(default_factory=dict)
    """Pattern id -> how much more often the policy fails on tasks made for it than on controls, in words."""
    lift: str = ""
    """The same for all patterns together; empty where nothing was probed."""
    parties: dict[str, int] = field(default_factory=dict)
    """Party at fault -> failed diagnosis episodes."""
    mistakes: dict[str, int] = field(default_factory=dict)
    """Kind of the decisive mistake, or the party at fault if it is not the agent -> failed diagnosis episodes."""
    fates: dict[str, Fate] = field(default_factory=dict)
    """Pattern id -> how the tasks that were made for it went, those of earlier iterations among them."""
    review: Review | None = None
    """What a language model made of the patterns, if one was asked."""
    candidates: Tally = field(default_factory=lambda: Tally(requested=0, kept=0))
    training: list[LogLine] = field(default_factory=list)


def collect(inputs: Mapping[str, Path], iterations: int) -> list[Iteration]:
    """Read iteration 0 to N; `inputs` maps labels (`evaluate_00`, `control_01`, …) to folders.

    Raises:
        ArtifactError: where an artifact is missing or not what it should be; names path and line.
    """
    return [Iteration(0, *_evaluation(inputs, 0)), *(_round(inputs, number) for number in range(1, iterations + 1))]


def _folder(inputs: Mapping[str, Path], kind: str, number: int) -> Path:
    label = f"{kind}_{number:02d}"
    if label not in inputs:
        raise ArtifactError(
            label, "the report was given no folder of this name", hint=f"it has: {', '.join(sorted(inputs))}"
        )
    return require(inputs[label])


def _evaluation(inputs: Mapping[str, Path], number: int) -> tuple[list[Trial], EvaluationMetrics]:
    return read_evaluation(_folder(inputs, "evaluate", number))


def read_evaluation(folder: Path) -> tuple[list[Trial], EvaluationMetrics]:
    """The trials of an evaluation and its figures, which must speak of as many."""
    path = folder / "trials.jsonl"
    trials, metrics = read_jsonl(path, Trial), read_json(folder / "metrics.json", EvaluationMetrics)
    if len(trials) != metrics.trials:
        problem = f"holds {len(trials)} trials, and metrics.json beside it is of {metrics.trials}"
        raise ArtifactError(path, problem, hint=REBUILD)
    return trials, metrics


def _round(inputs: Mapping[str, Path], number: int) -> Iteration:
    trials, metrics = _evaluation(inputs, number)
    kinds = ("rollout", "control", "propose", "train")
    rollout, control, propose, train = (_folder(inputs, kind, number) for kind in kinds)
    patterns = read_jsonl(control / "patterns.jsonl", Pattern, may_be_empty=True)
    directive = read_json(control / "directive.json", Directive)
    failures = read_jsonl(control / "failures.jsonl", Failure, may_be_empty=True)
    lift = read_json(propose / "lift.json", Lift)
    training = _log(train / "metrics.jsonl")
    return Iteration(
        number,
        trials,
        metrics,
        rollouts=Rollouts(
            diagnosis=_lines(rollout / "trajectories.jsonl"),
            probing=lift.episodes,
            training=sum(int(line.get("episodes", 0)) for line in training),
        ),
        patterns=sorted(patterns, key=lambda pattern: (not pattern.found, -pattern.support, pattern.id)),
        ordered={quota.pattern: quota.tasks for quota in directive.quotas},
        parties=dict(Counter(failure.attribution.party.value for failure in failures)),
        mistakes=_mistakes(failures),
        fates=fates(rollout, lift, train),
        review=directive.review,
        lifts={pattern: _lift(found) for pattern, found in lift.patterns.items() if found.lift is not None},
        lift=_lift(lift.together) if lift.together and lift.together.lift is not None else "",
        candidates=read_json(propose / "yield.json", Tally),
        training=training,
    )


def _lift(found: PatternLift) -> str:
    """The lift in words, with its interval: `1.8× [1.2, 2.6]`."""
    span = f" [{found.interval[0]:.1f}, {found.interval[1]:.1f}]" if found.interval else ""
    return f"{found.lift or 0.0:.1f}×{span}" + (", no lift" if found.lift is not None and found.lift <= 1 else "")


def _mistakes(failures: list[Failure]) -> dict[str, int]:
    """Failures by decisive label; those that are not the agent's fault by party."""
    return dict(Counter(_mistake(failure) for failure in failures).most_common())


def _mistake(failure: Failure) -> str:
    if failure.attribution.party is not Party.agent:
        return f"not the agent: {failure.attribution.party}"
    return str(failure.labels[failure.decisive].kind) if failure.decisive < len(failure.labels) else "unexplained"


def _lines(path: Path) -> int:
    with require(path).open("rb") as file:
        return sum(1 for _ in file)


def _object(path: Path, text: str, line: int) -> LogLine:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(path, f"not JSON: {error}", line=line) from None
    if not isinstance(value, dict):
        raise ArtifactError(path, f"expected a JSON object, found {type(value).__name__}", line=line)
    return value


def _log(path: Path) -> list[LogLine]:
    with require(path).open(encoding="utf-8") as file:
        return [_object(path, text, number) for number, text in enumerate(file, 1)]
