"""The compiled DVC files: what they hold, when they have drifted, and what is pruned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sentinel import catalogue, dvcfile
from sentinel.errors import SpecError


def parsed(text: str) -> dict[str, Any]:
    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(text)["stages"]
    return stages


@pytest.fixture
def project(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with one experiment, `arm`, which extends `parent`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments"
    folder.mkdir()
    text = (root / "experiments" / "retail-cpu.yaml").read_text()
    (folder / "parent.yaml").write_text(text.replace("  name: retail-cpu", "  name: parent"))
    write_arm(tmp_path, iterations=2)
    return tmp_path


def write_arm(project: Path, *, iterations: int) -> None:
    spec = {"iterations": iterations}
    document = {"apiVersion": "sentinel.dev/v1alpha1", "kind": "Experiment", "extends": "parent.yaml"}
    (project / "experiments" / "arm.yaml").write_text(
        json.dumps({**document, "metadata": {"name": "arm"}, "spec": spec})
    )


def compiled(project: Path) -> dict[str, str]:
    return dvcfile.compile_all(catalogue.discover(project), project)


def test_shipped_files_match_their_experiments(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    dvcfile.require_no_drift(dvcfile.compile_all(catalogue.discover(root), root), root)


def test_the_root_file_holds_the_demo_and_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    texts = dvcfile.compile_all(catalogue.discover(root), root)
    for stage in parsed(texts["dvc.yaml"]).values():
        assert {"runs/retail-cpu", "runs/bases/retail-cpu"} & {
            "/".join(p.split("/")[:n]) for p in stage["outs"] for n in (2, 3)
        }
    assert set(texts) == {
        "dvc.yaml",
        *(f"experiments/{name}/dvc.yaml" for name in ("retail", "retail-general", "retail-cpu-general")),
        "experiments/studies/retail-cpu-arms/dvc.yaml",
    }


def test_a_base_stands_in_one_file(project: Path) -> None:
    texts = compiled(project)
    assert set(texts) == {"experiments/arm/dvc.yaml", "experiments/parent/dvc.yaml"}
    holding = [name for name, text in texts.items() if "retail-cpu-warmup" in parsed(text)]
    assert holding == ["experiments/arm/dvc.yaml"]


def test_the_spec_stage_watches_the_whole_chain_and_the_code(project: Path, root: Path) -> None:
    chain = ["experiments/arm.yaml", "experiments/parent.yaml"]
    assert parsed(compiled(project)["experiments/arm/dvc.yaml"])["arm-spec"]["deps"] == chain
    shutil.copytree(root / "sentinel", project / "sentinel", ignore=shutil.ignore_patterns("__pycache__"))
    assert parsed(compiled(project)["experiments/arm/dvc.yaml"])["arm-spec"]["deps"] == [*chain, "sentinel"]


def test_commands_are_the_same_everywhere_and_name_no_place(project: Path) -> None:
    stages = parsed(compiled(project)["experiments/arm/dvc.yaml"])
    assert stages["arm-train-02"]["cmd"] == "sentinel stage train --run runs/arm/02"
    assert stages["arm-spec"]["cmd"].endswith("--spec experiments/arm.yaml --iterations 2")
    assert all(str(project) not in stage["cmd"] for stage in stages.values())


def test_metrics_and_curves_are_cached_and_declared(project: Path) -> None:
    stages = parsed(compiled(project)["experiments/arm/dvc.yaml"])
    assert stages["arm-report"]["metrics"] == ["runs/arm/report/scores.json"]
    assert [name for name, stage in stages.items() if "metrics" in stage] == ["arm-report"], "one short row"
    assert list(stages["arm-report"]["plots"][0]) == ["runs/arm/report/curve.json"]


def test_drift_is_shown_as_a_difference(project: Path) -> None:
    dvcfile.write(compiled(project), project)
    dvcfile.require_no_drift(compiled(project), project)
    write_arm(project, iterations=3)
    with pytest.raises(dvcfile.DriftError, match=r"\+  arm-train-03:"):
        dvcfile.require_no_drift(compiled(project), project)


def test_a_file_whose_experiment_is_gone_is_drift_and_is_removed(project: Path) -> None:
    dvcfile.write(compiled(project), project)
    (project / "experiments" / "arm.yaml").unlink()
    now = compiled(project)
    with pytest.raises(dvcfile.DriftError, match="its experiment is gone"):
        dvcfile.require_no_drift(now, project)
    dvcfile.remove(dvcfile.orphans(now, project), project, keep=())
    assert not (project / "experiments" / "arm").exists()


def test_an_unnamed_invalid_experiment_stops_compile_but_not_run(project: Path) -> None:
    (project / "experiments" / "draft.yaml").write_text("kind: Experiment\n")
    with pytest.raises(SpecError, match=r"draft\.yaml"):
        catalogue.discover(project)
    known = catalogue.discover(project, [project / "experiments" / "arm.yaml"], strict=False)
    assert [item.name for item in known] == ["arm", "parent"]


def test_a_spec_outside_of_the_project_is_refused(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "other.yaml"
    shutil.copy(project / "experiments" / "parent.yaml", outside)
    with pytest.raises(SpecError, match="outside of the project"):
        catalogue.discover(project, [outside])


def write_lock(project: Path, outs: dict[str, str]) -> Path:
    stages = {name: {"cmd": "x", "outs": [{"path": path, "md5": "0", "size": 1}]} for name, path in outs.items()}
    for path in outs.values():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        if not (project / path).exists():
            (project / path).write_text("x")
    lock = project / "experiments" / "arm" / "dvc.lock"
    lock.write_text(json.dumps({"schema": "2.0", "stages": stages}))
    return lock


def test_a_shrunk_experiment_loses_its_old_rounds(project: Path) -> None:
    dvcfile.write(compiled(project), project)
    kept, moved = "runs/arm/02/rollout/rates.json", "runs/arm/01/moved.json"
    outs = {"arm-rollout-02": kept, "arm-rollout-03": "runs/arm/03/rollout/rates.json", "old": moved}
    lock = write_lock(project, outs | {"evil": "experiments/arm.yaml"})
    text = (project / "experiments" / "arm.yaml").read_text()
    dropped = dvcfile.prune(project / "experiments" / "arm" / "dvc.yaml", project, keep={moved})
    assert sorted(dropped) == ["arm-rollout-03", "evil", "old"]
    assert list(parsed(lock.read_text())) == ["arm-rollout-02"]
    assert (project / kept).exists() and (project / moved).exists() and not (project / "runs/arm/03").exists()
    assert (project / "experiments" / "arm.yaml").read_text() == text, "only what lies in runs/ is removed"


def test_a_lock_cut_short_is_left_to_the_runner(project: Path) -> None:
    dvcfile.write(compiled(project), project)
    lock = project / "experiments" / "arm" / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  a:\n    cmd: 'x")
    assert dvcfile.prune(project / "experiments" / "arm" / "dvc.yaml", project, keep=()) == []
