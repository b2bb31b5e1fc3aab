"""From targets to tasks: quotas, attempts, accounting, solvability, lift, determinism, and the stage itself."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sentinel.artifacts import read_json, read_jsonl, write_json, write_jsonl
from sentinel.descent import Probed
from sentinel.env.overlay import World
from sentinel.env.synthetic import atoms
from sentinel.env.tau2 import benchmark_tasks, benchmark_users
from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.templates import Hermes
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.proposer.conditions import conditions
from sentinel.proposer.frontier import Play, Probe, judge, lift
from sentinel.proposer.gates import Bench
from sentinel.proposer.leakage import manifest
from sentinel.proposer.makers import PlainTasks
from sentinel.proposer.propose import ATTEMPTS, GIVE_UP, Proposal, Target, explore, generating, propose, targets
from sentinel.proposer.reasons import Reason
from sentinel.proposer.trajectory import Scenes, shared_scenes, synthetic_scenes
from sentinel.records import (
    Constraints,
    Contrast,
    Directive,
    Evidence,
    Gate,
    LabelKind,
    Lift,
    Origin,
    OriginKind,
    Outcome,
    Pattern,
    PatternStatus,
    Quota,
    Tally,
    Task,
    Trajectory,
    Verdict,
    VoidReason,
)
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Demonstration, do_nothing, expert
from sentinel.rollout.episode import Assignment
from sentinel.seeds import generator
from sentinel.spec.load import load
from sentinel.spec.models import Experiment, Proposer, Solvability, SyntheticWorld
from sentinel.spec.profile import ProfileSpec
from sentinel.stages.context import Context
from sentinel.stages.progress import Progress

SEED = (7, "propose", 1)
ALWAYS = frozenset({"address", "user_address", "cancel"})
NEVER = frozenset({"two", "exchange"})
"""Families that the reference policy always and never solves; the others it solves every second time."""


@cache
def world() -> World:
    return World.from_data({})


def bench() -> Bench:
    return Bench(world(), manifest([], world(), entities=False))


@cache
def scenes() -> Scenes:
    return synthetic_scenes(world(), SyntheticWorld(type="synthetic", ids="atomic"))


@cache
def arena() -> Arena:
    tokenizer = train_tokenizer([""], atoms(), max_context=4096)
    return Arena(world(), Hermes(""), tokenizer, "compact", max_turns=20, max_context=4096)


def solves(assignment: Assignment) -> bool:
    family = assignment.task.knobs["family"]
    return family in ALWAYS or (family not in NEVER and assignment.trial % 2 == 0)


def reference(void: Mapping[int, VoidReason] | None = None) -> tuple[Play, list[Assignment]]:
    """A policy that plays the gold answer where it `solves`, else does nothing; trials in `void` break down."""
    seen: list[Assignment] = []

    def play(assignments: Sequence[Assignment]) -> Iterator[Trajectory]:
        seen.extend(assignments)
        for row, assignment in enumerate(assignments):
            actions = expert(assignment.task) if solves(assignment) else do_nothing(assignment.task)
            episode = Demonstration(assignment, arena(), actions)
            ScriptedEngine().run([episode], Limits(1.0, 4096, 4096))
            trajectory = episode.played("reference", 0, row).trajectory
            if reason := (void or {}).get(assignment.trial):
                broken = {"outcome": Outcome.void, "void_reason": reason, "reward": None}
                trajectory = trajectory.model_copy(update=broken)
            yield trajectory

    return play, seen


def weakness(pattern: str, tasks: int, **constraints: str | int | bool) -> Target:
    return Target(pattern, tasks, constraints, ("general-3", "general-8"))


def test_targets_get_tasks_with_their_knobs_and_line_of_descent() -> None:
    order = [weakness("p1", 5, skill="refuse"), weakness("p2", 3, condition="cancel/no_reason"), explore(4)]
    proposal = propose(order, generating(PlainTasks(scenes())), bench(), SEED)
    made = {name: [t for t in proposal.tasks if t.origin.pattern == name] for name in ("p1", "p2", None)}
    assert {name: len(tasks) for name, tasks in made.items()} == {"p1": 5, "p2": 3, None: 4}
    assert {task.knobs["skill"] for task in made["p1"]} == {"refuse"}
    assert {task.knobs["condition"] for task in made["p2"]} == {"cancel/no_reason"}
    assert {task.origin.parent for task in made["p1"]} == {"general-3", "general-8"}
    assert {task.origin.kind for task in made[None]} == {OriginKind.general}
    assert made["p1"][0].id.startswith("01-p1-")
    assert len({task.id for task in proposal.tasks}) == len({task.signature for task in proposal.tasks}) == 12


def test_knobs_that_no_condition_fixes_are_met_by_drawing_again() -> None:
    order = [weakness("p1", 10, identity="name", withheld="reason")]
    proposal = propose(order, generating(PlainTasks(scenes())), bench(), SEED)
    assert [(task.knobs["identity"], task.knobs["withheld"]) for task in proposal.tasks] == [("name", "reason")] * 10
    assert proposal.tally.requested < 15


def test_equal_seeds_give_equal_proposals_and_other_seeds_other_tasks() -> None:
    order = [weakness("p1", 4, family="return"), explore(6)]
    first, again = (propose(order, generating(PlainTasks(scenes())), bench(), SEED) for _ in range(2))
    assert first == again
    assert propose(order, generating(PlainTasks(scenes())), bench(), (8, "propose", 1)).tasks != first.tasks


def test_a_target_is_independent_of_the_others() -> None:
    alone = propose([weakness("p2", 3, family="cancel")], generating(PlainTasks(scenes())), bench(), SEED)
    beside = propose(
        [weakness("p1", 5, skill="refuse"), weakness("p2", 3, family="cancel")],
        generating(PlainTasks(scenes())),
        bench(),
        SEED,
    )
    assert [task for task in beside.tasks if task.origin.pattern == "p2"] == list(alone.tasks)


@pytest.mark.parametrize(
    "constraints",
    [{"condition": "cancel/never_heard_of"}, {"family": "cancel", "skill": "refuse"}, {"items": 7}],
)
def test_constraints_that_nothing_meets_are_rejected_with_a_reason_and_filled_up(
    constraints: dict[str, str | int],
) -> None:
    order = [Target("p1", 30, constraints), explore(2)]
    proposal = propose(order, generating(PlainTasks(scenes())), bench(), SEED)
    assert proposal.tally.rejected["generation:unsatisfiable"] == GIVE_UP
    assert [task.origin.kind for task in proposal.tasks] == [OriginKind.general] * 32
    assert {verdict.gate for verdict in proposal.dropped} <= {Gate.generation, Gate.noop}


def test_a_world_too_small_for_the_order_gives_what_it_can_and_says_why_not_more() -> None:
    one_user = shared_scenes(World.tau2(), frozenset(World.tau2().db.users) - {"yusuf_rossi_9620"})
    held_against = Bench(World.tau2(), manifest([], World.tau2(), entities=True))
    order = [weakness("p1", 6, condition="cancel/plain"), weakness("p2", 30, condition="refuse/poor_gift_card")]
    proposal = propose(order, generating(PlainTasks(one_user)), held_against, SEED)
    cancelled = [task.gold[-1].arguments for task in proposal.tasks if task.origin.pattern == "p1"]
    assert 0 < len(cancelled) < 6
    assert len(cancelled) == len({tuple(arguments.items()) for arguments in cancelled})
    assert not [task for task in proposal.tasks if task.origin.pattern == "p2"]
    assert proposal.tally.rejected["generation:unsatisfiable"] >= GIVE_UP
    assert proposal.tally.rejected["duplicate:same_solution"] >= 6


def test_off_target_candidates_are_rejected() -> None:
    def stubborn(target: Target, rng: np.random.Generator, task_id: str, origin: Origin) -> Task | None:
        return generating(PlainTasks(scenes()))(weakness("p1", 1, family="address"), rng, task_id, origin)

    proposal = propose([weakness("p1", 2, family="cancel")], stubborn, bench(), SEED)
    assert proposal.tally.rejected["generation:off_target"] == 2 * ATTEMPTS


def test_duplicates_are_drawn_again_until_the_attempts_are_used_up() -> None:
    def monotonous(target: Target, rng: np.random.Generator, task_id: str, origin: Origin) -> Task | None:
        same = generator("monotonous")
        return generating(PlainTasks(scenes()))(weakness("p1", 1, condition="return/original"), same, task_id, origin)

    proposal = propose([explore(5)], monotonous, bench(), SEED)
    assert proposal.tally == Tally(requested=20, kept=1, rejected={"duplicate:same_solution": 19})


def test_candidates_already_in_the_archive_are_dropped() -> None:
    earlier = propose([explore(6)], generating(PlainTasks(scenes())), bench(), SEED)
    known = Bench(world(), bench().held_out, {task.signature for task in earlier.tasks})
    again = propose([explore(6)], generating(PlainTasks(scenes())), known, SEED)
    assert again.tally.rejected["duplicate:same_solution"] == 6
    assert not {task.signature for task in again.tasks} & {task.signature for task in earlier.tasks}


@pytest.mark.parametrize(
    ("probed", "reason"),
    [
        (Probe(0, 4, {}), Reason.never_solved),
        (Probe(1, 3, {}), None),
        (Probe(3, 1, {}), None),
        (Probe(4, 0, {}), Reason.always_solved),
        (Probe(1, 1, {"infrastructure": 2}), None),
        (Probe(0, 1, {"infrastructure": 3}), Reason.never_solved),
        (Probe(2, 0, {"infrastructure": 2}), Reason.always_solved),
    ],
)
def test_the_band_keeps_what_is_solved_sometimes(probed: Probe, reason: Reason | None) -> None:
    rejection = judge(probed, Solvability(trials=4, band=(1, 3)))
    assert (rejection and rejection.reason) == reason


def test_a_full_band_keeps_everything() -> None:
    wide = Solvability(trials=4, band=(0, 4))
    assert [judge(Probe(n, 4 - n, {}), wide) for n in range(5)] == [None] * 5


def test_probing_selects_what_the_policy_solves_sometimes() -> None:
    order = [weakness("hard", 4, family="two"), weakness("edge", 4, family="refuse"), explore(12)]
    play, seen = reference()
    proposal = propose(order, generating(PlainTasks(scenes())), bench(), SEED, Solvability(trials=4, band=(1, 3)), play)
    assert len(seen) == 4 * 20 == proposal.lift.episodes
    assert len({assignment.seed for assignment in seen}) == len(seen)
    assert not {task.knobs["family"] for task in proposal.tasks} & (ALWAYS | NEVER)
    assert [task.origin.pattern for task in proposal.tasks].count("edge") == 4
    hard = [verdict for verdict in proposal.dropped if verdict.candidate.startswith("01-hard")]
    assert [(verdict.gate, verdict.reason) for verdict in hard] == [(Gate.solvability, "never_solved")] * 4
    assert proposal.tally.rejected["solvability:always_solved"] > 0


def test_void_candidates_are_neither_kept_nor_rejected() -> None:
    play, _ = reference(void={n: VoidReason.infrastructure for n in range(4)})
    proposal = propose([explore(3)], generating(PlainTasks(scenes())), bench(), SEED, Solvability(trials=4), play)
    assert proposal.tally.void == {"infrastructure": 3}
    assert proposal.tally.kept == 0
    assert proposal.lift.void == {"infrastructure": 12}


def test_every_candidate_is_accounted_for() -> None:
    order = [weakness("p1", 3, family="gone"), weakness("p2", 4, family="return"), explore(10)]
    play, _ = reference(void={0: VoidReason.user_simulator})
    proposal = propose(order, generating(PlainTasks(scenes())), bench(), SEED, Solvability(trials=2, band=(0, 0)), play)
    kept, dropped = {t.id for t in proposal.tasks}, [v.candidate for v in proposal.dropped]
    assert len(kept) + len(dropped) == proposal.tally.requested == len(kept | set(dropped))
    assert proposal.tally.check() is proposal.tally


def test_lift_compares_patterns_with_the_explore_tasks_before_selection() -> None:
    order = [weakness("hard", 4, family="two"), weakness("easy", 4, family="address"), explore(8)]
    play, _ = reference()
    shown = propose(
        order, generating(PlainTasks(scenes())), bench(), SEED, Solvability(trials=4, band=(1, 3)), play
    ).lift
    hard, easy = shown.patterns["hard"], shown.patterns["easy"]
    assert (hard.failure_rate, easy.failure_rate) == (1.0, 0.0)
    assert hard.tasks == 4
    assert hard.episodes == 16
    assert hard.control_failure_rate is not None
    assert 0 < hard.control_failure_rate < 1
    assert hard.lift == pytest.approx(1 / hard.control_failure_rate)
    assert easy.lift == 0.0
    assert shown.together is not None
    assert (shown.together.tasks, shown.together.control_tasks, shown.together.failure_rate) == (8, 8, 0.5)
    assert shown.together.lift == pytest.approx(0.5 / (shown.together.control_failure_rate or 0.0))


def proposed(least_lift: float | None) -> Proposal:
    """A pattern that is always failed, one that never is, and the control."""
    order = [weakness("hard", 4, family="two"), weakness("easy", 4, family="address"), explore(12)]
    play, _ = reference()
    solvability = Solvability(trials=4, band=(0, 4))
    return propose(order, generating(PlainTasks(scenes())), bench(), SEED, solvability, play, least_lift)


def test_a_pattern_without_the_least_lift_loses_all_of_its_tasks_and_no_other_does() -> None:
    free, strict = proposed(None), proposed(1.2)
    assert {task.origin.pattern for task in free.tasks} == {"hard", "easy", None}
    assert strict.tasks == tuple(task for task in free.tasks if task.origin.pattern != "easy")
    assert strict.tally.rejected == {"lift:no_lift": 4}
    assert {verdict.detail for verdict in strict.dropped} == {"lift 0.00, wanted 1.2"}
    assert strict.tally.check().requested == free.tally.requested
    assert strict.lift == free.lift, "what was measured is told all the same"
    assert strict.probes == free.probes


def test_the_least_lift_is_met_by_what_reaches_it() -> None:
    reached = proposed(None).lift.patterns["hard"].lift
    assert reached is not None
    assert "hard" in {task.origin.pattern for task in proposed(reached).tasks}
    assert "hard" not in {task.origin.pattern for task in proposed(reached + 0.01).tasks}


def test_an_unknown_lift_costs_nobody_its_quota() -> None:
    order = [weakness("p1", 3, family="return")]
    play, _ = reference()
    solvability = Solvability(trials=4, band=(0, 4))
    made = propose(order, generating(PlainTasks(scenes())), bench(), SEED, solvability, play, least_lift=5.0)
    assert made.lift.patterns["p1"].lift is None
    assert made.tally.kept == 3


def test_what_the_policy_never_solves_is_parked_if_it_was_made_for_a_pattern() -> None:
    order = [weakness("hard", 4, family="two"), weakness("some", 4, family="return"), explore(12)]
    play, _ = reference()
    made = propose(order, generating(PlainTasks(scenes())), bench(), SEED, Solvability(trials=4, band=(1, 3)), play)
    assert [task.origin.pattern for task in made.parked] == ["hard"] * 4
    never = {verdict.candidate for verdict in made.dropped if verdict.reason == "never_solved"}
    assert never > {task.id for task in made.parked}, "explore tasks that are never solved are only dropped"
    counts = {probe.task: (probe.successes, probe.trials) for probe in made.probes}
    assert len(counts) == 20
    assert {counts[task.id] for task in made.parked} == {(0, 4)}
    assert {counts[task.id] for task in made.tasks} == {(2, 4)}


def test_lift_is_unknown_without_a_control_or_without_failures_in_it() -> None:
    task = propose([weakness("p1", 1, family="return")], generating(PlainTasks(scenes())), bench(), SEED).tasks[0]
    control = propose([explore(1)], generating(PlainTasks(scenes())), bench(), SEED).tasks[0]
    assert lift([task], {task.id: Probe(1, 3, {})}).patterns["p1"].lift is None
    probes = {task.id: Probe(1, 3, {}), control.id: Probe(4, 0, {})}
    assert lift([task, control], probes).patterns["p1"].lift is None
    assert lift([task, control], probes).patterns["p1"].control_failure_rate == 0.0


ORDERED = Constraints(tools=("cancel_pending_order",), knobs={"withheld": "reason"})
PATTERN = Pattern(
    id="p1",
    category=LabelKind.wrong_argument,
    description="guesses the reason",
    tools=("cancel_pending_order",),
    arguments=("reason",),
    condition={"withheld": "reason"},
    support=3,
    contrast=Contrast(failures=3, episodes=4, failures_elsewhere=0, episodes_elsewhere=20),
    evidence=(Evidence(trajectory="general-0012#3", turn=2),),
    status=PatternStatus.new,
    priority=1.0,
)
DIRECTIVE = Directive(
    iteration=1,
    quotas=(Quota(pattern="p1", tasks=6, constraints=ORDERED, instruction="Withhold the reason."),),
    explore=2,
)


def arm(targeting: str, tasks: int = 70, directive: Directive = DIRECTIVE, seed: int = 0) -> list[Target]:
    settings = Proposer.model_validate({"targeting": targeting, "tasks": tasks, "explore_share": 0.2})
    names = [condition.condition for condition in conditions()]
    return targets(settings, directive, [PATTERN], names, generator("arm", seed))


def test_arms_differ_in_their_targets_only() -> None:
    aimed = Target("p1", 6, {"withheld": "reason"}, ("general-0012",), ("cancel_pending_order",))
    assert arm("patterns") == [aimed, explore(2)]
    assert arm("none") == [explore(70)]
    *conditions_, rest = arm("uniform")
    assert rest == explore(14)
    assert sum(target.tasks for target in conditions_) == 56
    assert {target.tasks for target in conditions_} == {1, 2}
    assert {target.pattern for target in conditions_} == {condition.condition for condition in conditions()}


def test_a_shuffled_directive_keeps_its_sizes_and_loses_its_aim() -> None:
    sizes = (9, 5, 3)
    quotas = tuple(Quota(pattern=f"p{n}", tasks=n, constraints=ORDERED, instruction="") for n in sizes)
    directive = Directive(iteration=1, quotas=quotas, explore=4)
    every = [arm("shuffled", directive=directive, seed=seed) for seed in range(40)]
    assert every[0] == arm("shuffled", directive=directive, seed=0)
    names = {condition.condition for condition in conditions()}
    for *aimed, rest in every:
        assert rest == explore(4)
        assert sum(target.tasks for target in aimed) == sum(sizes)
        assert all(target.constraints == {"condition": target.pattern} and not target.tools for target in aimed)
        assert {target.pattern for target in aimed} <= names
    assert len({target.pattern for one in every for target in one}) > 20, "the pattern decides nothing any more"
    assert [target.tasks for target in every[0]] == [9, 5, 3, 4]


def test_tau2_tasks_are_about_people_that_the_benchmark_does_not_know() -> None:
    free = shared_scenes(World.tau2(), benchmark_users())
    held_out = manifest(benchmark_tasks("tau2-base"), World.tau2(), entities=True)
    proposal = propose(arm("uniform", 40), generating(PlainTasks(free)), Bench(World.tau2(), held_out), SEED)
    assert proposal.tally.kept >= 36
    assert not [reason for reason in proposal.tally.rejected if reason.startswith("leakage")]


def experiment(root: Path, **proposer: object) -> Experiment:
    shipped = load(root / "experiments" / "retail-cpu.yaml").experiment
    changed = Proposer.model_validate({"tasks": 8, **proposer})
    return shipped.model_copy(update={"spec": shipped.spec.model_copy(update={"proposer": changed})})


def stage_context(root: Path, folder: Path, **proposer: object) -> Context:
    """A run's folders as the stages before would have left them, one iteration in."""
    tasks, control, output = folder / "tasks", folder / "control", folder / "propose"
    write_json(tasks / "world.json", {"users": {}, "orders": {}, "products": {}})
    write_json(tasks / "manifest.json", manifest([], world(), entities=False))
    general = propose([explore(5)], generating(PlainTasks(scenes())), bench(), (0, "seed", 0)).tasks
    write_jsonl(tasks / "general.jsonl", general)
    write_json(control / "directive.json", DIRECTIVE)
    write_jsonl(control / "patterns.jsonl", [PATTERN])
    output.mkdir(exist_ok=True)
    inputs = {
        "control": control,
        "pool": tasks / "general.jsonl",
        "policy": folder / "policy",
        "tasks": tasks,
    }
    spec = experiment(root, **proposer).spec
    progress = Progress("propose 01")
    return Context("e-propose-01", "propose", 1, spec, inputs, output, folder / "state", ProfileSpec(), progress)


