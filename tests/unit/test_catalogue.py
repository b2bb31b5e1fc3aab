"""The experiments of a project side by side: what they must agree on, and where a conflict is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel import catalogue
from sentinel.errors import SpecError

ARM = """\
apiVersion: sentinel.dev/v1alpha1
kind: Experiment
extends: retail-cpu.yaml
metadata:
  name: {name}
spec:
  {spec}
"""
PARENT = "experiments/retail-cpu.yaml"


@pytest.fixture
def project(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the demo's spec."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / PARENT).write_text((root / PARENT).read_text())
    return Path()


def arm(spec: str, name: str = "arm", file: str = "arm") -> Path:
    path = Path("experiments") / f"{file}.yaml"
    path.write_text(ARM.format(name=name, spec=spec))
    return path


def line_of(text: str, file: str = PARENT) -> int:
    return next(n for n, line in enumerate(Path(file).read_text().splitlines(), 1) if text in line)


def fault(path: Path, project: Path) -> str:
    """The one fault that `validate` finds, and that stops a run of the file as well."""
    (found,) = catalogue.validate([path], project)[path]
    with pytest.raises(SpecError) as caught:
        catalogue.discover(project, [path], strict=False)
    assert caught.value.faults == [found]
    return str(found)


def test_arms_of_one_base_may_differ_in_what_it_is_not_made_of(project: Path) -> None:
    path = arm("trainer: {steps: 1}")
    assert catalogue.validate([path], project) == {path: []}
    assert [item.name for item in catalogue.discover(project)] == ["arm", "retail-cpu"]


def test_a_base_has_one_meaning(project: Path) -> None:
    text = fault(arm("seed_tasks: {dev: 7, general: 9}"), project)
    there = line_of("    dev: 96")
    assert text.startswith(
        f"experiments/arm.yaml:7:21: spec.seed_tasks.dev: 7 here, 96 at {PARENT}:{there}:10, and both"
    )
    assert "name the base 'retail-cpu'" in text
    assert "they differ in spec.seed_tasks.general too" in text
    assert "give 'arm' a base of its own: spec.base.name" in text


def test_a_value_against_a_default(project: Path) -> None:
    assert f"7:32: spec.policy.layers: 3 here, 4 by default in {PARENT}" in fault(
        arm("policy: {type: tiny, layers: 3}"), project
    )


def test_a_default_against_a_value(project: Path) -> None:
    text = fault(arm("evaluator: null"), project)
    assert text.startswith(
        f"experiments/arm.yaml:5:9: spec.evaluator.max_new_tokens: 4096 here by default, 48 at {PARENT}"
    )


def test_two_experiments_of_one_name(project: Path) -> None:
    text = fault(arm("seed: 8", name="retail-cpu"), project)
    there = line_of("  name: retail-cpu")
    assert text.startswith(
        f"experiments/arm.yaml:5:9: metadata.name: 'retail-cpu' is the name of {PARENT}:{there}:9 too"
    )


def test_the_conflicts_of_others_stop_only_who_asks_for_all(project: Path) -> None:
    arm("seed: 8", name="retail-cpu")
    good = arm("seed: 9\n  base: {name: own}", name="good", file="good")
    assert catalogue.validate([good], project) == {good: []}
    assert len(catalogue.discover(project, [good], strict=False)) == 3
    with pytest.raises(SpecError, match="is the name of"):
        catalogue.discover(project)


def test_a_file_of_elsewhere_is_judged_alone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "copy.yaml"
    path.write_text(Path(PARENT).read_text())
    assert catalogue.validate([path], project) == {path: []}
