"""Plan -> pipeline: every stage once, in its role's image, after all it reads; the same text under any hash seed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

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


@cache
def text_of(name: str, sets: tuple[str, ...] = (), part: Part | None = None) -> str:
    """A shipped spec compiled for its profile: once, as that takes seconds."""
    with TemporaryDirectory() as folder:
        return compiled(submission(Path(), name, SHIPPED[name], sets, part), Path(folder))


def digests() -> dict[str, str]:
    """Spec -> hash of what it compiles to in this process."""
    return {name: hashlib.sha256(text_of(name).encode()).hexdigest() for name in SHIPPED}


def ancestors(name: str, found: dict[str, Container]) -> set[str]:
    return set(found[name].before).union(*(ancestors(before, found) for before in found[name].before))


def producers(plan: Plan, name: str) -> set[str]:
    """The stages whose files a stage of the plan reads."""
    stage = next(stage for stage in plan.stages if stage.name == name)
    wanted = {*plan.files(stage), *([stage.spec] if stage.params else [])}
    return {other.name for other in plan.stages if wanted & {output.path for output in other.outputs}}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_spec_has_a_profile_here_and_compiles_to_its_golden_file(name: str) -> None:
    text = normalised(text_of(name))
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get(UPDATE):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), f"if that was meant: {UPDATE}=1 pytest {__file__}"


def test_no_shipped_spec_is_left_out() -> None:
    assert {path.stem for path in Path("experiments").glob("*.yaml")} == SHIPPED.keys()


def test_the_containers_are_the_stages_and_each_comes_after_all_it_reads() -> None:
    made = submission(Path(), "retail-cpu", "kind")
    found = containers(text_of("retail-cpu"))
    plan = made.project.plan
    assert found.keys() == {stage.name for stage in plan.stages} | {"finish"}
    for stage in plan.stages:
        assert found[stage.name].image == made.images[stage.component]  # type: ignore[index]
        assert found[stage.name].constants["run"] == stage.run
        assert producers(plan, stage.name) <= ancestors(stage.name, found), stage.name
    assert found["finish"].before == frozenset()


def test_python_takes_the_shells_place_so_that_signals_reach_the_stage() -> None:
    for executor in documents(text_of("retail-cpu"))[0]["deploymentSpec"]["executors"].values():
        shell, _, script, _ = executor["container"]["command"]
        assert shell == "sh" and script.splitlines()[3].startswith("exec env _KFP_RUNTIME=true python3 -m kfp.")


def test_the_text_is_the_same_under_any_hash_seed() -> None:
    code = "import json; from tests.unit.test_pipelines_build import digests; print(json.dumps(digests()))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    other = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, env=other, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == digests()


def test_a_run_of_the_longest_part_stays_within_the_limits_of_kubernetes_and_of_the_compare_page() -> None:
    assert LONGEST == 8
    text = text_of("retail", (f"iterations={LONGEST}",))
    ir = documents(text)[0]
    outputs = [
        key
        for component in ir["components"].values()
        if "executorLabel" in component
        for key in component.get("outputDefinitions", {}).get("artifacts", {})
    ]
    assert len(text.encode()) < 500_000
    assert len(outputs) < 100


def test_more_iterations_than_one_run_holds_become_a_chain() -> None:
    sets = (f"iterations={LONGEST + 2}",)
    first = containers(text_of("retail-cpu", sets, Part(1, 2)))
    second = containers(text_of("retail-cpu", sets, Part(2, 2, "run-1")))
    stages = {stage.name for stage in submission(Path(), "retail-cpu", "kind", sets).project.plan.stages}
    assert (first.keys() | second.keys()) - {"finish", "resume"} == stages
    assert first.keys() & second.keys() == {"finish"}
    assert "retail-cpu-report" in second and second["retail-cpu-rollout-09"].before == {"resume"}
    assert second["resume"].constants["previous"] == "run-1"


def test_caching_is_off_and_the_profile_is_on_every_container() -> None:
    ir, platform = documents(text_of("retail"))
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