def test_the_stage_writes_tasks_verdicts_yield_and_lift(root: Path, tmp_path: Path) -> None:
    from sentinel.stages.propose import run

    context = stage_context(root, tmp_path)
    run(context)
    tasks, dropped = (
        read_jsonl(context.output / "tasks.jsonl", Task),
        read_jsonl(context.output / "rejected.jsonl", Verdict, may_be_empty=True),
    )
    tally = read_json(context.output / "yield.json", Tally)
    assert (tally.kept, tally.requested) == (len(tasks), len(tasks) + len(dropped))
    assert [task.origin.parent for task in tasks if task.origin.pattern == "p1"] == ["general-0012"] * 6
    assert read_json(context.output / "lift.json", Lift) == Lift()
    first = {path.name: path.read_bytes() for path in context.output.iterdir()}
    run(stage_context(root, tmp_path))
    assert {path.name: path.read_bytes() for path in context.output.iterdir()} == first


def test_the_stage_probes_with_the_policy_and_parks_what_it_never_solves(root: Path, tmp_path: Path) -> None:
    from sentinel.llm.policy import new_policy, save_policy
    from sentinel.spec.models import TinyPolicy
    from sentinel.stages.propose import run

    gates = {"solvability": {"trials": 2, "band": (1, 1)}, "least_lift": 0.9}
    context = stage_context(root, tmp_path, gates=gates)
    tiny = TinyPolicy(type="tiny", layers=1, hidden=32, heads=2, feed_forward=32, max_context=320)
    save_policy(context.inputs["policy"], new_policy(tiny, arena().tokenizer, seed=0))
    run(context)
    tally = read_json(context.output / "yield.json", Tally)
    assert tally.kept == 0
    assert tally.rejected["solvability:never_solved"] == 8
    parked = read_jsonl(context.output / "parked.jsonl", Task)
    probes = read_jsonl(context.output / "probes.jsonl", Probed)
    assert [task.origin.pattern for task in parked] == ["p1"] * 6
    assert {(probe.successes, probe.trials) for probe in probes} == {(0, 2)}
    assert {probe.task for probe in probes} > {task.id for task in parked}
    assert read_json(context.output / "lift.json", Lift).patterns["p1"].failure_rate == 1.0


def test_without_probing_torch_is_not_imported() -> None:
    code = "import sys, sentinel.stages.propose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
