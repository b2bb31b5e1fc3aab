"""Compiled pipelines for tests: made with fixed digests and revision, and read back as a graph of containers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sentinel.pipelines.images import ROLES
from sentinel.pipelines.parts import Part, parts
from sentinel.pipelines.project import read_project
from sentinel.pipelines.submission import Submission, parameters
from sentinel.spec.cluster import Resources

Ir = dict[str, Any]


def submission(root: Path, name: str, profile: str, sets: tuple[str, ...] = (), part: Part | None = None) -> Submission:
    """A submission of a shipped spec as on a machine whose images, code and commit have these names."""
    project = read_project(root / "experiments" / f"{name}.yaml", profile, sets, root)
    cluster = project.profile.cluster
    assert cluster is not None
    variants = {role: cluster.roles.get(role, Resources()).variant or "cpu" for role in ROLES}
    images = {role: f"registry.invalid/{role}-{variants[role]}@sha256:{'0' * 64}" for role in ROLES}
    part = part or Part(1, parts(project.experiment.spec.iterations))
    fixed = {**parameters(project, images, part, "0" * 40), "code": "0" * 16}
    return Submission(project, cluster, images, part, fixed)


def compiled(made: Submission, folder: Path) -> str:
    """The text that Kubeflow would be given."""
    path = folder / "pipeline.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own: deprecations, and images without `python` in their name
        made.compile(path)
    return path.read_text(encoding="utf-8")


def normalised(text: str) -> str:
    """Without what differs between releases of kfp, and without the files, which have golden files of their own."""
    text = re.sub(r"^sdkVersion: .*$", "sdkVersion: kfp", text, flags=re.MULTILINE)
    parsed = documents(text)
    for executor in parsed[0]["deploymentSpec"]["executors"].values():
        del executor["container"]["command"]  # the components' own text, and kfp's bootstrap
    hide_project(parsed[0])
    return str(yaml.dump_all(parsed, Dumper=yaml.CSafeDumper, width=120))


def hide_project(node: Any) -> None:
    """Replace the project's files."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "project" and "runtimeValue" in value:
                value["runtimeValue"]["constant"] = "(the files)"
            else:
                hide_project(value)


def documents(text: str) -> list[Ir]:
    """The pipeline, and what the profile adds for Kubernetes."""
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


@dataclass(frozen=True)
class Container:
    """A task that runs a container."""

    name: str
    function: str
    image: str
    constants: Mapping[str, str]
    before: frozenset[str]
    """Names of the containers whose artifacts it takes."""


def containers(text: str) -> dict[str, Container]:
    """Every container of a compiled pipeline by its name in the UI."""
    ir = documents(text)[0]
    found: dict[str, Container] = {}
    _walk(ir, ir["root"]["dag"], {}, found)
    return found


def _walk(ir: Ir, dag: Ir, given: Mapping[str, str], found: dict[str, Container]) -> dict[str, str]:
    """Fill `found`; returns output artifact -> container, for the pipeline that contains this one."""
    made: dict[tuple[str, str], str] = {}
    pending = dict(dag["tasks"])
    while pending:
        ready = [name for name, task in pending.items() if not set(task.get("dependentTasks", ())) & pending.keys()]
        assert ready, "a cycle"
        for name in ready:
            task = pending.pop(name)
            component = ir["components"][task["componentRef"]["name"]]
            inputs = {
                key: given[source["componentInputArtifact"]]
                if "componentInputArtifact" in source
                else made[
                    source["taskOutputArtifact"]["producerTask"], source["taskOutputArtifact"]["outputArtifactKey"]
                ]
                for key, source in task.get("inputs", {}).get("artifacts", {}).items()
            }
            if "dag" in component:
                outputs = _walk(ir, component["dag"], inputs, found)
                made |= {(name, key): source for key, source in outputs.items()}
                continue
            shown = task["taskInfo"]["name"]
            container = ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
            constants = {
                key: value["runtimeValue"]["constant"]
                for key, value in task.get("inputs", {}).get("parameters", {}).items()
                if "runtimeValue" in value
            }
            function = container["args"][container["args"].index("--function_to_execute") + 1]
            assert shown not in found
            found[shown] = Container(shown, function, container["image"], constants, frozenset(inputs.values()))
            for key in component.get("outputDefinitions", {}).get("artifacts", {}):
                made[name, key] = shown
    selected = dag.get("outputs", {}).get("artifacts", {})
    return {
        key: made[one["artifactSelectors"][0]["producerSubtask"], one["artifactSelectors"][0]["outputArtifactKey"]]
        for key, one in selected.items()
    }
