"""`submit --local --runner docker` starts containers itself: what it says of their end, and that none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sentinel.pipelines.containers import GONE, run_container
from tests.system.containers.machine import run

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(300, func_only=True)]
IMAGE = "sentinel-controller:dev"
MARK = uuid4().hex
OURS_ONLY = f"label=sentinel.test={MARK}"
RUN = f"""
import sys, docker
from sentinel.pipelines.containers import run_container, runner
from sentinel.spec.cluster import Bucket, Cluster
from pathlib import Path
with runner(Cluster(bucket=Bucket(url="s3://b")), ["{IMAGE}"], Path(sys.argv[1])):
    run_container(docker.from_env(), "{IMAGE}", sys.argv[2:], {{}}, init=True, labels={{"sentinel.test": "{MARK}"}})
"""
SLOW = ["python", "-c", "import signal, time; signal.signal(15, lambda *_: exit('ended in order')); time.sleep(60)"]


def running() -> list[str]:
    return run("docker", "ps", "--quiet", "--filter", OURS_ONLY).split()


def wait_until_running() -> str:
    deadline = time.monotonic() + 60
    while not (found := running()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[0]


@pytest.fixture
def client(docker: None) -> Iterator[Any]:
    from docker import from_env

    made = from_env()
    yield made
    made.close()
    assert run("docker", "ps", "--all", "--quiet", "--filter", OURS_ONLY) == "", "a container was left"


def start(client: Any, *command: str) -> int:
    return run_container(client, IMAGE, list(command), {}, labels={"sentinel.test": MARK}, init=True)


@pytest.mark.parametrize("code", [0, 3])
def test_a_containers_log_and_exit_code_are_what_they_are(
    client: Any, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(client, "sh", "-c", f"echo größer; exit {code}") == code
    assert capsys.readouterr().out == "größer\n"


def test_a_container_that_somebody_removes_is_no_success(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def remove() -> None:
        run("docker", "rm", "--force", wait_until_running())

    thread = threading.Thread(target=remove)
    thread.start()
    code = start(client, "sleep", "60")
    thread.join()
    assert code == GONE
    told = capsys.readouterr().out
    assert told == "" or "was removed before it had ended" in told, "docker told the code, or nothing could"


def test_whoever_ends_the_run_ends_its_container_first(client: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path), *SLOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        container = wait_until_running()
        time.sleep(1)  # until its Python listens to signals
        os.kill(process.pid, signal.SIGTERM)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert container not in running()
