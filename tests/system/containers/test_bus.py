"""The whole loop, each stage in a container of its own, with an S3 bucket between them; then the bucket against git.

The tests run in order, as a user would work: the containers fill the bucket, a checkout takes from it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sentinel.pipelines.submission import prepare
from tests.system.containers.conftest import Clock
from tests.system.containers.machine import Bucket, run
from tests.system.containers.pods import Pods

pytestmark = pytest.mark.timeout(3600)

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
"""
EXECUTED = re.compile(r"^Running stage '", re.MULTILINE)


class Checkout:
    """A git clone with the experiment in it, as a user has one."""

    def __init__(self, folder: Path, root: Path, profile: str, lock: Path, bucket: Bucket | None) -> None:
        self.folder, self._bucket = folder, bucket
        run("git", "clone", "--quiet", str(root), str(folder))
        (folder / SPEC).write_text(longer((root / "tests/e2e/small.yaml").read_text()))
        (folder / "experiments/profiles/containers.yaml").write_text(profile)
        (folder / "images.lock").write_text(lock.read_text())
        self.call("sentinel.cli", "compile")
        if bucket:
            self.call("dvc", "remote", "add", "--local", "--default", "bus", bucket.url)
            self.call("dvc", "remote", "modify", "--local", "bus", "endpointurl", bucket.endpoint)

    def call(self, *module: str) -> str:
        """Run a module of this environment, with the checkout's own sources."""
        credentials = self._bucket.environment if self._bucket else {}
        env = {"PYTHONPATH": str(self.folder), "SENTINEL_PROFILE": "containers", **credentials}
        return run(sys.executable, "-m", *module, cwd=self.folder, env=env)

    def hashes(self) -> dict[str, str]:
        """Output -> content hash, of every stage that DVC knows to be done."""
        lock = YAML(typ="safe", pure=True).load(self.folder / FILE.replace(".yaml", ".lock"))
        return outputs(lock["stages"])


def longer(spec: str) -> str:
    """The smallest experiment, with more rollouts: they must last long enough to be killed in."""
    few, many = "rollout: {tasks: 12, trials: 2, max_new_tokens: 8, chunk: 16}", "rollout: {tasks: 48, trials: 8,"
    assert few in spec
    return spec.replace(few, f"{many} max_new_tokens: 8, chunk: 16}}")


def outputs(stages: Mapping[str, Any]) -> dict[str, str]:
    """Output -> content hash, of lock entries."""
    return {out["path"]: out["md5"] for entry in stages.values() for out in entry["outs"]}


@pytest.fixture(scope="module")
def profile(bucket: Bucket) -> str:
    return PROFILE.format(url=bucket.url, endpoint=bucket.endpoint)


@pytest.fixture(scope="module")
def checkout(
    root: Path, profile: str, lock: Path, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("clone") / "checkout", root, profile, lock, bucket)


@pytest.fixture(scope="module")
def pods(checkout: Checkout, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with chdir(checkout.folder):
        submission = prepare(Path(SPEC), "containers")
    with closing(Pods(tmp_path_factory.mktemp("pods"), submission, bucket)) as made:
        yield made


def test_every_stage_runs_in_its_own_container_and_two_kills_cost_nothing_that_was_done(
    pods: Pods, clock: Clock
) -> None:
    for stage in pods.stages:
        with clock(f"stage in its container: {stage.name} ({stage.component})"):
            if stage.kind == "rollout":
                survive_two_kills(pods, stage)
            else:
                done = pods.perform(stage)
                assert done.metadata["executed"] is True
                assert len(EXECUTED.findall(done.log)) == 1
    assert set(pods.baton(pods.stages[-1]).stages) == {stage.name for stage in pods.stages}


def survive_two_kills(pods: Pods, stage: Any) -> None:
    """Kill the container after its first chunk, and after some more; the third one plays only what is missing."""

    def chunks() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in pods.state(stage).rglob("chunks/[!.]*")}

    def enough(count: int) -> bool:
        return len(chunks()) >= count

    kept: dict[Path, int] = {}
    for more in (1, 4):
        pods.start(stage)
        pods.kill(stage, when=partial(enough, len(kept) + more))
        now = chunks()
        assert kept.items() <= now.items(), "a chunk that was done was played again"
        kept = now
    pods.start(stage)
    done = pods.wait(stage)
    assert done.metadata["executed"] is True
    timings = pods.state(stage) / "timings" / f"{stage.name}.json"
    assert '"resumed":true' in timings.read_text().replace(" ", "")


def test_the_same_run_again_executes_nothing(pods: Pods, tmp_path: Path, clock: Clock) -> None:
    again = Pods(tmp_path, pods.submission, pods.bucket, job="second")
    with closing(again), clock("the same run again, in containers: nothing executes"):
        done = [again.perform(stage) for stage in again.stages]
    assert [each.metadata["executed"] for each in done] == [False] * len(done)


def test_a_checkout_takes_everything_from_the_bucket_and_executes_nothing(
    checkout: Checkout, pods: Pods, clock: Clock
) -> None:
    with clock("dvc repro --pull in a git clone"):
        log = checkout.call("dvc", "repro", "--pull", f"{FILE}:{REPORT}")
    assert EXECUTED.findall(log) == []
    assert checkout.hashes() == outputs(pods.baton(pods.stages[-1]).stages)
    assert (checkout.folder / "runs/small/report/report.html").is_file()


def test_the_laptop_alone_makes_the_same_bytes(
    root: Path, profile: str, lock: Path, checkout: Checkout, tmp_path: Path, clock: Clock
) -> None:
    alone = Checkout(tmp_path / "alone", root, profile, lock, None)
    with clock("sentinel run without containers"):
        alone.call("sentinel.cli", "run", SPEC)
    assert alone.hashes() == checkout.hashes()
