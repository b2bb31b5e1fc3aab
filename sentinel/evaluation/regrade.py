"""Scoring stored episodes again, without inference: tau2's own result files, and our `trajectories.jsonl`.

    result = regrade(Path("results.json"))
    result.agreement            # share of the stored rewards that we reproduce

Every call of the agent is replayed in a fresh private world, and the end state compared with the gold answer's. An
answer that differs from the stored one is counted: the file was played in another version of the world. It does not
replace a judge: a reward that rests on more than the database and what was communicated is scored without the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sentinel.env.overlay import World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.stored import differs, find_world, read_episodes
from sentinel.env.task_sets import basis, task_set
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.tau2_results import Observed, Stored, read_results
from sentinel.records import Outcome, Part, Record, Role, Task, TaskSet, Trajectory


class Graded(Part):
    """One episode, scored again."""

    place: str
    """Where it stands in the file."""
    task: str | None
    """The task that it played; `None` if this task set does not have it."""
    given: str | None
    """The task id that the file gives, which may be wrong or missing."""
    trial: int
    reward: float | None
    """Ours; `None` for void episodes and unknown tasks."""
    stored: float | None
    void: str | None = None
    flaw: str = ""
    """In what its record is not whole; then it is void."""
    differing_answers: int = 0
    """Calls that our world answers otherwise than was observed."""


class Regraded(Record):
    """A file, scored again: scored + void + unknown = episodes."""

    task_set: TaskSet
    """Which tasks were scored, and what our reward is made of."""
    stored_basis: dict[str, int]
    """What the stored rewards are made of, as far as the file says."""
    episodes: int
    scored: int
    void: dict[str, int]
    unknown: int
    """Episodes of tasks that this task set does not have."""
    recovered: int
    """Episodes whose task id was wrong or missing."""
    success: int
    success_rate: float | None
    """Over the scored episodes."""
    compared: int
    """Scored episodes with a stored reward."""
    agreeing: int
    agreement: float | None
    differing_answers: int
    graded: tuple[Graded, ...]

    def summary(self) -> str:
        """The figures in words, and what is worth a look."""
        void = ", ".join(f"{count} void ({reason})" for reason, count in self.void.items()) or "0 void"
        rate = "no success rate" if self.success_rate is None else f"success rate {self.success_rate:.4f}"
        agreement = "no stored rewards to compare with"
        if self.agreement is not None:
            agreement = f"agrees with {self.agreeing} of {self.compared} stored rewards ({self.agreement:.4f})"
        lines = [
            self.task_set.label,
            f"{self.episodes} episodes: {self.scored} scored, {void}, {self.unknown} of unknown tasks",
            f"{self.success} successes, {rate}; {agreement}",
            f"{self.recovered} wrong or missing task ids recovered; {self.differing_answers} answers differ",
        ]
        return "\n".join([*lines, *_remarks(self.graded)])


def _remarks(graded: Iterable[Graded]) -> Iterator[str]:
    for entry in graded:
        if entry.flaw:
            yield f"{entry.place}: void: {entry.flaw}"
        elif entry.task is None:
            yield f"{entry.place}: unknown task (the file says {entry.given or 'nothing'})"
        elif entry.reward is not None and entry.stored is not None and entry.reward != entry.stored:
            yield f"{entry.place}: task {entry.task}: stored {entry.stored}, ours {entry.reward}"


def regrade(path: Path) -> Regraded:
    """Score every episode of a result file again.

    Raises:
        ArtifactError: the file is no result file, or not a whole one; names the place in it.
    """
    document, trajectories = read_episodes(path)
    if document is None:
        world = find_world(path, {trajectory.task.world for trajectory in trajectories})
        stored = [_own(f"line {line}", trajectory) for line, trajectory in enumerate(trajectories, 1)]
        return _regraded(
            [trajectory.task for trajectory in trajectories], stored, [_grade(entry, world) for entry in stored]
        )
    stored = read_results(path, document, tasks := benchmark_tasks("tau2-base"))
    return _regraded(tasks, stored, [_grade(entry, World.tau2()) for entry in stored])


def _own(place: str, trajectory: Trajectory) -> Stored:
    agent = [message for message in trajectory.messages if message.role is Role.assistant]
    return Stored(
        place=place,
        task=trajectory.task,
        given=trajectory.task.id,
        trial=trajectory.trial,
        calls=tuple(Observed(call, None) for message in agent for call in message.tool_calls),
        texts=tuple(message.content for message in agent if not message.tool_calls),
        messages=trajectory.messages,
        ending=trajectory.ending,
        void=trajectory.void_reason if trajectory.outcome is Outcome.void else None,
        reward=trajectory.reward.total if trajectory.reward else None,
        basis="+".join(basis([trajectory.task])),
    )


def _grade(stored: Stored, world: World) -> Graded:
    known = Graded(
        place=stored.place,
        task=stored.task.id if stored.task else None,
        given=stored.given,
        trial=stored.trial,
        reward=None,
        stored=stored.reward,
        void=stored.void,
        flaw=stored.flaw,
    )
    if stored.task is None or stored.void:
        return known
    if not stored.ended:
        return known.model_copy(update={"reward": 0.0})
    session = world.open(stored.task.records)
    differing = sum([differs(session.call(call).text, answer) for call, answer in stored.calls])
    reward = score(stored.task, session.delta(), gold_delta(world, stored.task), stored.texts).total
    return known.model_copy(update={"reward": reward, "differing_answers": differing})


def _regraded(tasks: Sequence[Task], stored: list[Stored], graded: list[Graded]) -> Regraded:
    known = [entry for entry in graded if entry.task is not None]
    scored = [entry for entry in known if entry.reward is not None]
    compared = [entry for entry in scored if entry.stored is not None]
    agreeing = sum(entry.reward == entry.stored for entry in compared)
    success = sum(entry.reward == 1.0 for entry in scored)
    return Regraded(
        task_set=task_set(tasks),
        stored_basis=dict(Counter(entry.basis for entry in stored if entry.basis)),
        episodes=len(graded),
        scored=len(scored),
        void=dict(Counter(entry.void for entry in known if entry.void)),
        unknown=len(graded) - len(known),
        recovered=sum(entry.task != entry.given for entry in known),
        success=success,
        success_rate=success / len(scored) if scored else None,
        compared=len(compared),
        agreeing=agreeing,
        agreement=agreeing / len(compared) if compared else None,
        differing_answers=sum(entry.differing_answers for entry in graded),
        graded=tuple(graded),
    )
