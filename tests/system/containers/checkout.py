"""A git clone with the smallest experiment in it, as a user has one, and the commands that a user calls there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.system.containers.machine import Bucket, run

SPEC, FILE, REPORT = "experiments/small.yaml", "experiments/small/dvc.yaml", "small-report"
PROFILE = """
apiVersion: sentinel.dev/v1alpha1
kind: Profile
metadata: {{name: containers}}
spec:
  threads: 2
  cluster:
    images: {{type: locked, lock: images.lock}}
    bucket: {{url: "{url}", endpoint: "{endpoint}"}}
    secrets: [{{name: s3, env: {{AWS_ACCESS_KEY_ID: key, AWS_SECRET_ACCESS_KEY: secret}}}}]
    retries: {{limit: 2, backoff_seconds: 1}}
"""


class Checkout:
    """The clone. Submitting takes the images of `lock`; DVC's remote is the bucket."""

    def __init__(self, folder: Path, root: Path, bucket: Bucket, lock: Path | None = None) -> None:
        self.folder, self.bucket = folder, bucket
        run("git", "clone", "--quiet", str(root), str(folder))
        (folder / SPEC).write_text(longer((root / "tests/e2e/small.yaml").read_text()))
        profile = PROFILE.format(url=bucket.url, endpoint=bucket.endpoint)
        (folder / "experiments/profiles/containers.yaml").write_text(profile)
        if lock:
            (folder / "images.lock").write_text(lock.read_text())
        self.call("sentinel.cli", "compile")
        self.call("dvc", "remote", "add", "--local", "--default", "bus", bucket.url)
        self.call("dvc", "remote", "modify", "--local", "bus", "endpointurl", bucket.endpoint)

    @property
    def variables(self) -> dict[str, str]:
        """Beside the test's own: this clone's sources, its profile, and the credentials."""
        return {"PYTHONPATH": str(self.folder), "SENTINEL_PROFILE": "containers", **self.bucket.environment}

    def call(self, *module: str) -> str:
        """Run a module of this environment; what it prints on stdout."""
        return run(sys.executable, "-m", *module, cwd=self.folder, env=self.variables)

    def start(self, *module: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a module of this environment; what it says goes to `log`."""
        command = [sys.executable, "-m", *module]
        with log.open("wb") as output:
            environment = {**os.environ, **self.variables}
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def hashes(self) -> dict[str, str]:
        """Output -> content hash, of every stage that DVC knows to be done."""
        lock = YAML(typ="safe", pure=True).load(self.folder / FILE.replace(".yaml", ".lock"))
        return hashes(lock["stages"])


def longer(spec: str) -> str:
    """The smallest experiment, with more rollouts: they must last long enough to be killed in."""
    few, many = "rollout: {tasks: 12, trials: 2, max_new_tokens: 8, chunk: 16}", "rollout: {tasks: 48, trials: 8,"
    assert few in spec
    return spec.replace(few, f"{many} max_new_tokens: 8, chunk: 16}}")


def hashes(stages: Mapping[str, Any]) -> dict[str, str]:
    """Output -> content hash, of lock entries."""
    return {out["path"]: out["md5"] for entry in stages.values() for out in entry["outs"]}
