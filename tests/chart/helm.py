"""The chart as Helm renders it, as plain data.

render("gpu", kube="1.30.0")                      # of values-gpu.yaml
render("default", {"models": [...]})              # of values.yaml and these values
find(objects, "Deployment", "sentinel-user")
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CHART = Path(__file__).resolve().parents[2] / "charts" / "sentinel"
FILES = {"default": "values.yaml", "kind": "values-kind.yaml", "gpu": "values-gpu.yaml"}
"""What the chart ships, by the name that tests use."""
RELEASE, NAMESPACE = "sentinel", "kubeflow"

Object = dict[str, Any]


class Refused(Exception):
    """Helm did not render; the message is what a user reads."""


def helm(*arguments: str, text: str | None = None) -> str:
    """What `helm` prints; $HELM names another binary.

    Raises:
        Refused: It ended with another code than 0.
    """
    command = [os.environ.get("HELM", "helm"), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def parse(text: str) -> list[Object]:
    """The YAML documents of a text; keys that occur twice are an error."""
    return [each for each in YAML(typ="safe", pure=True).load_all(text) if each]


@cache
def _template(files: tuple[str, ...], values: str, kube: str, apis: tuple[str, ...], release: str) -> str:
    options = [f"--values={CHART / file}" for file in files] + [f"--api-versions={api}" for api in apis]
    placed = [release, str(CHART), f"--namespace={NAMESPACE}", f"--kube-version={kube}"]
    return helm("template", *placed, *options, "--values=-", text=values)


def render(
    name: str = "default",
    values: Mapping[str, Any] | None = None,
    *,
    kube: str = "1.34.0",
    apis: Iterable[str] = (),
    release: str = RELEASE,
) -> list[Object]:
    """The objects that Helm would install; what `FILES` calls `name`, with further values."""
    return parse(_template((FILES[name],), json.dumps(values or {}), kube, tuple(apis), release))


def rendered_file(path: Path) -> list[Object]:
    """The objects of a values file that the chart does not ship."""
    return parse(_template((), path.read_text(encoding="utf-8"), "1.34.0", (), RELEASE))


def kinds(objects: Iterable[Object]) -> list[str]:
    """Kind/name of every object, sorted."""
    return sorted(f"{each['kind']}/{each['metadata']['name']}" for each in objects)


def find(objects: Iterable[Object], kind: str, name: str) -> Object:
    """The object of this kind and name."""
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def pod_template(owner: Object) -> Object:
    """The metadata and spec of the pods that an object makes, or is."""
    (found,) = pod_templates(owner)
    return found


def pod_templates(value: Any) -> list[Object]:
    """Every part of an object, whatever its kind, that has containers: what may run somewhere."""
    if isinstance(value, list):
        return [found for each in value for found in pod_templates(each)]
    if not isinstance(value, dict):
        return []
    if "containers" in (value.get("spec") or ()):
        return [value]
    return [found for each in value.values() for found in pod_templates(each)]


def containers(owner: Object) -> list[Object]:
    """All containers of the pods of an object."""
    spec = pod_template(owner)["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def arguments(owner: Object) -> list[str]:
    """What the first container is started with."""
    found: list[str] = containers(owner)[0]["args"]
    return found


def environment(owner: Object) -> dict[str, Any]:
    """Variables of the first container: values, or where they come from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in containers(owner)[0].get("env", ())}
