"""`--runner docker` without docker: what containers are given, and what is said when there is no daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.pipelines.containers import credentials
from sentinel.spec.cluster import Bucket, Cluster, Secret

SPEC = "experiments/retail-cpu.yaml"
CLUSTER = Cluster(bucket=Bucket(url="s3://b"), secrets=(Secret(name="hub", env={"HF_TOKEN": "token"}),))


def test_containers_are_given_credentials_and_nothing_else_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "HF_TOKEN", "AWS_CA_BUNDLE", "OTHER_TOKEN"):
        monkeypatch.setenv(name, "value")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert credentials(CLUSTER) == {"AWS_ACCESS_KEY_ID": "value", "HF_TOKEN": "value"}


def test_no_daemon_is_said_with_the_way_out(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "experiments", tmp_path / "experiments")
    command = [sys.executable, "-W", "ignore", "-m", "sentinel.cli", "submit", "--local", "--runner", "docker", SPEC]
    variables = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "SENTINEL_PROFILE": "local", "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("no docker daemon answers: ") and "--runner subprocess" in done.stderr
