"""The rollout stage: which tasks it plays, that every episode is counted, and that equal inputs give equal bytes."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest

from sentinel.artifacts import read_json, read_jsonl, write_jsonl
from sentinel.errors import ArtifactError
from sentinel.llm.model_folder import policy_hash
from sentinel.records import Outcome, Task, Trajectory, VoidReason
from sentinel.rollout.episode import Played
from sentinel.stages import rollout
from sentinel.stages.context import Context
from sentinel.stages.playing import Pace
from sentinel.stages.progress import Progress
from sentinel.stages.rollout import Rates, rates
from tests.unit.builders import contents, copy_base, small, stage_context, untrained_base


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a base, whose first rollout has run."""
    folder = untrained_base(root, tmp_path_factory.mktemp("rollout"))
    rollout.run(context(root, folder))
    return folder


def context(root: Path, project: Path, iteration: int = 1, **changes: object) -> Context:
    return stage_context(small(root, rollout=changes), "rollout", project, iteration)


def played(where: Context) -> list[Trajectory]:
    return read_jsonl(where.output / "trajectories.jsonl", Trajectory)


def test_every_chosen_task_is_played_as_often_as_asked(project: Path, root: Path) -> None:
    here = context(root, project)
    pool = read_jsonl(here.inputs["pool"], Task)
    trajectories = played(here)
    times = Counter(trajectory.task.id for trajectory in trajectories)
    assert len(times) == 12
    assert set(times.values()) == {2}
    assert [task.id for task in pool if task.id in times] == list(times), "in the order of the pool"
    assert {t.policy for t in trajectories} == {policy_hash(here.inputs["policy"])}
    assert [(t.chunk, t.row) for t in trajectories] == [(n // 16, n % 16) for n in range(24)]
    assert len({t.seed for t in trajectories}) == 24


def test_the_rates_count_every_episode(project: Path, root: Path) -> None:
    here = context(root, project)
    found, trajectories = read_json(here.output / "rates.json", Rates), played(here)
    assert found == rates(trajectories)
    assert (found.tally.requested, found.tally.kept) == (24, 24)
    assert sum(episodes for _, episodes in found.tasks.values()) == 24
    assert found.success_rate == sum(t.outcome is Outcome.success for t in trajectories) / 24


def test_void_episodes_are_in_the_tally_and_in_no_rate(project: Path, root: Path) -> None:
    trajectories = played(context(root, project))
    lost = {"outcome": Outcome.void, "void_reason": VoidReason.infrastructure, "reward": None}
    mixed = [t.model_copy(update=lost) if n in (0, 1, 5) else t for n, t in enumerate(trajectories)]
    found = rates(mixed)
    assert found.tally.void == {"infrastructure": 3}
    assert found.tally.kept == 21
    assert trajectories[0].task.id not in found.tasks, "both of its episodes are void"
    assert rates(mixed[:2]).success_rate is None
    won = [t.model_copy(update={"outcome": Outcome.success}) for t in mixed[2:4]]
    assert rates([*mixed[:2], *won]).success_rate == 1.0


def test_the_rate_beside_the_progress_is_the_one_so_far(project: Path, root: Path) -> None:
    first, *_ = played(context(root, project))
    won, lost = (Played(first.model_copy(update={"outcome": o}), ()) for o in (Outcome.success, Outcome.failure))
    void = Played(first.model_copy(update={"outcome": Outcome.void}), ())
    told = io.StringIO()
    progress = Progress("rollout", told)
    pace = Pace(progress)
    for chunk in ([void], [won, won, void], [lost, lost]):
        progress.start(len(chunk), "episodes")
        pace.note(chunk)
    rates_told = re.findall(r"success ([-\d.]+), void (\d)", told.getvalue())
    assert rates_told == [("-", "1"), ("1", "2"), ("0.5", "2")]


def test_equal_inputs_give_equal_bytes(project: Path, root: Path, tmp_path: Path) -> None:
    folder = copy_base(project, tmp_path)
    rollout.run(context(root, folder))
    assert contents(context(root, folder).output) == contents(context(root, project).output)


def test_a_small_pool_is_played_whole(project: Path, root: Path, tmp_path: Path) -> None:
    here = context(root, copy_base(project, tmp_path), trials=1, chunk=4)
    pool = read_jsonl(here.inputs["pool"], Task)[:5]
    write_jsonl(here.inputs["pool"], pool)
    rollout.run(here)
    assert [t.task for t in played(here)] == pool
    assert [t.chunk for t in played(here)] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("damage", ["general.jsonl", "world.json"])
def test_damaged_inputs_are_named_and_nothing_is_written(
    damage: str, project: Path, root: Path, tmp_path: Path
) -> None:
    here = context(root, copy_base(project, tmp_path))
    path = here.inputs["tasks"] / damage
    path.write_text(path.read_text(encoding="utf-8") + "\n{oops", encoding="utf-8")
    with pytest.raises(ArtifactError, match=damage):
        rollout.run(here)
    assert contents(here.output) == {}
