"""Plan -> pipeline: every stage once, in its role's image, after all it reads; the same text under any hash seed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.pipelines.parts import LONGEST, Part
from sentinel.plan import Plan
from tests.unit.pipeline_ir import Container, compiled, containers, documents, normalised, submission

SHIPPED = {"retail": "gpu", "retail-general": "gpu", "retail-cpu": "kind", "retail-cpu-general": "kind"}
"""Spec -> the profile that it is compiled for here."""
GOLDEN = Path("tests/unit/golden")
UPDATE = "SENTINEL_UPDATE_GOLDEN"


@pytest.fixture(autouse=True)
def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def ancestors(name: str, found: dict[str, Container]) -> set[str]:
    return set(found[name].before).union(*(ancestors(before, found) for before in found[name].before))


def producers(plan: Plan, name: str) -> set[str]:
    """The stages whose files a stage of the plan reads."""
    stage = next(stage for stage in plan.stages if stage.name == name)
    wanted = {*plan.files(stage), *([stage.spec] if stage.params else [])}
    return {other.name for other in plan.stages if wanted & {output.path for output in other.outputs}}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_spec_has_a_profile_here_and_compiles_to_its_golden_file(name: str, tmp_path: Path) -> None:
    text = normalised(compiled(submission(Path(), name, SHIPPED[name]), tmp_path))
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get(UPDATE):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), f"if that was meant: {UPDATE}=1 pytest {__file__}"


def test_no_shipped_spec_is_left_out() -> None:
    assert {path.stem for path in Path("experiments").glob("*.yaml")} == SHIPPED.keys()


def test_the_containers_are_the_stages_and_each_comes_after_all_it_reads(tmp_path: Path) -> None:
    made = submission(Path(), "retail-cpu", "kind")
    found = containers(compiled(made, tmp_path))
    plan = made.project.plan
    assert found.keys() == {stage.name for stage in plan.stages} | {"finish"}
    for stage in plan.stages:
        assert found[stage.name].image == made.images[stage.component]  # type: ignore[index]
        assert found[stage.name].constants["run"] == stage.run
        assert producers(plan, stage.name) <= ancestors(stage.name, found), stage.name
    assert found["finish"].before == frozenset()


def test_the_text_is_the_same_under_any_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; from tests.unit.pipeline_ir import *;"
        "text = compiled(submission(Path(), 'retail-cpu', 'kind'), Path(sys.argv[1]));"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    here = hashlib.sha256(compiled(submission(Path(), "retail-cpu", "kind"), tmp_path).encode()).hexdigest()
    assert hashes == {f"{here}\n"}


def test_a_run_of_the_longest_part_stays_within_the_limits_of_kubernetes_and_of_the_compare_page(
    tmp_path: Path,
) -> None:
    text = compiled(submission(Path(), "retail", "gpu", (f"iterations={LONGEST}",)), tmp_path)
    ir = documents(text)[0]
    outputs = [
        key
        for component in ir["components"].values()
        if "executorLabel" in component
        for key in component.get("outputDefinitions", {}).get("artifacts", {})
    ]
    assert len(text.encode()) < 500_000
    assert len(outputs) < 100


def test_more_iterations_than_one_run_holds_become_a_chain(tmp_path: Path) -> None:
    sets = (f"iterations={LONGEST + 2}",)
    first = containers(compiled(submission(Path(), "retail-cpu", "kind", sets, Part(1, 2)), tmp_path))
    second_made = submission(Path(), "retail-cpu", "kind", sets, Part(2, 2, "run-1"))
    second = containers(compiled(second_made, tmp_path))
    stages = {stage.name for stage in second_made.project.plan.stages}
    assert (first.keys() | second.keys()) - {"finish", "resume"} == stages
    assert first.keys() & second.keys() == {"finish"}
    assert "retail-cpu-report" in second and second["retail-cpu-rollout-09"].before == {"resume"}
    assert second["resume"].constants["previous"] == "run-1"


def test_caching_is_off_and_the_profile_is_on_every_container(tmp_path: Path) -> None:
    text = compiled(submission(Path(), "retail", "gpu"), tmp_path)
    ir, platform = documents(text)
    tasks = [
        task
        for one in (*ir["components"].values(), ir["root"])
        for task in one.get("dag", {}).get("tasks", {}).values()
    ]
    assert [task for task in tasks if task.get("cachingOptions", {}).get("enableCache")] == []
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = ir["deploymentSpec"]["executors"]
    assert kubernetes.keys() == executors.keys()
    for label, placed in kubernetes.items():
        assert [secret["secretName"] for secret in placed["secretAsEnv"]] == ["sentinel-s3"]
        assert placed["pvcMount"][0]["mountPath"] == "/state"
        names = {one["name"]: one["value"] for one in executors[label]["container"]["env"]}
        assert names["SENTINEL_REMOTE"] == "s3://sentinel/cas" and names["SENTINEL_PROFILE"] == "gpu"
    trainer = next(label for label in executors if label.startswith("exec-train"))
    assert executors[trainer]["container"]["resources"]["accelerator"]["resourceCount"] == "8"
    assert kubernetes[trainer]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert kubernetes[trainer]["emptyDirMounts"][1] == {
        "medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "64Gi", "volumeName": "shm"
    }  # fmt: skip
    assert kubernetes[trainer]["activeDeadlineSeconds"] == str(48 * 3600)
    retried = [task["retryPolicy"] for task in tasks if task["taskInfo"]["name"] == "retail-train-01"]
    assert retried == [
        {"backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "1800s", "maxRetryCount": 3}
    ]
