"""The report for people: one self-contained HTML file (no script, no network), and the same in Markdown.

    html(report), markdown(report)

Text that comes from tasks or from a language model is escaped by the templates; nothing in a page depends on the
clock, the machine or the order of a set, so equal artifacts give equal bytes.
"""

from __future__ import annotations

import html as escaping
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from jinja2 import PackageLoader, StrictUndefined, select_autoescape
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sentinel.evaluation.breakdown import Row
from sentinel.evaluation.charts import Chart, Forest, Segment, forest, learning_curve, panel, stacks
from sentinel.evaluation.collect import Iteration, LogLine
from sentinel.evaluation.fates import Fate
from sentinel.evaluation.intervals import Interval
from sentinel.evaluation.metrics import Estimate
from sentinel.evaluation.report import Report
from sentinel.records import Party, Pattern, PatternStatus, Review

MAX_PATTERNS = 24
MAX_PANELS = 9
MAX_KINDS = 7
AXES = {"tool": "Write tool", "skill": "Skill", "family": "Kind of request", "condition": "Condition"}
CURVES = {
    "success_rate": "Success rate of the training episodes",
    "reward": "Reward, shaping included",
    "dev": "Success rate on the dev tasks",
    "informative_share": "Share of informative groups",
    "loss": "Loss",
    "kl": "KL to the iteration's start",
    "entropy": "Entropy",
    "grad_norm": "Gradient norm",
    "clipped": "Share of clipped tokens",
}
"""The curves of training that come first, and their titles; other numbers of the log follow under their own name."""
NO_CURVE = {"schema_version", "step", "iteration", "episodes", "seed", "dev_start", "dev_episodes"}


STATUSES = (
    "Resolved: far fewer than before, in enough episodes. Rare: too rare to be a pattern, or not clearly gone. "
    "Unclear: too few episodes could show it. Absorbed: part of a pattern with another condition. "
    "A dash: not found, nor known from before."
)


class Figure(NamedTuple):
    """A breakdown, drawn."""

    title: str
    rows: list[Row]
    forest: Forest


class Stack(NamedTuple):
    """Stacked bars with one legend."""

    names: list[str]
    bars: list[tuple[Iteration, list[Segment]]]


class Moment(NamedTuple):
    """A pattern in one iteration."""

    shown: Pattern | None
    """As the diagnosis shows it, found or not; `None` where it is not known, or part of another one."""
    host: Pattern | None
    """The pattern that it is part of, if it is absorbed or a language model merged it; of one that goes on from an
    earlier pattern, that one."""
    ordered: int
    """Tasks ordered for it."""
    lift: str | None
    """How many times as often the policy fails on those as on controls, in words."""
    fate: Fate
    """How its tasks went."""


class Lineage(NamedTuple):
    """One pattern through the iterations."""

    latest: Pattern
    moments: list[Moment]


def html(report: Report) -> str:
    """The page as HTML."""
    return _render("report.html.j2", report)


def markdown(report: Report) -> str:
    """The page as Markdown, without charts."""
    return _render("report.md.j2", report)


def percent(value: float) -> str:
    """A share in [0, 1] as people read it."""
    return f"{100.0 * value:.1f}%"


