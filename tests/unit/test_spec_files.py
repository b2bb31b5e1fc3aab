"""What the repository ships: every YAML loads, the schemas are current, and reading them needs nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

import sentinel.spec
from sentinel.spec import Experiment, check, load, spec_hash
from sentinel.spec.render import render
from sentinel.spec.schema import KINDS, schema, schema_text

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
PROFILES = sorted((ROOT / "experiments" / "profiles").glob("*.yaml"))
STUDIES = sorted((ROOT / "experiments" / "studies").glob("*.yaml"))


def plain(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def accepted(kind: str, document: Any) -> bool:
    return jsonschema.Draft7Validator(schema(kind)).is_valid(document)


def test_the_four_experiments_and_a_profile_are_there() -> None:
    names = {path.stem for path in EXPERIMENTS}
    assert names >= {"retail", "retail-general", "retail-cpu", "retail-cpu-general"}
    assert "local" in {path.stem for path in PROFILES}


@pytest.mark.parametrize("path", EXPERIMENTS + PROFILES + STUDIES, ids=lambda path: path.stem)
def test_a_shipped_file_loads_and_is_named_as_its_file(path: Path) -> None:
    check(path)
    assert plain(path)["metadata"]["name"] == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_rendered_spec_is_the_same_experiment(path: Path, tmp_path: Path) -> None:
    loaded = load(path)
    text = render(loaded)
    (tmp_path / "rendered.yaml").write_text(text)
    again = load(tmp_path / "rendered.yaml")
    assert again.experiment == loaded.experiment
    assert plain(tmp_path / "rendered.yaml") == loaded.resolved()
    assert Experiment.model_validate_json(json.dumps(loaded.resolved())) == loaded.experiment


def test_every_rendered_value_has_an_origin() -> None:
    path = ROOT / "experiments" / "retail-cpu-general.yaml"
    lines = {line.split("#")[0].strip(): line for line in render(load(path)).splitlines() if "  #" in line}
    line = (ROOT / "experiments" / "retail-cpu.yaml").read_text().splitlines().index("  iterations: 3") + 1
    assert lines["iterations: 3"].endswith(f"experiments/retail-cpu.yaml:{line}")
    assert lines["max_grad_norm: 1.0"].endswith("# default")


def test_arms_share_their_base() -> None:
    for name in ("retail", "retail-cpu"):
        one, other = (load(ROOT / "experiments" / f"{arm}.yaml").experiment.spec for arm in (name, f"{name}-general"))
        for section in ("base", "environment", "policy", "warmup", "seed_tasks", "evaluator"):
            assert getattr(one, section) == getattr(other, section)


def test_the_hash_is_of_the_science_only(tmp_path: Path) -> None:
    path = ROOT / "experiments" / "retail-cpu.yaml"
    text = path.read_text()
    variants = {"same": text.replace("seed: 7", "seed: 0x7"), "label": text.replace("arm: targeted", "arm: x")}
    variants["science"] = text.replace("  iterations: 3", "  iterations: 4")
    for name, variant in variants.items():
        assert variant != text
        (tmp_path / f"{name}.yaml").write_text(variant)
    hashes = {name: spec_hash(load(tmp_path / f"{name}.yaml").experiment) for name in variants}
    assert hashes["same"] == hashes["label"] == spec_hash(load(path).experiment)
    assert hashes["science"] != hashes["same"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_current(kind: str) -> None:
    committed = (ROOT / "experiments" / "schema" / f"{kind}.json").read_text(encoding="utf-8")
    assert committed == schema_text(kind), "run `sentinel schema --write experiments/schema`"


@pytest.mark.parametrize("path", EXPERIMENTS + PROFILES + STUDIES, ids=lambda path: path.stem)
def test_editors_find_the_schema_and_it_accepts_the_file(path: Path) -> None:
    header, _, name = path.read_text(encoding="utf-8").splitlines()[0].partition("$schema=")
    assert header == "# yaml-language-server: "
    kind = (path.parent / name).resolve().relative_to(ROOT / "experiments" / "schema").stem
    assert accepted(kind, plain(path))


def test_the_schema_refuses_what_loading_refuses() -> None:
    full, overlay = (plain(ROOT / "experiments" / f"{name}.yaml") for name in ("retail-cpu", "retail-cpu-general"))
    for document in (full, overlay):
        document["spec"]["trainer"] = {**document["spec"].get("trainer", {}), "group_sise": 8}
        assert not accepted("experiment", document)
        del document["spec"]["trainer"]["group_sise"]
        assert accepted("experiment", document)
    del full["spec"]["seed"]
    assert not accepted("experiment", full), "only a file that extends may be incomplete"


def test_everything_public_exists() -> None:
    assert sorted(sentinel.spec.__all__) == sentinel.spec.__all__
    assert all(hasattr(sentinel.spec, name) for name in sentinel.spec.__all__)


LIGHT = """
import sys
ABSENT = {"torch", "kfp", "dvc", "numpy", "scipy", "transformers", "tau2", "jinja2", "altair"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from sentinel.cli import main
main(["validate", *sys.argv[1:]])
"""


def test_validation_needs_neither_torch_nor_kfp_nor_dvc() -> None:
    files = [str(path) for path in EXPERIMENTS + PROFILES + STUDIES]
    done = subprocess.run([sys.executable, "-c", LIGHT, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{name}: ok" for name in files])
