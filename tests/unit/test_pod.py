"""The pod's side without DVC: batons, parameters, the configuration, and what the UI is shown."""

from __future__ import annotations

import json
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from sentinel.errors import StageError
from sentinel.plan import plan
from sentinel.pod.baton import Baton, merge, pointers
from sentinel.pod.finish import complete, stages_table
from sentinel.pod.folder import Place, keep_unsent, lay_out
from sentinel.pod.main import begin
from sentinel.pod.parameters import from_text, require_unedited, to_text
from sentinel.pod.report import ABSENT, summary
from sentinel.spec.load import load

ENTRY: dict[str, Any] = {
    "cmd": "sentinel stage seed --run runs/bases/b",
    "outs": [{"path": "runs/bases/b/tasks", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 5, "nfiles": 2}],
}
FILES = {"dvc.yaml": "stages: {b-seed: {cmd: x}, b-warmup: {cmd: y}}\n", "experiments/e.yaml": "a: 1\n"}


def baton(**changes: Any) -> Baton:
    return Baton(**{"spec": "experiments/e.yaml", "files": FILES, "code": False, "parameters": {}, **changes})


def test_batons_of_one_experiment_merge_and_those_of_two_versions_do_not() -> None:
    one, other = baton().with_stage("b-seed", ENTRY), baton().with_stage("b-warmup", ENTRY)
    assert merge([one, other]).stages.keys() == {"b-seed", "b-warmup"}
    with pytest.raises(StageError, match=r"another version of experiments/e\.yaml"):
        merge([one, baton(files={**FILES, "experiments/e.yaml": "a: 2\n"})])
    elsewhere = baton(files={**FILES, "experiments/profiles/gpu.yaml": "x"}).with_stage("b-warmup", ENTRY)
    assert merge([one, elsewhere]).files == FILES, "the place may change"


def test_a_pointer_names_the_object_and_its_size() -> None:
    assert [tuple(pointer) for pointer in pointers(ENTRY)] == [("runs/bases/b/tasks", "0" * 32 + ".dir", 5)]


def test_a_stage_is_found_in_its_file() -> None:
    assert baton().dvc_file("b-warmup") == "dvc.yaml"
    with pytest.raises(StageError, match="b-report: no compiled DVC file"):
        baton().dvc_file("b-report")


def test_the_folder_holds_files_locks_and_configuration_but_no_data(tmp_path: Path) -> None:
    state = tmp_path / "volume"
    place = Place("s3://bucket/cas", "http://s3.invalid:9000", "", str(state))
    folder = tmp_path / "work"
    lay_out(baton().with_stage("b-seed", ENTRY), folder, place)
    assert (folder / "experiments/e.yaml").read_text() == "a: 1\n"
    assert YAML(typ="safe", pure=True).load(folder / "dvc.lock") == {"schema": "2.0", "stages": {"b-seed": ENTRY}}
    parsed = ConfigParser()
    parsed.read(folder / ".dvc" / "config")
    assert dict(parsed["'remote \"bus\"'"]) == {"url": "s3://bucket/cas", "endpointurl": "http://s3.invalid:9000"}
    assert parsed["core"]["no_scm"] == "true"
    assert (folder / ".sentinel").resolve() == state.resolve()
    assert not (folder / "runs").exists()


def test_a_container_without_a_bucket_says_what_is_missing() -> None:
    with pytest.raises(StageError, match="SENTINEL_REMOTE is not set"):
        Place.read({})


def test_parameters_survive_the_text() -> None:
    parameters = {"trainer_clip": "[0.2, 0.28]", "experiment": "a=b", "continues": "-"}
    assert from_text(to_text(parameters)) == parameters
    require_unedited(parameters, to_text(parameters))


def test_an_edited_parameter_is_refused_with_both_values() -> None:
    with pytest.raises(StageError) as caught:
        require_unedited({"seed": "7", "iterations": "3"}, "seed=8\niterations=3")
    assert "seed: submitted '7', found '8'" in str(caught.value)
    assert "iterations: " not in str(caught.value) and "--set key=value" in str(caught.value)


def test_a_placeholder_that_a_backend_left_is_no_edit() -> None:
    require_unedited({"seed": "7"}, "seed={{$.inputs.parameters['pipelinechannel--seed']}}")


def test_an_image_with_other_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = json.dumps(baton(parameters={"code": "0" * 16}).model_dump(mode="json"))
    with pytest.raises(SystemExit) as caught:
        begin("runs/e", "job", project, "", SimpleNamespace(path=str(tmp_path / "out"), metadata={}))
    assert caught.value.code == 1
    assert "this image holds other code" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_summary_has_the_same_names_whatever_was_measured() -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"pass_hat_1": figure}, {"pass_hat_1": {**figure, "value": 0.75}, "pass_hat_2": None}]
    document = {"iterations": rows, "paired_delta": {"pass_hat_1": figure}, "rollouts": 10, "voids": 1}
    found = summary(document)
    assert (found["pass_hat_1_first"], found["pass_hat_1_last"], found["pass_hat_1_gain_low"]) == (0.5, 0.75, 0.4)
    assert (found["pass_hat_2_last"], found["pass_hat_4_gain"]) == (ABSENT, ABSENT)
    wider = {**document, "iterations": [{f"pass_hat_{k}": figure for k in (1, 2, 3, 4)}] * 2}
    assert summary(wider).keys() == found.keys()


def test_what_is_complete_is_counted_from_the_beginning(root: Path) -> None:
    planned = plan(load(root / "experiments" / "retail-cpu.yaml").experiment)
    done = baton()
    assert complete(planned, done) is None
    for stage in planned.base:
        done = done.with_stage(stage.name, ENTRY)
    assert complete(planned, done) == 0
    for stage in planned.own:
        if stage.iteration in (1, 3):
            done = done.with_stage(stage.name, ENTRY)
    assert complete(planned, done) == 1, "iteration 2 is missing"
    assert "14 of 21 stages of retail-cpu are done." in stages_table(planned, done)
    assert "| retail-cpu-report | missing |" in stages_table(planned, done)


def test_missing_credentials_are_said_with_their_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_REMOTE", "s3://bucket/cas")
    monkeypatch.setenv("SENTINEL_SECRETS", "AWS_ACCESS_KEY_ID=s3/accesskey AWS_SECRET_ACCESS_KEY=s3/secretkey")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    with pytest.raises(StageError) as caught:
        Place.here()
    assert "AWS_SECRET_ACCESS_KEY: secret 's3' or its key 'secretkey' is missing" in str(caught.value)
    assert "AWS_ACCESS_KEY_ID:" not in str(caught.value) and "sentinel doctor" in str(caught.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    assert Place.here().remote == "s3://bucket/cas"


def test_what_could_not_be_sent_lies_on_the_volume(tmp_path: Path) -> None:
    place = Place("s3://bucket/cas", "", "", str(tmp_path / "volume"))
    lay_out(baton(), tmp_path / "work", place)
    kept = keep_unsent(tmp_path / "work", "b-seed")
    assert kept == (tmp_path / "volume" / "unsent" / "b-seed").resolve()
    assert (tmp_path / "work" / ".dvc" / "cache").resolve() == kept
    lay_out(baton(), tmp_path / "without", Place("s3://bucket/cas", "", "", ""))
    assert keep_unsent(tmp_path / "without", "b-seed") is None