def points(value: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign; zero has none."""
    rounded = round(100.0 * value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0.0:.{digits}f}"


def span(figure: Estimate | Interval, *, signed: bool = False) -> str:
    """The ends of an interval, in percentage points."""
    ends = (points(end) if signed else f"{100.0 * end:.1f}" for end in (figure.low, figure.high))
    return "[{}, {}]".format(*ends)


def direction(figure: Estimate | Interval | None) -> str:
    """Whether a difference excludes zero: `up`, `down`, or `flat`."""
    if figure is None or figure.low <= 0.0 <= figure.high:
        return "flat"
    return "up" if figure.low > 0.0 else "down"


def cell(text: str) -> str:
    """Foreign text as the inside of a Markdown table cell: on one line, without markup."""
    return re.sub(r"([|`*_\[\]\\])", r"\\\1", escaping.escape(" ".join(text.split()), quote=False))


def words(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def _render(template: str, report: Report) -> str:
    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("sentinel.evaluation"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (percent, points, span, direction, cell, words, struck, solved, reviewed)
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(template).render(_view(report))


def _view(report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "spec": report.spec,
        "ks": report.spec.evaluator.k,
        "level": f"{100 * report.spec.evaluator.confidence:g}%",
        "first": report.pass_hat(report.first, report.k),
        "last": report.pass_hat(report.last, report.k),
        "delta": report.deltas[report.k],
        "conditions": Counter(direction(row.delta) for row in report.breakdown["condition"]),
        "learning": _curve(report),
        "figures": _figures(report.breakdown),
        "parties": _parties(report.history[1:]),
        "mistakes": _mistakes(report.history[1:]),
        "yields": _yields(report.history[1:]),
        "lineages": _lineages(report.history[1:]),
        "rarer": _rarer(report.history[1:]),
        "statuses": STATUSES,
        "notes": _notes(report),
        "panels": _panels([iteration.training for iteration in report.history[1:]]),
    }


def _notes(report: Report) -> list[str]:
    """What the figures cover, and what they do not."""
    spec, level = report.spec, report.spec.evaluator.confidence
    notes = [
        f"An interval is the {100 * level:g}% confidence interval of Student's t over tasks. It covers the draw of the "
        "held-out tasks and the sampling of policy and user within trials.",
        f"It does not cover the training seed: this is one training run (seed {spec.seed}, base seed "
        f"{spec.base.seed}), and another one may land elsewhere.",
        _policy_note(report),
        _set_note(report),
        "The last iteration is reported, not the best one: choosing afterwards would favour noise.",
        "Void episodes (a fault of the infrastructure, the user simulator or the task) enter no figure; there were "
        f"{report.voids} in all evaluations. A task with fewer than k scored trials is left out of Pass^k.",
        "Iteration i diagnoses the policy of iteration i−1, makes tasks, trains, and is evaluated afterwards. Rollouts "
        "are all episodes outside evaluation: diagnosis, solvability probes and training.",
    ]
    if groups := len(report.breakdown["condition"]):
        notes.append(
            f"The {groups} conditions are small groups: by chance alone about {groups * (1 - level):.1f} of their "
            "intervals would exclude zero. Read single rows as pointers."
        )
    if report.floors:
        notes.append(
            "Floors: the success of an agent that does nothing, and of one that always refuses, on the same tasks."
        )
    return notes


def _policy_note(report: Report) -> str:
    policy = report.spec.policy
    if policy.type == "tiny":
        return (
            f"The policy is a toy: a {policy.layers}-layer transformer of width {policy.hidden}, trained from scratch, "
            "with weaknesses planted on purpose. The page shows that the loop works, not what a real model would gain."
        )
    return f"The policy started as {policy.model} at revision {policy.revision}."


def _set_note(report: Report) -> str:
    return f"Task set: {report.last.metrics.task_set.label}. {_set_remark(report)}"


def _set_remark(report: Report) -> str:
    if report.spec.seed_tasks.evaluate.set == "synthetic":
        return (
            "The held-out tasks are synthetic, from the generator of the training tasks but with own users, orders "
            "and solutions: the figures do not compare with published tau2-bench results."
        )
    return "The tasks are tau2-bench's, with their known faults; compare only under the same user simulator."


def _curve(report: Report) -> Chart:
    curves = {
        f"Pass^{k}": [
            Interval(found.value, found.low, found.high) if found else None
            for found in (report.pass_hat(iteration, k) for iteration in report.history)
        ]
        for k in report.spec.evaluator.k
    }
    floors = report.floors.model_dump() if report.floors else {}
    return learning_curve(curves, {words(name): level for name, level in floors.items()})


def _figures(tables: Mapping[str, Sequence[Row]]) -> list[Figure]:
    """Rows from the greatest gain to the greatest loss, all on one axis."""
    ranked = {axis: sorted(tables[axis], key=_loss) for axis in AXES if tables[axis]}
    axis_of_all = forest([row.delta for rows in ranked.values() for row in rows])
    whiskers = iter(axis_of_all.whiskers)
    return [
        Figure(AXES[axis], rows, axis_of_all._replace(whiskers=list(islice(whiskers, len(rows)))))
        for axis, rows in ranked.items()
    ]


def _loss(row: Row) -> tuple[float, str]:
    return (-row.delta.value if row.delta else math.inf, row.group)


def _stack(iterations: Sequence[Iteration], bars: Sequence[Mapping[str, int]], names: list[str]) -> Stack:
    return Stack(names, list(zip(iterations, stacks(bars, names), strict=True)))


def _mistakes(iterations: Sequence[Iteration]) -> Stack:
    """Failures by decisive mistake; the rarest kinds are put together."""
    total = Counter[str]()
    for iteration in iterations:
        total.update(iteration.mistakes)
    ranked = sorted(total, key=lambda name: (-total[name], name))
    kept = ranked if len(ranked) <= MAX_KINDS + 1 else ranked[:MAX_KINDS]
    bars = []
    for iteration in iterations:
        bar = {name: count for name, count in iteration.mistakes.items() if name in kept}
        bars.append(bar | {"other": sum(iteration.mistakes.values()) - sum(bar.values())})
    return _stack(iterations, bars, kept if kept == ranked else [*kept, "other"])


def _parties(iterations: Sequence[Iteration]) -> Stack:
    """Failures by whose they are: the agent's, and those of others, which train nobody."""
    bars = [dict(iteration.parties) for iteration in iterations]
    return _stack(iterations, bars, [party.value for party in Party if any(party.value in bar for bar in bars)])


def _yields(iterations: Sequence[Iteration]) -> Stack:
    """Candidates by what became of them: kept, rejected by reason, void by reason."""
    bars = []
    for tally in (iteration.candidates for iteration in iterations):
        void = {f"void: {reason}": count for reason, count in tally.void.items()}
        bars.append({"kept": tally.kept} | tally.rejected | void)
    names = {name for bar in bars for name, count in bar.items() if count} - {"kept"}
    return _stack(iterations, bars, ["kept", *sorted(names)])


def _lineages(iterations: Sequence[Iteration]) -> list[Lineage]:
    """The most frequent patterns with their lives, and whatever else tasks were ordered for."""
    lives = [{pattern.id: pattern for pattern in iteration.patterns} for iteration in iterations]
    latest = {identity: pattern for life in lives for identity, pattern in life.items()}
    found = [pattern for life in lives for pattern in life.values() if pattern.found]
    support = Counter({identity: sum(p.support for p in found if p.id == identity) for identity in latest})
    ranked = sorted(latest, key=lambda identity: (-support[identity], identity))
    ordered = {identity for at in iterations for identity in at.ordered}
    return [
        Lineage(latest[identity], [_moment(identity, life, at) for life, at in zip(lives, iterations, strict=True)])
        for place, identity in enumerate(ranked)
        if place < MAX_PATTERNS or identity in ordered
    ]


def _rarer(iterations: Sequence[Iteration]) -> int:
    """Patterns that are not shown."""
    return len({pattern.id for at in iterations for pattern in at.patterns}) - len(_lineages(iterations))


def _moment(identity: str, life: Mapping[str, Pattern], at: Iteration) -> Moment:
    shown = life.get(identity)
    merged = (pattern for pattern in life.values() if identity in pattern.merged)
    host = next((life.get(other) for other in shown.related), None) if shown else next(merged, None)
    return Moment(shown, host, at.ordered.get(identity, 0), at.lifts.get(identity), at.fates.get(identity, Fate()))


def struck(moment: Moment) -> str:
    """How often a pattern struck in an iteration, and what that means: `1 of 16, resolved`."""
    if moment.shown is None:
        return f"merged: now where {when(moment.host)}" if moment.host else "–"
    contrast = moment.shown.contrast
    told = f"{contrast.failures} of {contrast.episodes}, {moment.shown.status}"
    if moment.shown.status is PatternStatus.unclear and contrast.otherwise:
        told += f": {contrast.otherwise} failed otherwise"
    if moment.host is not None:
        told += f": {'before' if moment.shown.found else 'now'} where {when(moment.host)}"
    return told


def when(pattern: Pattern) -> str:
    """The condition of a pattern in words."""
    return " and ".join(f"{knob} = {value}" for knob, value in sorted(pattern.condition.items())) or "any task"


def solved(fate: Fate) -> str:
    """How a pattern's tasks went, as `probed 6/20, trained 41/96`; empty where none was played."""
    uses = {"diagnosed": fate.diagnosis, "probed": fate.probing, "trained": fate.training}
    return ", ".join(f"{use} {found.successes}/{found.episodes}" for use, found in uses.items() if found.episodes)


def reviewed(review: Review) -> str:
    """What a language model did to the patterns, in one sentence."""
    dropped = ", ".join(f"{count} {words(reason)}" for reason, count in review.dropped.items())
    told = f"{review.model} explained {review.explained} failures"
    told += f", {review.skipped} were left out for the budget" if review.skipped else ""
    told += f"; claims dropped: {dropped}" if dropped else ""
    return f"{told}; {'its names and mergers stand' if review.stands else review.reason}."


def _number(line: LogLine, name: str) -> float | None:
    value = line.get(name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and value is not None else None


def _panels(logs: Sequence[Sequence[LogLine]]) -> list[tuple[str, Chart]]:
    """A small chart for each number of the training log."""
    names = dict.fromkeys([*CURVES, *sorted({name for log in logs for line in log for name in line} - NO_CURVE)])
    curves = {name: [[_number(line, name) for line in log] for log in logs] for name in names}
    drawn = [name for name, curve in curves.items() if any(value is not None for log in curve for value in log)]
    return [(CURVES.get(name, words(name)), panel(curves[name])) for name in drawn[:MAX_PANELS]]
