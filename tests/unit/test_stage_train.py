"""What the train stage's curriculum knows: pool, resting and new tasks, diagnosis, probes, and the iteration before."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.artifacts import write_json, write_jsonl
from sentinel.curriculum import Curriculum, Memory, Standing
from sentinel.descent import Probed
from sentinel.records import OriginKind, Tally
from sentinel.spec.models import Curriculum as Settings
from sentinel.spec.profile import ProfileSpec
from sentinel.stages.context import Context
from sentinel.stages.progress import Progress
from sentinel.stages.rollout import Rates
from sentinel.stages.train import _curriculum
from tests.unit.evaluation_toys import SPEC
from tests.unit.solver_toys import task

GENERAL = [task(f"g{n}", condition="plain") for n in range(20)]
OLD = task("01-p-000", OriginKind.targeted, "hard")
NEW, UNSOLVED = (task(f"02-p-{n:03d}", OriginKind.targeted, "hard") for n in range(2))
EXPLORED = task("02-explore-000", condition="plain")


def artifacts(folder: Path) -> dict[str, Path]:
    """What the stages before have left: two of four solved in the diagnosis, and one candidate never."""
    write_jsonl(folder / "pool.jsonl", GENERAL)
    counted = Tally(requested=8, kept=8)
    write_json(folder / "rates.json", Rates(tally=counted, success_rate=0.5, tasks={"g0": (4, 4), "g1": (4, 4)}))
    write_jsonl(folder / "propose/tasks.jsonl", [NEW, EXPLORED])
    write_jsonl(folder / "propose/parked.jsonl", [UNSOLVED])
    tried = [(NEW, 2), (UNSOLVED, 0), (EXPLORED, 4)]
    probes = [Probed(task=each.id, condition=str(each.knobs["condition"]), successes=n, trials=4) for each, n in tried]
    write_jsonl(folder / "propose/probes.jsonl", probes)
    return {"pool": folder / "pool.jsonl", "rates": folder / "rates.json", "propose": folder / "propose"}


def context(folder: Path, inputs: dict[str, Path], settings: Settings | None = None) -> Context:
    spec = SPEC.model_copy(update={"curriculum": settings or Settings()})
    return Context("toy-train", "train", 2, spec, inputs, folder, folder, ProfileSpec(), Progress("train"))


def retired(folder: Path) -> dict[str, Path]:
    """The end of an iteration that solved its one targeted task."""
    before = Curriculum(GENERAL, [OLD], Settings(retire_above=0.9))
    for _ in range(8):
        before.observe(OLD, 8, 8)
    write_jsonl(folder / "resting.jsonl", before.resting())
    write_json(folder / "memory.json", before.memory())
    return {"resting": folder / "resting.jsonl", "memory": folder / "memory.json"}


def test_the_first_iteration_knows_the_diagnosis_and_the_probes(tmp_path: Path) -> None:
    curriculum = _curriculum(context(tmp_path, artifacts(tmp_path)))
    assert {each.id for each in curriculum.pool()} == {*(each.id for each in GENERAL), EXPLORED.id, NEW.id}
    assert curriculum.resting() == [UNSOLVED]
    assert curriculum.standing(UNSOLVED) is Standing.parked
    assert curriculum.rate(GENERAL[5]) == pytest.approx((12 + 4) / (12 + 8), abs=0.02), "12 of 12 plain ones solved"
    assert curriculum.rate(NEW) < 0.5


def test_later_ones_remember_what_rests(tmp_path: Path) -> None:
    inputs = artifacts(tmp_path) | retired(tmp_path)
    curriculum = _curriculum(context(tmp_path, inputs, Settings(retire_above=0.9)))
    assert {each.id for each in curriculum.resting()} == {OLD.id, UNSOLVED.id}
    assert curriculum.memory().tasks[OLD.id].groups == 8
    assert curriculum.rate(NEW) > 0.6, "its condition is nearly solved, whatever its own probes say"
    forgetful = _curriculum(context(tmp_path, {**inputs, "memory": _forgotten(tmp_path)}))
    assert forgetful.standing(OLD) is Standing.living


def _forgotten(folder: Path) -> Path:
    write_json(folder / "forgotten.json", Memory())
    return folder / "forgotten.json"


def test_a_task_made_twice_is_refused(tmp_path: Path) -> None:
    inputs = artifacts(tmp_path)
    write_jsonl(tmp_path / "pool.jsonl", [*GENERAL, NEW])
    with pytest.raises(ValueError, match="already: 02-p-000"):
        _curriculum(context(tmp_path, inputs))


def test_tasks_beyond_the_cap_wait_their_turn(tmp_path: Path) -> None:
    settings = Settings(injection_cap=0.05)
    curriculum = _curriculum(context(tmp_path, artifacts(tmp_path), settings))
    assert [curriculum.standing(each) for each in (NEW, UNSOLVED)] == [Standing.living, Standing.waiting]
    assert curriculum.memory().waiting == (UNSOLVED.id,)
