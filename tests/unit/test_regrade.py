"""Scoring stored episodes again: a real result file, its spoilt variants, our own trajectories, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest

from sentinel.artifacts import write_jsonl
from sentinel.cli import main
from sentinel.env.task_sets import task_set
from sentinel.env.tau2 import benchmark_tasks
from sentinel.errors import ArtifactError
from sentinel.evaluation.regrade import Regraded, regrade
from sentinel.records import Json, Outcome, Reward, Trajectory, VoidReason
from tests.unit.controller_cases import DONE, expert, made, play, voided, writes

FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "tau2-retail-toolorchestra.json"
real = pytest.mark.skipif(not FILE.exists(), reason="the shared trajectories are not on this machine")


@cache
def original() -> Json:
    return json.loads(FILE.read_text(encoding="utf-8"))


def excerpt(count: int = 3) -> Json:
    """The first simulations, to be spoilt."""
    return deepcopy({"info": original()["info"], "simulations": original()["simulations"][:count]})


def written(folder: Path, document: Json) -> Path:
    path = folder / "results.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


@real
def test_the_real_file_keeps_every_reward() -> None:
    result = regrade(FILE)
    assert (result.agreement, result.agreeing, result.scored, result.success) == (1.0, 114, 114, 96)
    assert result.differing_answers == 0
    assert result.task_set == task_set(benchmark_tasks("tau2-base"))
    assert "tau2 0.2" in result.summary() and "DB+COMMUNICATE" in result.summary()


@real
@pytest.mark.parametrize("spoil", [lambda s: s.pop("task_id"), lambda s: s.update(task_id=s["_orig_task_id"])])
def test_tasks_are_found_by_their_gold_actions(spoil: Callable[[Json], None], tmp_path: Path) -> None:
    document = deepcopy(original())
    for simulation in document["simulations"]:
        spoil(simulation)
    result = regrade(written(tmp_path, document))
    assert (result.agreement, result.unknown) == (1.0, 0)
    assert result.recovered >= 113
    twins = {"24", "57", "41", "42", "71", "72", "83", "84", "96", "97"}
    known = {s["id"]: s["task_id"] for s in original()["simulations"] if s["task_id"] not in twins}
    found = dict(zip((s["id"] for s in original()["simulations"]), result.graded, strict=True))
    assert {place: found[place].task for place in known} == known
    assert len({entry.task for entry in result.graded}) == 114


@real
def test_a_twin_is_told_apart_by_what_had_to_be_said() -> None:
    graded = regrade(FILE).graded[14]
    assert (graded.given, graded.task) == ("57", "24"), "task 24 has the same (empty) gold answer, but wants words"


@real
def test_tasks_of_another_set_are_reported_and_not_scored(tmp_path: Path) -> None:
    document = excerpt()
    document["simulations"][1]["reward_info"]["action_checks"][0]["action"]["arguments"] = {"order_id": "#X"}
    result = regrade(written(tmp_path, document))
    assert (result.episodes, result.scored, result.unknown, result.compared) == (3, 2, 1, 2)
    assert "simulations[1]: unknown task" in result.summary()


@real
def test_what_was_cut_off_scores_nothing_and_what_broke_is_void(tmp_path: Path) -> None:
    document = excerpt()
    for simulation, reason in zip(
        document["simulations"], ("max_steps", "infrastructure_error", "user_error"), strict=True
    ):
        simulation["termination_reason"] = reason
    result = regrade(written(tmp_path, document))
    assert [entry.reward for entry in result.graded] == [0.0, None, None]
    assert result.void == {"infrastructure": 1, "user_simulator": 1}
    assert result.scored + sum(result.void.values()) + result.unknown == result.episodes


@real
def test_a_wrong_stored_reward_and_a_foreign_answer_show(tmp_path: Path) -> None:
    document = excerpt()
    document["simulations"][0]["reward_info"]["reward"] = 1.0 - document["simulations"][0]["reward_info"]["reward"]
    answer = next(m for m in document["simulations"][1]["messages"] if m["role"] == "tool")
    answer["content"] = "somebody_else_1"
    result = regrade(written(tmp_path, document))
    assert result.agreement == pytest.approx(2 / 3)
    assert [entry.differing_answers for entry in result.graded] == [0, 1, 0]


def own_trajectories() -> dict[str, Trajectory]:
    task = made("cancel/plain")
    return {
        "success": play(task, expert(task)),
        "failure": play(task, [move for move in expert(task) if move not in writes(task)]),
        "void": voided(play(task, [DONE]), VoidReason.infrastructure),
    }


def test_our_own_trajectories(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    write_jsonl(path, own_trajectories().values())
    result = regrade(path)
    assert [entry.reward for entry in result.graded] == [1.0, 0.0, None]
    assert (result.agreement, result.compared, result.void) == (1.0, 2, {"infrastructure": 1})
    assert (result.task_set.name, result.task_set.reward_basis) == ("synthetic", ("DB", "COMMUNICATE", "AVOID"))


def test_a_falsified_trajectory_shows_and_ends_with_one(tmp_path: Path) -> None:
    failed = own_trajectories()["failure"]
    lie = failed.model_copy(update={"reward": Reward(db=1.0, communicate=1.0), "outcome": Outcome.success})
    path = tmp_path / "trajectories.jsonl"
    write_jsonl(path, [lie])
    assert regrade(path).agreement == 0.0
    with pytest.raises(SystemExit) as done:
        main(["regrade", str(path)])
    assert done.value.code == 1


def first_message(document: Json) -> Json:
    return document["simulations"][1]["messages"][0]


def first_call(document: Json) -> Json:
    return next(m for m in document["simulations"][0]["messages"] if m["tool_calls"])["tool_calls"][0]


def after_last_call(document: Json) -> int:
    messages = document["simulations"][0]["messages"]
    return max(n for n, message in enumerate(messages) if message.get("tool_calls")) + 1


@real
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: d.pop("simulations"), "no `simulations`"),
        (lambda d: d["simulations"].clear(), "simulations: List should have at least 1 item"),
        (lambda d: d["simulations"][2].pop("messages"), r"simulations\[2\].messages: Field required"),
        (lambda d: first_call(d).update(arguments="{}"), r"tool_calls\[0\].arguments: .* dictionary"),
        (lambda d: first_message(d).update(content="\ud800"), "half a surrogate pair"),
        (lambda d: first_call(d).update(arguments={"a": float("nan")}), "NaN or Infinity"),
        (lambda d: d["info"]["environment_info"].update(domain_name="airline"), "domain is 'airline'"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(spoil: Callable[[Json], None], complaint: str, tmp_path: Path) -> None:
    document = excerpt()
    spoil(document)
    with pytest.raises(ArtifactError, match=complaint):
        regrade(written(tmp_path, document))


@real
@pytest.mark.parametrize(
    ("spoil", "flaw"),
    [
        (lambda d: d["simulations"][0]["messages"].clear(), "no messages: the sample was skipped"),
        (lambda d: first_message(d).update(content="x" * 20_000_001), "20,000,001 characters; at most 20,000,000"),
        (lambda d: first_call(d).update(arguments={"a": "x" * 20_000_000}), "characters; at most 20,000,000"),
        (lambda d: d["simulations"][0]["messages"].__delitem__(slice(after_last_call(d), None)), "truncated"),
        (lambda d: d["simulations"][0]["messages"].__delitem__(slice(after_last_call(d) + 1, None)), "truncated"),
        (lambda d: d["simulations"][0]["messages"].__delitem__(after_last_call(d)), "truncated"),
    ],
)
def test_a_record_that_is_not_whole_is_void_and_the_rest_is_scored(
    spoil: Callable[[Json], None], flaw: str, tmp_path: Path
) -> None:
    document = excerpt()
    spoil(document)
    result = regrade(written(tmp_path, document))
    assert result.void == {"infrastructure": 1} and result.scored == result.episodes - 1
    (broken,) = [entry for entry in result.graded if entry.flaw]
    assert flaw in broken.flaw and f"{broken.place}: void: {broken.flaw}" in result.summary()


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[" * 100_000, '{"simulations": [{"task_id"', "[]", "7", "null", '{"simulations": null}', "\0"],
)
def test_what_is_no_result_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        regrade(written(tmp_path, text))


def test_bytes_folders_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)))
    for path in (tmp_path / "weights", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError):
            regrade(path)


def test_a_corrupt_trajectory_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    write_jsonl(path, own_trajectories().values())
    path.write_text(path.read_text()[:-50])
    with pytest.raises(ArtifactError, match=r"trajectories\.jsonl:3"):
        regrade(path)


@real
def test_a_reward_that_is_no_number_is_none(tmp_path: Path) -> None:
    document = excerpt()
    document["simulations"][0]["reward_info"]["reward"] = "NaN"
    result = regrade(written(tmp_path, document))
    assert result.graded[0].stored is None and result.compared == result.scored - 1
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


def test_a_reward_of_ours_that_is_no_number_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    write_jsonl(path, own_trajectories().values())
    path.write_text(path.read_text().replace('"db":1.0', '"db":NaN'))
    with pytest.raises(ArtifactError, match=r"trajectories\.jsonl:\d: not a valid Trajectory: reward.db"):
        regrade(path)


def test_the_verb_prints_one_document_and_exits_with_two_on_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trajectories.jsonl"
    write_jsonl(path, own_trajectories().values())
    with pytest.raises(SystemExit) as done:
        main(["regrade", str(path), "--json"])
    assert done.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document.pop("seconds") >= 0
    assert Regraded.model_validate(document) == regrade(path)
    with pytest.raises(SystemExit) as refused:
        main(["regrade", str(tmp_path / "nowhere")])
    assert refused.value.code == 2
