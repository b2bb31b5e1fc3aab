"""From a directive to tasks worth training on: draw candidates, gate them, probe the survivors, account for all.

    order = targets(spec.proposer, directive, evidence, CONDITIONS, rng)
    proposal = propose(order, draw, bench, seed=(7, "propose", 1), solvability=Solvability(), play=play)
    proposal.tally                  # kept + rejected + void = requested, where requested is the number of candidates

Who is aimed at is one list of `Target`s, so the arms of an experiment (`patterns`, `none`, `uniform`) differ in that
list and in nothing else: they pass the same gates. Effort is bounded; what a target leaves open is filled from the
natural mix, so a directive that cannot be satisfied leaves its reason behind and the loop goes on.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from sentinel.descent import Probed, condition_of
from sentinel.env.traits import characteristics, in_play
from sentinel.proposer.conditions import Knobs
from sentinel.proposer.frontier import Play, Probe, judge, lift, probe
from sentinel.proposer.gates import Bench, first_rejection
from sentinel.proposer.makers import Maker
from sentinel.proposer.reasons import Reason, Rejection
from sentinel.records import Directive, Gate, Lift, Origin, OriginKind, Pattern, Tally, Task, Verdict
from sentinel.seeds import SeedPart, derive, generator
from sentinel.spec.models import Proposer, Solvability

ATTEMPTS = 4
"""Candidates drawn, at most, per task asked for."""
GIVE_UP = 20
"""Draws in a row that fail to give what was asked for, after which a target counts as unsatisfiable."""


class Target(NamedTuple):
    """So many tasks of one kind."""

    pattern: str | None
    """What they are made for; `None` for explore tasks."""
    tasks: int
    constraints: Knobs | None = None
    """Knobs they must have; `None` draws from the natural mix."""
    parents: tuple[str, ...] = ()
    """Failed tasks the pattern was seen in."""
    tools: tuple[str, ...] = ()
    """Tools they must bring into play."""

    @property
    def name(self) -> str:
        """As it stands in task ids and seeds."""
        return self.pattern or "explore"

    @property
    def wanted(self) -> Knobs:
        """All constraints in one."""
        return {**(self.constraints or {}), **dict.fromkeys(self.tools, True)}

    def missed(self, task: Task) -> Knobs:
        """The constraints that a task does not meet."""
        known = characteristics(task) if self.constraints else {}
        missed = {knob: value for knob, value in (self.constraints or {}).items() if known.get(knob) != value}
        return missed | {tool: True for tool in self.tools if tool not in in_play(task)}

    def lacking(self, task: Task) -> bool:
        """Whether a task misses a constraint."""
        return bool(self.missed(task))

    def origin(self, number: int) -> Origin:
        """Line of descent of its candidate `number`: the parents take turns."""
        if self.pattern is None:
            return Origin(kind=OriginKind.general)
        parent = self.parents[number % len(self.parents)] if self.parents else None
        return Origin(kind=OriginKind.targeted, pattern=self.pattern, parent=parent)


Reword = Callable[[Task, int], Task | Rejection]
"""Words a task anew, with this seed, or says why not."""
Draw = Callable[[Target, np.random.Generator, str, Origin], Task | None]
"""Draws a candidate with this id and origin for a target, or `None` where its constraints cannot be met."""


def generating(maker: Maker) -> Draw:
    """A generator as a `Draw`: a kind that agrees with the constraints, by its weight, then a task of it.

    Knobs that no kind fixes (how the user identifies itself, how many orders it has) are left to chance, so the
    draw is repeated until they agree as well, a bounded number of times.
    """

    def draw(target: Target, rng: np.random.Generator, task_id: str, origin: Origin) -> Task | None:
        fitting = maker.matching(target.constraints or {}, target.tools)
        if not fitting:
            return None
        up_to = np.cumsum([kind.weight for kind in fitting])
        task = None
        for _ in range(maker.redraws):
            kind = fitting[int((up_to / up_to[-1]).searchsorted(rng.random(), side="right"))]
            task = maker.make(kind, rng, task_id=task_id, origin=origin)
            if task is None or not target.missed(task):
                break
        return task

    return draw


def explore(tasks: int) -> Target:
    """Tasks without a target, from the natural mix."""
    return Target(pattern=None, tasks=tasks)


def targets(
    settings: Proposer,
    directive: Directive,
    patterns: Sequence[Pattern],
    conditions: Sequence[str],
    rng: np.random.Generator,
) -> list[Target]:
    """Who is aimed at in this arm; explore tasks come last.

    Args:
        settings: `targeting`, `tasks` and `explore_share`.
        directive: Quotas, for `targeting: patterns`.
        patterns: Their evidence gives the parents.
        conditions: The generator's own conditions, for `targeting: uniform`.
        rng: Decides which conditions get one task more where the number does not divide evenly, and, for
            `targeting: shuffled`, which condition takes the place of a pattern.
    """
    match settings.targeting:
        case "none":
            return [explore(settings.tasks)]
        case "uniform":
            unaimed = round(settings.explore_share * settings.tasks)
            return [*_uniform(settings.tasks - unaimed, conditions, rng), explore(unaimed)]
        case "patterns":
            return [*_quotas(directive, patterns), explore(directive.explore)]
        case "shuffled":
            return [*_shuffled(directive, conditions, rng), explore(directive.explore)]


def _uniform(tasks: int, conditions: Sequence[str], rng: np.random.Generator) -> list[Target]:
    each, left = divmod(tasks, len(conditions))
    favoured = {conditions[i] for i in rng.permutation(len(conditions))[:left]}
    return [Target(name, each + (name in favoured), {"condition": name}) for name in conditions]


def _shuffled(directive: Directive, conditions: Sequence[str], rng: np.random.Generator) -> list[Target]:
    """The directive's sizes without its aim; two quotas that hit upon one condition become one target."""
    sizes: Counter[str] = Counter()
    for quota, place in zip(directive.quotas, rng.integers(len(conditions), size=len(directive.quotas)), strict=True):
        sizes[conditions[int(place)]] += quota.tasks
    return [Target(name, tasks, {"condition": name}) for name, tasks in sizes.items()]


