"""What a submission checks and names before a server is asked: parameters, `--set`, the files it carries, images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sentinel.errors import SentinelError, SpecError
from sentinel.pipelines.images import images
from sentinel.pipelines.parameters import ABSENT, paths, shown
from sentinel.pipelines.project import LARGEST, read_project, with_sets
from sentinel.pipelines.submission import prepare
from sentinel.pipelines.submit import compile_only
from sentinel.pipelines.verbs import Options, submit
from sentinel.spec.cluster import Bucket, Cluster, LockedImages, Resources
from sentinel.spec.load import load
from sentinel.spec.models import ExperimentSpec

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def project(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without code: the demo's spec and the profiles."""
    (tmp_path / "experiments" / "profiles").mkdir(parents=True)
    for name in ("retail-cpu.yaml", "profiles/kind.yaml", "profiles/gpu.yaml"):
        (tmp_path / "experiments" / name).write_text((root / "experiments" / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


SPEC = Path("experiments/retail-cpu.yaml")


def test_every_spec_shows_the_same_parameters(root: Path) -> None:
    tables = [shown(load(path).experiment.spec) for path in sorted((root / "experiments").glob("*.yaml"))]
    assert len({tuple(table) for table in tables}) == 1
    assert len(tables[0]) == len(paths(ExperimentSpec)), "two paths have one name"
    assert all(key.isidentifier() for key in tables[0])


def test_values_are_shown_as_text_that_can_be_joined(root: Path) -> None:
    found = shown(load(root / "experiments" / "retail-cpu.yaml").experiment.spec)
    assert found["trainer_learning_rate"] == "0.0005"
    assert found["trainer_clip"] == "[0.2, 0.28]"
    assert found["environment_system_prompt"] == "false"
    assert found["warmup_weaknesses"].startswith("{ask: 0.4, variant: 0.45")
    assert found["policy_revision"] == ABSENT
    assert not [value for value in found.values() if set('"\\\n') & set(value)]


def test_set_changes_the_spec_and_keeps_its_comments() -> None:
    text = "spec:\n  trainer:\n    steps: 12  # why\n  base: {name: a}\n"
    assert with_sets(text, ["trainer.steps=24", "spec.trainer.clip=[0.1, 0.2]", "base.name=b"]) == (
        "spec:\n  trainer:\n    steps: 24  # why\n    clip:\n    - 0.1\n    - 0.2\n  base: {name: b}\n"
    )


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("trainer.stepz=3", "trainer.stepz: unknown key; did you mean 'steps'?"),
        ("trainer.steps=many", 'trainer.steps: found the text "many"'),
        ("trainer.steps", "expected key=value"),
        ("seed_tasks.extra=own.jsonl", "write it into the spec"),
        ("warmup.imitation.file=own.jsonl", "write it into the spec"),
        ("trainer.steps=[", "the value is not YAML"),
        ("trainer.learning_rate=1e-6x", "trainer.learning_rate"),
    ],
)
def test_a_wrong_set_is_refused(pair: str, message: str, project: Path) -> None:
    with pytest.raises(SpecError) as caught:
        prepare(SPEC, "kind", [pair])
    assert message in str(caught.value)


def test_set_reaches_the_parameters_the_plan_and_the_files_but_not_the_checkout(project: Path) -> None:
    before = SPEC.read_bytes()
    made = prepare(SPEC, "kind", ["trainer.learning_rate=1e-6", "iterations=2"])
    assert made.parameters["trainer_learning_rate"] == "1e-06"
    assert made.parameters["spec_hash"] != prepare(SPEC, "kind").parameters["spec_hash"]
    assert max(stage.iteration for stage in made.project.plan.stages) == 2
    carried = YAML(typ="safe", pure=True).load(made.project.baton.files[str(SPEC)])
    assert carried["spec"]["trainer"]["learning_rate"] == 1e-6
    assert "--iterations 2" in made.project.baton.files["dvc.yaml"]
    assert SPEC.read_bytes() == before and sorted(path.name for path in project.iterdir()) == ["experiments"]


