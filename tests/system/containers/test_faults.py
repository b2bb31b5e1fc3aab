"""A bucket that takes nothing, or no more: what a pod says, what it leaves behind, and what the next one does.

The first pod of a run, as a process: what it meets is a real S3 server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from components.images import ROLES, lock_text
from sentinel.artifacts import canonical, read_json
from sentinel.pipelines.submission import prepare
from sentinel.pod.baton import Baton
from tests.system.containers.checkout import SPEC, Checkout
from tests.system.containers.machine import Bucket, run
from tests.system.containers.proxy import vanishing

pytestmark = pytest.mark.timeout(600)

BEGIN = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from sentinel.pod import bus
from sentinel.pod.main import begin

bus.ATTEMPTS, bus.PAUSE = 2, 0.1
after = SimpleNamespace(path=sys.argv[2], metadata={})
begin("runs/small", "job", Path(sys.argv[1]).read_text(), "", after)
print("executed:", after.metadata["executed"])
"""
LIST = "import s3fs, sys; print(*s3fs.S3FileSystem(endpoint_url=sys.argv[1]).find(sys.argv[2]), sep='\\n')"


class FirstPod:
    """The pod that resolves the spec; its state survives it, and it can be started again."""

    def __init__(self, checkout: Checkout, folder: Path) -> None:
        self._checkout, self._folder, self.result = checkout, folder, folder / "result"
        with chdir(checkout.folder):
            made = prepare(Path(SPEC), "containers")
        baton = made.project.baton.model_copy(update={"parameters": dict(made.parameters)})
        (folder / "project").write_text(canonical(baton.model_dump(mode="json")))

    def run(self, endpoint: str, key: str, secret: str) -> subprocess.CompletedProcess[str]:
        """Its end, against an S3 server with some credentials."""
        place = {"SENTINEL_REMOTE": self._checkout.bucket.url, "SENTINEL_REMOTE_ENDPOINT": endpoint}
        state = {"SENTINEL_STATE": str(self._folder / "state")}
        # Botocore, which asks a server that is gone five times, would do so beneath s3fs and us, who ask again as well.
        credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_MAX_ATTEMPTS": "1"}
        command = [sys.executable, "-c", BEGIN, str(self._folder / "project"), str(self.result)]
        env = {**os.environ, "PYTHONPATH": str(self._checkout.folder), **place, **state, **credentials}
        return subprocess.run(command, env=env, cwd=self._folder, capture_output=True, text=True)

    def bucket(self) -> set[str]:
        """What lies in the bucket, below its folder."""
        bucket = self._checkout.bucket
        listed = run(sys.executable, "-c", LIST, bucket.endpoint, f"{bucket.name}/cas", env=bucket.environment)
        return {line.removeprefix(f"{bucket.name}/cas/") for line in listed.splitlines()}


@pytest.fixture
def pod(root: Path, bucket: Bucket, tmp_path: Path) -> FirstPod:
    """The fault's own experiment, so that no other test's results stand in for it; its images are never started."""
    lock = tmp_path / "images.lock"
    lock.write_text(lock_text({role: f"registry.invalid/{role}@sha256:{'0' * 64}" for role in ROLES}))
    checkout = Checkout(tmp_path / "checkout", root, bucket, lock)
    spec = checkout.folder / SPEC
    spec.write_text(spec.read_text().replace("seed: 3\n  iterations", f"seed: {os.getpid()}\n  iterations"))
    return FirstPod(checkout, tmp_path)


def test_a_bucket_that_is_read_only_is_said_before_any_work(pod: FirstPod, bucket: Bucket) -> None:
    before = pod.bucket()
    done = pod.run(bucket.endpoint, *bucket.reader)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: the bucket cannot be written: PermissionError")
    assert "Running stage" not in done.stdout and not pod.result.exists()
    assert pod.bucket() == before


def test_a_bucket_that_vanishes_in_mid_push_keeps_no_half_and_nothing_runs_twice(pod: FirstPod, bucket: Bucket) -> None:
    before = pod.bucket()
    with vanishing(bucket.endpoint, until=b"PUT /sentinel/cas/runs/") as proxy:
        done = pod.run(proxy.endpoint, bucket.key, bucket.secret)
        assert proxy.gone.is_set()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "small-spec: not sent yet, trying again. the bucket took the outputs but not their record" in done.stderr
    assert "error: small-spec is done, but its result was not sent. " in done.stderr
    left = {path.split("/")[0] for path in pod.bucket() - before}
    assert "files" in left and "runs" not in left and not pod.result.exists(), "a record without a result, or a baton"

    again = pod.run(bucket.endpoint, bucket.key, bucket.secret)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == "executed: False", again.stdout + again.stderr
    assert "small-spec" in read_json(pod.result, Baton).stages
    assert {path.split("/")[0] for path in pod.bucket() - before} == {"files", "runs", "sentinel"}
