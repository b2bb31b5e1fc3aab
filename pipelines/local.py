"""The very same pipeline without a cluster: compiled as for one, run by kfp.local on this machine.

The bucket is a folder of the project unless the profile names one. Tasks run one after the other.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from sentinel.errors import SentinelError, StageError
from sentinel.pipelines.submission import Submission, prepare
from sentinel.runner.child import environment
from sentinel.spec.cluster import Bucket, Cluster, Retries
from sentinel.stages.context import HOME

Runner = Literal["subprocess", "docker"]
ANSI = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, which kfp puts into its errors."""
CREDENTIALS = "AWS_"
"""Environment variables that containers are given: how they begin."""


def here(root: Path) -> Cluster:
    """This machine as a place: bucket and state in the project's own folder, no second try."""
    home = (root / HOME).resolve()
    return Cluster(
        bucket=Bucket(url=str(home / "bucket")),
        environment={"SENTINEL_STATE": str(home / "pods")},
        retries=Retries(limit=0),
    )


def run_local(
    spec: Path, profile: str, sets: Sequence[str] = (), runner: Runner = "subprocess", root: Path = Path()
) -> Submission:
    """Compile an experiment and run its pipeline on this machine.

    Raises:
        SentinelError: the spec is wrong, or it is too long for one run.
        StageError: a task failed; its messages stand above.
    """
    made = prepare(spec, profile, sets, cluster=here(root), root=root)
    if made.part.of > 1:
        raise SentinelError(f"{spec}: {made.part.of} runs one after the other need a server; use `sentinel run`")
    os.environ["PATH"] = environment()["PATH"]
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own: images without `python` in their name
        package = Path(folder) / "pipeline.yaml"
        made.compile(package)
        _execute(package, _runner(runner), root / HOME / "kfp")
    return made


def _runner(name: Runner) -> Any:
    from kfp import local

    if name == "subprocess":
        return local.SubprocessRunner(use_venv=False)
    credentials = {key: value for key, value in os.environ.items() if key.startswith(CREDENTIALS)}
    return local.DockerRunner(network_mode="host", environment=credentials)


def _execute(package: Path, runner: Any, outputs: Path) -> None:
    from kfp import components, local

    pipeline = components.load_component_from_file(str(package))
    local.init(runner=runner, pipeline_root=str(outputs.resolve()), raise_on_error=True)
    try:
        with redirect_stdout(sys.stderr):  # kfp prints the tasks' logs
            pipeline()
    except RuntimeError as error:
        raise StageError(f"{ANSI.sub('', str(error))}\n    the failed task's own message stands above") from None
