"""The machine of the container tier: each part starts once, on first use, and stops at the end. Times are printed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from components.images import LOCK
from tests.system.containers import machine

BASE = "sentinel-python:dev"
TIMES = pytest.StashKey[dict[str, float]]()
TOOLS = "build/tools/bin/python"


class Clock:
    """How long the parts of the tier take, by name."""

    def __init__(self, times: dict[str, float]) -> None:
        self._times = times

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        began = time.monotonic()
        yield
        self._times[name] = time.monotonic() - began


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TIMES] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an ended run stops what it has started, too


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if times := config.stash[TIMES]:
        terminalreporter.section("times of the container tier")
        for name, seconds in times.items():
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")


@pytest.fixture(scope="session")
def clock(request: pytest.FixtureRequest) -> Clock:
    return Clock(request.config.stash[TIMES])


@pytest.fixture(scope="session")
def cache() -> Path:
    """What a second run of the tier uses again; outside of the checkout, as DVC would search it for stages."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("SENTINEL_SYSTEM_CACHE") or home / "sentinel-system")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def docker(cache: Path, clock: Clock) -> Iterator[None]:
    """A daemon that answers: the machine's, or one of our own."""
    with ExitStack() as stack:
        if not machine.daemon_answers():
            with clock("docker: install and start"):
                host = stack.enter_context(machine.dockerd(cache))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("DOCKER_HOST", host)
        yield


@pytest.fixture(scope="session")
def images(docker: None, cache: Path, clock: Clock, root: Path) -> None:
    """The images of this checkout, on a Debian of our own making."""
    with clock("base system: mmdebstrap and import"):
        machine.debian_base(cache, BASE)
    with clock("images: build all, SBOMs"):
        print(machine.run(TOOLS, "-m", "components.images", "build", "--base", BASE))


@pytest.fixture(scope="session")
def registry(images: None, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with machine.registry(cache, tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def lock(registry: str, root: Path, clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images.lock as `make push` writes it, but not in the checkout."""
    folder = tmp_path_factory.mktemp("lock")
    with clock("images: push all to a registry"):
        command = [str(root / TOOLS), "-m", "components.images", "push", registry]
        machine.run(*command, cwd=folder, env={"PYTHONPATH": str(root)})
    return folder / LOCK


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[machine.Bucket]:
    with ExitStack() as stack:
        with clock("SeaweedFS: start"):
            found = stack.enter_context(machine.s3(tmp_path_factory.mktemp("s3")))
        yield found