def test_the_carried_files_are_the_chain_the_profile_and_what_was_compiled(project: Path) -> None:
    arm = "apiVersion: sentinel.dev/v1alpha1\nkind: Experiment\nextends: retail-cpu.yaml\nmetadata: {name: arm}\n"
    Path("experiments/arm.yaml").write_text(arm)
    baton = read_project(Path("experiments/arm.yaml"), "kind").baton
    assert list(baton.files) == [
        "dvc.yaml",
        "experiments/arm.yaml",
        "experiments/arm/dvc.yaml",
        "experiments/profiles/kind.yaml",
        "experiments/retail-cpu.yaml",
    ]
    assert baton.code is False
    assert baton.dvc_file("arm-report") == "experiments/arm/dvc.yaml"
    assert baton.dvc_file("retail-cpu-seed") == "dvc.yaml"


def test_a_file_too_large_to_be_carried_is_refused(project: Path) -> None:
    Path("experiments/own.jsonl").write_text("x" * (LARGEST + 1))
    SPEC.write_text(SPEC.read_text().replace("    general: 512\n", "    general: 512\n    extra: own.jsonl\n"))
    with pytest.raises(SpecError, match=r"own\.jsonl: 200,001 bytes are more than a run can carry"):
        prepare(SPEC, "kind")


def test_a_profile_without_a_cluster_is_refused(project: Path) -> None:
    profile = "apiVersion: sentinel.dev/v1alpha1\nkind: Profile\nmetadata: {name: home}\nspec: {}\n"
    Path("experiments/profiles/home.yaml").write_text(profile)
    with pytest.raises(SpecError, match="profile 'home': has no section `cluster`"):
        prepare(SPEC, "home")


def locked(**roles: Resources) -> Cluster:
    return Cluster(bucket=Bucket(url="s3://b"), images=LockedImages(type="locked"), roles=roles)  # type: ignore[arg-type]


def test_submitting_needs_no_more_than_the_extra_kfp() -> None:
    code = "import sys, sentinel.pipelines.submit, sentinel.pipelines.local; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"dvc", "kfp", "scipy", "tau2", "torch", "transformers"}


def test_tags_need_no_lock() -> None:
    assert images(Cluster(bucket=Bucket(url="s3://b")))["trainer"] == "sentinel-trainer:dev"


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (None, "images.lock: missing, and this profile takes images by digest only"),
        ("[", "images.lock: not YAML"),
        ("- a\n", "found no map"),
        (f"trainer: registry.invalid/t@{DIGEST}\n", "has no image 'controller'"),
        ("controller: registry.invalid/c:latest\n", "controller: found 'registry.invalid/c:latest', expected"),
    ],
)
def test_a_cluster_demands_digests_and_says_how_to_get_them(lock: str | None, message: str, tmp_path: Path) -> None:
    if lock is not None:
        (tmp_path / "images.lock").write_text(lock)
    with pytest.raises(SpecError) as caught:
        images(locked(), tmp_path)
    assert message in str(caught.value) and "make push REGISTRY=" in str(caught.value)


def test_a_variant_is_another_image(tmp_path: Path) -> None:
    names = ("controller", "proposer", "rollout", "trainer-cuda", "evaluator")
    (tmp_path / "images.lock").write_text("".join(f"{name}: r.invalid/{name}@{DIGEST}\n" for name in names))
    found = images(locked(trainer=Resources(variant="cuda")), tmp_path)
    assert found["trainer"] == f"r.invalid/trainer-cuda@{DIGEST}"
    assert found["rollout"] == f"r.invalid/rollout@{DIGEST}"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("pipeline.txt", "expected a name that ends in .yaml"),
        ("file/pipeline.yaml", "cannot be written"),
        (str(SPEC), "is not overwritten"),
    ],
)
def test_a_pipeline_that_cannot_be_written_is_said_by_path(output: str, message: str, project: Path) -> None:
    Path("file").write_text("no folder")
    with pytest.raises(SentinelError, match=rf"{output}: .*{message}") as refused:
        compile_only(SPEC, "kind", (), Path(output))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(local=True, watch=True, run_name="x"), "--run-name, --watch: there is no server with --local"),
        (Options(local=True, output=Path("x.yaml")), "--output: there is no server with --local"),
        (Options(output=Path("x.yaml"), resume_from="run-1"), "--resume-from: no server is asked with --output"),
        (Options(runner="docker"), "--runner: it goes with --local"),
        (Options(local=True, runner="podman"), "--runner podman: expected subprocess or docker"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: Options, message: str, project: Path) -> None:
    with pytest.raises(SentinelError, match=message):
        submit(SPEC, options)
