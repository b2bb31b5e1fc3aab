"""The propose stage: the directive and the current policy -> new tasks, what was dropped and why, the yield, the lift.

Without a solvability gate no episode is played, and torch is not even imported. There is no journal: the stage takes
seconds on a small policy, and running it again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from sentinel.artifacts import read_json, read_jsonl, write_json, write_jsonl
from sentinel.env.overlay import World
from sentinel.llm.chat import open_chat
from sentinel.llm.structured import Memory
from sentinel.proposer.frontier import Play
from sentinel.proposer.gates import Bench
from sentinel.proposer.leakage import Manifest, signature
from sentinel.proposer.makers import open_maker
from sentinel.proposer.propose import Proposal, Reword, generating, propose, targets
from sentinel.proposer.rewrite import Rewriter
from sentinel.records import Directive, Pattern, Task, Trajectory
from sentinel.rollout.arena import open_world
from sentinel.rollout.episode import Assignment, Played
from sentinel.rollout.players import Players
from sentinel.seeds import generator
from sentinel.stages.context import Context
from sentinel.stages.playing import opened


def run(context: Context) -> None:
    """Make the tasks of one iteration."""
    settings, inputs = context.spec.proposer, context.inputs
    world = open_world(context.spec.environment, inputs["tasks"])
    seed = (context.spec.seed, "propose", context.iteration)
    directive = read_json(inputs["control"] / "directive.json", Directive)
    patterns = read_jsonl(inputs["control"] / "patterns.jsonl", Pattern, may_be_empty=True)
    maker = open_maker(context.spec.environment, world)
    names = [kind.condition for kind in maker.kinds]
    with ExitStack() as stack:
        proposal = propose(
            targets(settings, directive, patterns, names, generator(*seed, "targets")),
            generating(maker),
            _bench(context, world, maker.talking),
            seed,
            settings.gates.solvability,
            _player(context, stack.enter_context(opened(context))) if settings.gates.solvability else None,
            settings.gates.least_lift,
            _rewriter(context, world) if settings.type == "llm" else None,
        )
    _write(context.output, proposal)
    context.progress.say(_summary(proposal))


def _bench(context: Context, world: World, talking: bool) -> Bench:
    """The archive holds the pool, all general tasks, and what rests: what a policy may have trained on."""
    tasks, inputs = context.inputs["tasks"], context.inputs
    rested = read_jsonl(inputs["resting"], Task, may_be_empty=True) if "resting" in inputs else []
    earlier = _unique(read_jsonl(tasks / "general.jsonl", Task), read_jsonl(inputs["pool"], Task), rested)
    archive = {signature(task, world) for task in earlier}
    return Bench(world, read_json(tasks / "manifest.json", Manifest), archive, talking)


def _rewriter(context: Context, world: World) -> Reword:
    """The model that words requests; its answers are kept in the state, so that a killed stage asks none twice."""
    chat = open_chat(context.profile.endpoints, "proposer", model=context.spec.proposer.model or "")
    return Rewriter(chat, world, Memory(context.state / "chat")).reword


def _unique(*pools: Sequence[Task]) -> list[Task]:
    return list({task.id: task for pool in pools for task in pool}.values())


def _player(context: Context, players: Players) -> Play:
    """Plays episodes with the current policy, as the diagnosis does."""
    sampling = context.spec.rollout

    def advance(played: list[Played]) -> None:
        context.progress.advance(len(played))

    def play_all(assignments: Sequence[Assignment]) -> Iterator[Trajectory]:
        context.progress.start(len(assignments), "probing episodes")
        played = players.play(assignments, sampling, chunk=sampling.chunk, on_chunk=advance)
        yield from (episode.trajectory for episode in played)

    return play_all


def _write(output: Path, proposal: Proposal) -> None:
    write_jsonl(output / "tasks.jsonl", proposal.tasks)
    write_jsonl(output / "parked.jsonl", proposal.parked)
    write_jsonl(output / "probes.jsonl", proposal.probes)
    write_jsonl(output / "rejected.jsonl", proposal.dropped)
    write_json(output / "yield.json", proposal.tally)
    write_json(output / "lift.json", proposal.lift)


def _summary(proposal: Proposal) -> str:
    tally = proposal.tally
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted({**tally.rejected, **tally.void}.items()))
    found = proposal.lift.together
    lift = f"; lift {found.lift:.2f} {list(found.interval)}" if found and found.lift and found.interval else ""
    return f"{tally.kept} of {tally.requested} candidates kept" + (f"; dropped: {reasons}" if reasons else "") + lift
