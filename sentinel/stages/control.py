"""The control stage: diagnose the rollouts, name the recurring patterns, and tell the Proposer what to make."""

from __future__ import annotations

from sentinel.artifacts import read_json, read_jsonl, write_json, write_jsonl
from sentinel.controller.attribution import Diagnosis, diagnose
from sentinel.controller.directive import direct, prioritise
from sentinel.controller.history import History, Sample, Source, probe_samples, remember, samples_of
from sentinel.controller.lives import age, record
from sentinel.controller.patterns import Profile, find_patterns, profiles_of
from sentinel.records import Directive, Lift, Pattern, Tally, Trajectory
from sentinel.spec.models import DeterministicController, LlmController
from sentinel.stages.context import Context

Settings = DeterministicController | LlmController
"""Of a controller that finds patterns."""


def run(context: Context) -> None:
    """Read the rollouts (and the previous iteration), write failures, patterns, directive and history."""
    controller = context.spec.controller
    settings = None if controller.type == "none" else controller
    played = read_jsonl(context.inputs["rollout"] / "trajectories.jsonl", Trajectory)
    diagnosis = diagnose(played)
    context.progress.say(account(diagnosis.tally, len(diagnosis.successes)))
    profiles = profiles_of(diagnosis)
    history = _recall(context, diagnosis, settings is not None and settings.history)
    patterns, history = _judge(settings, history, profiles)
    instructions, review = dict[str, str](), None
    if controller.type == "llm":
        from sentinel.stages.reviewing import Material, reviewed

        material = Material(diagnosis, played, profiles, history)
        patterns, instructions, review = reviewed(context, controller, patterns, material)
    directive = direct(
        patterns,
        history,
        tasks=context.spec.proposer.tasks,
        explore_share=context.spec.proposer.explore_share,
        max_patterns=settings.max_patterns if settings else 0,
        instructions=instructions,
    ).model_copy(update={"review": review})
    for quota in directive.quotas:
        context.progress.say(f"{quota.tasks} tasks: {quota.instruction}")
    write_jsonl(context.output / "failures.jsonl", diagnosis.failures)
    write_jsonl(context.output / "patterns.jsonl", patterns)
    write_json(context.output / "history.json", history)
    write_json(context.output / "directive.json", directive)


def account(tally: Tally, successes: int) -> str:
    """Where every episode went, in one line."""
    others = ", ".join(f"{count} failed by {party}" for party, count in sorted(tally.rejected.items()))
    voids = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.void.items()))
    parts = [f"{successes} succeeded", f"{tally.kept - successes} failed by agent", others]
    parts.append(f"{sum(tally.void.values())} void" + (f" ({voids})" if voids else ""))
    return f"{tally.requested} episodes: " + ", ".join(part for part in parts if part)


def _recall(context: Context, diagnosis: Diagnosis, use_history: bool) -> History:
    """The history up to this diagnosis; without history, this diagnosis alone."""
    samples = samples_of(diagnosis, context.iteration, Source.diagnosis)
    if not use_history or "previous_control" not in context.inputs:
        return remember(None, None, context.iteration, diagnosis, samples)
    folder = context.inputs["previous_control"]
    previous = read_json(folder / "history.json", History)
    obeyed = context.spec.proposer.targeting == "patterns"
    ordered = read_json(folder / "directive.json", Directive) if obeyed else None
    return remember(previous, ordered, context.iteration, diagnosis, [*_paid_for(context, ordered), *samples])


def _paid_for(context: Context, ordered: Directive | None) -> list[Sample]:
    """The previous iteration's probes of targeted candidates, and its training episodes, diagnosed as well."""
    lift = read_json(context.inputs["previous_propose"] / "lift.json", Lift)
    trained = read_jsonl(context.inputs["previous_train"] / "trajectories.jsonl", Trajectory)
    probed = probe_samples(lift, ordered) if ordered else []
    return [*probed, *samples_of(diagnose(trained), context.iteration - 1, Source.training)]


def _judge(settings: Settings | None, history: History, profiles: list[Profile]) -> tuple[list[Pattern], History]:
    """The patterns with status and priority, and the history that has them."""
    if settings is None:
        return [], history
    known = [life.pattern for life in history.lives]
    found = find_patterns(profiles, settings.min_support, known)
    patterns = prioritise(age(history, found, profiles, settings.min_support), history)
    return patterns, record(history, patterns)
