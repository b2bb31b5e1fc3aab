"""`--runner docker` without docker: what containers are given, and what is said when there is no daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.errors import StageError
from sentinel.pipelines.containers import credentials, runner
from sentinel.spec.cluster import Bucket, Cluster, Secret

CLUSTER = Cluster(bucket=Bucket(url="s3://b"), secrets=(Secret(name="hub", env={"HF_TOKEN": "token"}),))


def test_containers_are_given_credentials_and_nothing_else_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "HF_TOKEN", "AWS_CA_BUNDLE", "OTHER_TOKEN"):
        monkeypatch.setenv(name, "value")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert credentials(CLUSTER) == {"AWS_ACCESS_KEY_ID": "value", "HF_TOKEN": "value"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket that docker's SDK forgets
def test_no_daemon_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    message = pytest.raises(StageError, match=r"no docker daemon answers: [\s\S]*--runner subprocess")
    with message, runner(CLUSTER, ["sentinel-trainer:dev"], tmp_path):
        raise AssertionError("it began")
