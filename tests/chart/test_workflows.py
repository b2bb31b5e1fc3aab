"""The workflows: valid, audited, and made of nothing but make targets that exist and actions pinned by commit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.chart.helm import CHART, Refused, helm, kinds, parse

ROOT = CHART.parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
LANES = {"unit", "system", "chart", "kind", "release"}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
COMMAND = re.compile(r"make [a-z-]+( [A-Z]+=\w+)*")
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+(\.\d+\.\d+)?")
PIN = re.compile(r"uses: [\w.-]+/([\w.-]+)@([0-9a-f]{40}) # (v[\d.]+)")
SEVERE = {"Low", "Medium", "High"}
"""zizmor's severities above `Informational`."""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def audit(*paths: Path) -> list[dict[str, Any]]:
    """What zizmor finds, without asking the network."""
    command = ["zizmor", "--offline", "--no-exit-codes", "--format=json", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_there_is_a_workflow_for_each_lane() -> None:
    assert {path.stem for path in FILES} == LANES == {read(path)["name"] for path in FILES}


def test_the_workflows_fit_githubs_schema(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*check, *map(str, FILES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yaml"
    broken.write_text(FILES[0].read_text().replace("runs-on:", "run-on:"))
    assert subprocess.run([*check, str(broken)], capture_output=True).returncode == 1


def test_the_auditor_finds_nothing_above_informational() -> None:
    found = audit(*FILES)
    assert [each["ident"] for each in found if each["determinations"]["severity"] in SEVERE] == []


def test_the_auditor_would_find_something(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yaml"
    text = (ROOT / ".github/workflows/unit.yaml").read_text().replace("{persist-credentials: false}", "{}")
    path.write_text(re.sub(r"setup-python@\w+ # v[\d.]+", "setup-python@main", text))
    found = {each["ident"] for each in audit(path) if each["determinations"]["severity"] in SEVERE}
    assert {"artipacked", "unpinned-uses"} <= found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_command_is_a_make_target_that_exists(path: Path) -> None:
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        assert COMMAND.fullmatch(command), command
        assert command.split()[1] in TARGETS, command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_commit_and_names_its_version(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert uses and [each for each in uses if not PINNED.fullmatch(each)] == []


def test_every_pin_is_listed_with_what_it_was_read_in() -> None:
    """An invented hash is a defect, so docs/cluster.md says of each where it stands; one version is one commit."""
    listed = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    pins = {tuple(PIN.findall(path.read_text(encoding="utf-8"))) for path in FILES}
    actions = {pin for found in pins for pin in found}
    assert len(actions) == len({name for name, *_ in actions}) >= 4
    lane = (ROOT / "tests/kind/lane.py").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    node, kind = re.search(r'"(kindest/node):(v[\d.]+)@sha256:\w{64}"', lane), re.search(r"dl/v([\d.]+)/", makefile)
    kubeflow = re.search(r'^KFP = "([\d.]+)"$', lane, re.MULTILINE)
    assert node and kind and kubeflow
    wanted = [f"{name} {version}" for name, _, version in actions]
    wanted += [" ".join(node.groups()), f"kind {kind[1]}", f"Kubeflow Pipelines {kubeflow[1]}"]
    assert [each for each in wanted if each not in listed] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_has_a_limit_and_no_more_rights_than_it_needs(path: Path) -> None:
    found = read(path)
    assert found["permissions"] == {} and found["concurrency"]["group"]
    for job in found["jobs"].values():
        assert job["timeout-minutes"] <= 150
        wanted = {"contents": "read"} | ({"id-token": "write"} if path.stem == "release" else {})
        assert job["permissions"] == wanted


def test_the_kind_lane_cleans_up_and_keeps_what_explains_a_failure() -> None:
    found = steps(ROOT / ".github/workflows/kind.yaml")
    commands = [step.get("run") for step in found]
    order = ["make kind-install", "make images", "make kind-up", "make kind-test", "make kind-logs", "make kind-down"]
    assert [command for command in commands if command] == order
    ends = [step for step in found if step.get("run") in order[-2:] or "upload-artifact" in step.get("uses", "")]
    assert len(ends) == 3 and {step["if"] for step in ends} == {"always()"}


@pytest.mark.parametrize("name", ["chart", "kind"])
def test_dear_lanes_run_only_for_what_they_test(name: str) -> None:
    events = read(ROOT / f".github/workflows/{name}.yaml")["on"]
    assert events["push"]["paths"] == events["pull_request"]["paths"]
    assert {"charts/**", "Makefile", "tests/kind/**", "experiments/**"} <= set(events["push"]["paths"])


def test_what_the_kind_lane_installs_is_what_is_tested_here() -> None:
    """The very arguments of the lane, through `helm template`."""
    source = (ROOT / "tests/kind/lane.py").read_text(encoding="utf-8")
    arguments = re.search(r"^CHART = \((.*)\)$", source, re.MULTILINE)
    assert arguments and "{NAMESPACE}" in arguments[1] and "{VALUES}" in arguments[1]
    options = [
        str(ROOT / "charts/sentinel"),
        "--namespace=kubeflow",
        f"--values={ROOT / 'charts/sentinel/values-kind.yaml'}",
    ]
    found = parse(helm("template", "sentinel", *options))
    assert "PersistentVolumeClaim/sentinel-state" in kinds(found)
    looked = re.search(r"^OURS = \((.*?)\)$", source, re.MULTILINE | re.DOTALL)
    assert looked, "what must be gone after `make kind-down`"
    assert [each["kind"] for each in found if plural(each["kind"]) not in re.findall(r"\w+", looked[1])] == []


def plural(kind: str) -> str:
    """As `kubectl get` calls them."""
    name = kind.lower()
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def test_a_release_packages_this_chart(tmp_path: Path) -> None:
    options = [f"--destination={tmp_path}", "--version=1.2.3", "--app-version=1.2.3"]
    helm("package", str(CHART), *options)
    rendered = parse(helm("template", "sentinel", str(tmp_path / "sentinel-1.2.3.tgz")))
    assert rendered[0]["metadata"]["labels"]["helm.sh/chart"] == "sentinel-1.2.3"
    with pytest.raises(Refused, match="latest"):
        helm("template", "x", str(tmp_path / "sentinel-1.2.3.tgz"), "--set=test.image=python:latest")
