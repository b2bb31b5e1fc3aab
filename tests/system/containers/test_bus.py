"""The whole loop in containers, one a stage, with an S3 bucket between them; then the bucket against git.

`sentinel submit --local --runner docker` runs the pipeline that a cluster would be given. The tests run in order, as a
user would work: the containers fill the bucket, checkouts take from it, and a laptop alone makes the same bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from components.images import locked
from sentinel.plan import plan
from sentinel.pod.baton import Baton
from sentinel.spec.load import load
from tests.e2e.launched import outputs
from tests.system.containers.checkout import FILE, REPORT, SPEC, Checkout, hashes
from tests.system.containers.conftest import Clock
from tests.system.containers.machine import Bucket, run

pytestmark = pytest.mark.timeout(1800, func_only=True)  # building the images does not count

SUBMIT = ("sentinel.cli", "submit", "--local", "--runner", "docker", SPEC)
EXECUTED = re.compile(r"^ *Running stage '", re.MULTILINE)
ENDED = "{{.Actor.Attributes.image}} {{.Actor.Attributes.exitCode}}"
STOPPED = re.compile(r"^ *stopped by a signal: dvc repro .*:small-rollout-01 ended with code 25[25]$", re.MULTILINE)
"""DVC's exit codes when it has seen the end of an interrupted stage; had it been killed, they were negative."""
PATIENCE = 600.0
"""Seconds until the pipeline comes to the rollout, on a busy machine."""


@pytest.fixture(scope="module")
def checkout(root: Path, lock: Path, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("clone") / "checkout", root, bucket, lock)


@pytest.fixture(scope="module")
def other(root: Path, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A colleague's clone, which has submitted nothing."""
    return Checkout(tmp_path_factory.mktemp("other") / "checkout", root, bucket)


def chunks(checkout: Checkout) -> dict[Path, int]:
    """Finished chunks of the rollout, and when each was written."""
    state = checkout.folder / ".sentinel/pods/state/small-rollout-01"
    return {path: path.stat().st_mtime_ns for path in state.rglob("chunks/[!.]*")}


def until(ready: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.02)


def killed(checkout: Checkout, signal: str, image: str, more: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Send the rollout's container a signal as soon as some more chunks are done; nothing that is done may be lost."""
    kept = chunks(checkout)
    until(lambda: len(chunks(checkout)) >= len(kept) + more, process, log)
    container = run("docker", "ps", "--quiet", "--filter", f"ancestor={image}").strip()
    run("docker", "kill", "--signal", signal, container)
    until(lambda: not run("docker", "ps", "--quiet", "--filter", f"id={container}"), process, log)
    assert kept.items() <= chunks(checkout).items(), "a chunk that was done was played again"


def test_every_stage_runs_in_its_own_container_and_two_kills_cost_nothing_that_was_done(
    checkout: Checkout, lock: Path, clock: Clock, tmp_path: Path
) -> None:
    images, log, began = locked(lock.read_text()), tmp_path / "log", str(int(time.time()))
    with clock("the loop in containers, killed twice"), checkout.start(*SUBMIT, log=log) as process:
        killed(checkout, "TERM", images["rollout"], 1, process, log)
        killed(checkout, "KILL", images["rollout"], 3, process, log)
    assert process.returncode == 0, log.read_text()[-5000:]

    stages = plan(load(checkout.folder / SPEC).experiment).stages
    found = outputs(checkout.folder)
    assert all(found[stage.name]["executed"] is True for stage in stages)
    timings = json.loads((checkout.folder / ".sentinel/pods/timings/small-rollout-01.json").read_text())
    assert timings["resumed"] is True
    assert len(EXECUTED.findall(log.read_text())) == len(stages) + 2
    assert len(STOPPED.findall(log.read_text())) == 1, "SIGTERM has not reached DVC and the stage"
    now = str(int(time.time()) + 1)  # docker counts whole seconds, and waits for this one to be over
    events = run("docker", "events", "--since", began, "--until", now, "--filter", "event=die", "--format", ENDED)
    expected = Counter(f"{images[stage.component]} 0" for stage in stages) + Counter([f"{images['evaluator']} 0"])
    expected += Counter([f"{images['rollout']} 143", f"{images['rollout']} 137"])
    assert Counter(events.splitlines()) == expected, "each in a container of its own, from its role's image, by digest"


def test_a_checkout_takes_everything_from_the_bucket_and_executes_nothing(checkout: Checkout, clock: Clock) -> None:
    with clock("dvc repro --pull in a git clone"):
        log = checkout.call("dvc", "repro", "--pull", f"{FILE}:{REPORT}")
    assert EXECUTED.findall(log) == []
    done = Baton.model_validate_json(Path(outputs(checkout.folder)[REPORT]["file"]).read_text())
    assert checkout.hashes() == hashes(done.stages)
    assert (checkout.folder / "runs/small/report/report.html").is_file()


def test_a_colleague_pulls_the_run_by_its_id(checkout: Checkout, other: Checkout, clock: Clock) -> None:
    with clock("sentinel pull in another clone"):
        told = other.call("sentinel.cli", "pull", outputs(checkout.folder)[REPORT]["run"])
    assert told.startswith("small: 11 of 11 stages are here, nothing was executed")
    assert other.hashes() == checkout.hashes()
    assert EXECUTED.findall(other.call("dvc", "repro", FILE)) == []


def test_the_laptop_alone_makes_the_same_bytes(
    root: Path, bucket: Bucket, checkout: Checkout, tmp_path: Path, clock: Clock
) -> None:
    alone = Checkout(tmp_path / "alone", root, bucket)
    with clock("sentinel run without containers"):
        alone.call("sentinel.cli", "run", SPEC)
    assert alone.hashes() == checkout.hashes()