def _quotas(directive: Directive, patterns: Sequence[Pattern]) -> list[Target]:
    parents = {p.id: tuple(evidence.trajectory.rpartition("#")[0] for evidence in p.evidence) for p in patterns}
    return [
        Target(q.pattern, q.tasks, q.constraints.values, parents.get(q.pattern, ()), q.constraints.tools)
        for q in directive.quotas
    ]


class Proposal(NamedTuple):
    """What the Proposer hands over."""

    tasks: tuple[Task, ...]
    dropped: tuple[Verdict, ...]
    """One verdict per candidate that was rejected or is void."""
    tally: Tally
    lift: Lift
    probes: tuple[Probed, ...] = ()
    """What probing showed, candidate by candidate, before the selection."""
    parked: tuple[Task, ...] = ()
    """Those made for a pattern that the policy never solved: a later one may be ready for them."""


class _Drafts(NamedTuple):
    """Candidates that passed the executable gates, and verdicts on those that did not."""

    tasks: list[Task]
    dropped: list[Verdict]
    requested: int


def propose(
    order: Sequence[Target],
    draw: Draw,
    bench: Bench,
    seed: tuple[SeedPart, ...],
    solvability: Solvability | None = None,
    play: Play | None = None,
    least_lift: float | None = None,
    reword: Reword | None = None,
    *,
    fill: bool = True,
) -> Proposal:
    """Draw and gate candidates for every target, then probe them with the policy where `solvability` is asked for.

    Args:
        order: The targets, explore tasks last.
        draw: The generator.
        bench: World, held-out manifest and archive; accepted candidates are added to its archive.
        seed: `(spec seed, "propose", iteration)`; the last part prefixes task ids.
        solvability: Trials and band, or `None` to keep every candidate that passed the executable gates.
        play: Plays episodes with the current policy; needed with `solvability`.
        reword: Words the requests of accepted candidates anew; `None` leaves the grammar's.
        fill: Whether what the targets leave open is made up from the natural mix.
        least_lift: A pattern whose tasks show less lift than this loses its quota; `None` leaves it to the report.
    """
    with _rare_collections():
        aimed = [_draft(target, draw, bench, seed, reword) for target in order if target.pattern is not None]
        vacant = (sum(target.tasks for target in order) - sum(len(drafts.tasks) for drafts in aimed)) * fill
        drafts = [*aimed, _draft(explore(vacant), draw, bench, seed, reword)]
    candidates = [task for batch in drafts for task in batch.tasks]
    dropped = [verdict for batch in drafts for verdict in batch.dropped]
    shown, probes = Lift(), dict[str, Probe]()
    if solvability is not None and play is not None:
        probes = probe(candidates, solvability.trials, seed, play)
        lacks = {target.name: target.lacking for target in order if target.constraints or target.tools}
        shown = lift(candidates, probes, lacks)
        vain = _without_lift(candidates, shown, least_lift)
        dropped += vain
        spared = {verdict.candidate for verdict in vain}
        dropped += _outside({name: probed for name, probed in probes.items() if name not in spared}, solvability)
    lost = {verdict.candidate: verdict.reason for verdict in dropped}
    kept = tuple(task for task in candidates if task.id not in lost)
    parked = (task for task in candidates if task.origin.pattern and lost.get(task.id) == Reason.never_solved)
    return Proposal(
        tasks=kept,
        dropped=tuple(dropped),
        tally=_tally(sum(batch.requested for batch in drafts), len(kept), dropped),
        lift=shown,
        probes=tuple(_probed(task, probes[task.id]) for task in candidates if task.id in probes),
        parked=tuple(parked),
    )


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector run rarely: candidates are many small records without cycles (a tenth of the time)."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _probed(task: Task, probed: Probe) -> Probed:
    return Probed(
        task=task.id,
        condition=condition_of(task),
        pattern=task.origin.pattern,
        successes=probed.successes,
        trials=probed.successes + probed.failures,
        void=sum(probed.void.values()),
    )


