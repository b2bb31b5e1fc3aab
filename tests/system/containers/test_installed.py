"""Fresh environments: `kfp run submit SPEC` is ours whichever of kfp and this package was installed first, or last."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.kfp_server import Backend, serving
from tests.system.containers.conftest import Clock
from tests.system.containers.machine import run

pytestmark = pytest.mark.timeout(1800)
KFP = ("kfp", "kfp-kubernetes")
SPEC = "experiments/retail.yaml"


class Environment:
    """A virtual environment."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._bin, self._pins = folder / "bin", root / "constraints.txt"
        run(sys.executable, "-m", "venv", str(folder))

    def install(self, *requirements: str) -> None:
        options = ("--quiet", "--no-compile", "--disable-pip-version-check", "--constraint", str(self._pins))
        run(str(self._bin / "python"), "-m", "pip", "install", *options, *requirements)

    def kfp(self, backend: Backend, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command as a user types it there."""
        variables = {"KF_PIPELINES_ENDPOINT": backend.url, "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
        command = [str(self._bin / "kfp"), *arguments]
        return subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.fixture
def backend() -> Iterator[Backend]:
    with serving() as made:
        yield made


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """Specs and the digests of images; no sources."""
    shutil.copytree(root / "experiments", tmp_path / "project/experiments")
    names = ("controller", "proposer-cuda", "rollout-cuda", "trainer-cuda", "evaluator-cuda")
    lines = (f"{name}: registry.invalid/{name}@sha256:{'a' * 64}\n" for name in names)
    (tmp_path / "project/images.lock").write_text("".join(lines))
    return tmp_path / "project"


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(root))
    return next(folder.glob("*.whl"))


def submits(environment: Environment, backend: Backend, project: Path) -> None:
    """Ours for a spec, with every parameter; upstream's for a compiled pipeline."""
    count = len(backend.runs)
    done = environment.kfp(backend, project, "run", "submit", SPEC)
    assert done.returncode == 0 and len(backend.runs) == count + 1, done.stderr
    parameters = list(backend.runs.values())[-1]["runtime_config"]["parameters"]
    assert {"spec_hash", "git_revision", "image_trainer", "trainer_steps", "seed"} <= parameters.keys()
    done = environment.kfp(backend, project, "run", "submit", "-f", "plain.yaml", "-e", "x", "number=3")
    assert done.returncode == 0 and "'submit' is deprecated, use 'create' instead" in done.stderr, done.stderr
    assert list(backend.runs.values())[-1]["runtime_config"]["parameters"] == {"number": 3}


@pytest.mark.parametrize("first", ["kfp", "ours"])
def test_in_both_orders_and_after_kfp_was_reinstalled(
    first: str, wheel: Path, project: Path, backend: Backend, root: Path, tmp_path: Path, clock: Clock
) -> None:
    script = root / "tests/contract/plain_pipeline.py"
    run(sys.executable, "-W", "ignore", str(script), cwd=project)
    environment = Environment(tmp_path / "venv", root)
    with clock(f"fresh environment, {first} first"):
        for requirement in ([*KFP], [f"{wheel}[kfp]"]) if first == "kfp" else ([str(wheel)], [*KFP]):
            environment.install(*requirement)
        submits(environment, backend, project)
        environment.install("--no-deps", "--force-reinstall", "kfp")
        submits(environment, backend, project)