def _draft(target: Target, draw: Draw, bench: Bench, seed: tuple[SeedPart, ...], reword: Reword | None) -> _Drafts:
    """Draw until the target is filled, its attempts are used up, or the generator failed `GIVE_UP` times in a row."""
    tasks: list[Task] = []
    dropped: list[Verdict] = []
    vain = number = 0
    while len(tasks) < target.tasks and number < target.tasks * ATTEMPTS and vain < GIVE_UP:
        task_id = f"{int(seed[-1]):02d}-{target.name.replace('/', '-')}-{number:03d}"
        candidate = draw(target, generator(*seed, target.name, number), task_id, target.origin(number))
        number += 1
        verdict = _inspect(candidate, target, bench)
        if isinstance(verdict, Task) and reword is not None:
            verdict = reword(verdict, derive(*seed, target.name, number, "words"))
        if isinstance(verdict, Rejection):
            dropped.append(_verdict(task_id, verdict))
            vain = vain + 1 if verdict.gate is Gate.generation else 0
        else:
            bench.archive.add(verdict.signature)
            tasks.append(verdict)
            vain = 0
    return _Drafts(tasks, dropped, number)


def _inspect(candidate: Task | None, target: Target, bench: Bench) -> Task | Rejection:
    """The candidate, signed, if it is what was asked for and passes the executable gates."""
    if candidate is None:
        return Rejection(Reason.unsatisfiable, f"no world found with {target.wanted}")
    if missed := target.missed(candidate):
        known = characteristics(candidate)
        has = {knob: known.get(knob) for knob in missed if knob not in target.tools}
        return Rejection(Reason.off_target, f"wanted {missed}, has {has}, and calls {sorted(in_play(candidate))}")
    if rejection := first_rejection(candidate, bench):
        return rejection
    return candidate.model_copy(update={"signature": bench.case(candidate).signature})


def _verdict(task_id: str, rejection: Rejection) -> Verdict:
    return Verdict(
        candidate=task_id, gate=rejection.gate, accepted=False, reason=rejection.reason, detail=rejection.detail
    )


def _without_lift(tasks: Sequence[Task], shown: Lift, least: float | None) -> list[Verdict]:
    """Verdicts on all candidates of the patterns that show less lift than they must; an unknown lift passes."""
    lifts = {pattern: found.lift for pattern, found in shown.patterns.items() if found.lift is not None}
    vain = {pattern: found for pattern, found in lifts.items() if least is not None and found < least}
    return [
        _verdict(task.id, Rejection(Reason.no_lift, f"lift {vain[task.origin.pattern]:.2f}, wanted {least}"))
        for task in tasks
        if task.origin.pattern in vain
    ]


def _outside(probes: Mapping[str, Probe], solvability: Solvability) -> Iterator[Verdict]:
    """The solvability gate; a candidate none of whose episodes counts is void, under the commonest reason."""
    for task_id, probed in probes.items():
        if probed.successes + probed.failures == 0:
            reason = max(sorted(probed.void), key=lambda reason: probed.void[reason])
            detail = f"all {solvability.trials} episodes are void"
            yield Verdict(candidate=task_id, gate=None, accepted=False, reason=reason, detail=detail)
        elif rejection := judge(probed, solvability):
            yield _verdict(task_id, rejection)


def _tally(requested: int, kept: int, dropped: Sequence[Verdict]) -> Tally:
    rejected = Counter(f"{verdict.gate}:{verdict.reason}" for verdict in dropped if verdict.gate is not None)
    void = Counter(verdict.reason for verdict in dropped if verdict.gate is None)
    return Tally(requested=requested, kept=kept, rejected=dict(rejected), void=dict(void)).check()
