"""Following, continuing and chaining runs, with kfp's own client against the contract server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import SentinelError
from sentinel.pipelines.server import Server, ServerError, talking
from sentinel.pipelines.submit import Names, submit
from tests.contract.kfp_server import Backend, Body, serving

SPEC = Path("experiments/retail-cpu.yaml")
LONG = ("iterations=2",)
"""With one iteration a run."""
pytestmark = pytest.mark.filterwarnings("ignore")  # kfp's own: its client, its images, its dates


@pytest.fixture
def backend(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.chdir(root)
    with serving() as made:
        yield made


@pytest.fixture
def server(backend: Backend) -> Server:
    return Server.connect(backend.url, "kubeflow")


def send(server: Server, *sets: str, watch: bool = False, resume_from: str | None = None) -> Any:
    return submit(SPEC, "kind", sets or ("iterations=1",), Names(), server, watch=watch, resume_from=resume_from)


def passing(*states: str) -> Any:
    """What a run becomes each time that one looks at it; a task `train` follows it."""
    looks: dict[str, int] = {}

    def look(run: Body) -> None:
        at = looks[run["run_id"]] = looks.get(run["run_id"], -1) + 1
        run["state"] = states[min(at, len(states) - 1)]
        run["run_details"] = {"task_details": [{"display_name": "train", "state": run["state"]}]}

    return look


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, and short parts."""
    monkeypatch.setattr("sentinel.pipelines.server.time.sleep", lambda seconds: None)
    monkeypatch.setattr("sentinel.pipelines.parts.LONGEST", 1)


def test_watching_tells_each_change_once(backend: Backend, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    backend.on_look = passing("PENDING", "RUNNING", "RUNNING", "SUCCEEDED")
    assert send(server, watch=True).state == "SUCCEEDED"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    assert lines == ["train: pending", "train: running", "train: succeeded"]


def test_a_failed_run_says_how_to_go_on(backend: Backend, server: Server) -> None:
    backend.on_look = passing("RUNNING", "FAILED")
    with pytest.raises(ServerError, match=r"ended as failed[\s\S]*--resume-from run-1"):
        send(server, watch=True)


def test_an_outage_while_watching_is_sat_out(backend: Backend, server: Server) -> None:
    states = passing("RUNNING", "SUCCEEDED")
    failures = [3]

    def look(run: Body) -> None:
        if failures[0]:
            failures[0] -= 1
            raise ConnectionError("the pod is being moved")
        states(run)

    backend.on_look = look
    assert send(server, watch=True).state == "SUCCEEDED"


@pytest.mark.parametrize(("event", "code"), [(KeyboardInterrupt, 130), (ConnectionError, 1)])
def test_a_run_that_is_left_goes_on_and_can_be_followed_again(
    event: type[BaseException], code: int, backend: Backend, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Server._patiently
    monkeypatch.setattr(Server, "_patiently", lambda self, run: _raise(event) if backend.runs else None)
    with pytest.raises(SentinelError, match=r"the run goes on: .*run-1[\s\S]*--watch --resume-from run-1") as left:
        send(server, watch=True)
    assert left.value.exit_code == code
    monkeypatch.setattr(Server, "_patiently", watch)
    backend.on_look = passing("RUNNING", "RUNNING", "SUCCEEDED")
    assert send(server, watch=True, resume_from="run-1").state == "SUCCEEDED"
    assert list(backend.runs) == ["run-1"]


def _raise(event: type[BaseException]) -> Any:
    with talking("look at the run"):
        raise event


def test_a_long_experiment_is_a_chain_of_runs(backend: Backend, server: Server) -> None:
    backend.on_look = passing("SUCCEEDED")
    send(server, *LONG, watch=True)
    shown = [run["runtime_config"]["parameters"] for run in backend.runs.values()]
    assert [(one["part"], one["continues"]) for one in shown] == [("1 of 2", "-"), ("2 of 2", "run-1")]
    assert shown[0]["spec_hash"] == shown[1]["spec_hash"]


def test_resuming_takes_the_part_that_is_missing(backend: Backend, server: Server) -> None:
    first = send(server, *LONG)
    backend.runs[first.id]["state"] = "FAILED"
    again = send(server, *LONG, resume_from=first.id)
    assert again.parameters["part"] == "1 of 2"
    backend.runs[again.id]["state"] = "SUCCEEDED"
    second = send(server, *LONG, resume_from=again.id)
    assert (second.parameters["part"], second.parameters["continues"]) == ("2 of 2", again.id)
    backend.runs[second.id]["state"] = "FAILED"
    third = send(server, *LONG, resume_from=second.id)
    assert (third.parameters["part"], third.parameters["continues"]) == ("2 of 2", again.id)
    backend.runs[third.id]["state"] = "SUCCEEDED"
    with pytest.raises(SentinelError, match="nothing is left to do"):
        send(server, *LONG, resume_from=third.id)


def test_a_run_of_another_spec_or_one_that_still_runs_is_not_continued(backend: Backend, server: Server) -> None:
    first = send(server)
    with pytest.raises(SentinelError, match="follow it with --watch"):
        send(server, resume_from=first.id)
    backend.runs[first.id]["state"] = "FAILED"
    with pytest.raises(SentinelError, match=r"is of another spec .*spec_hash"):
        send(server, "iterations=1", "trainer.steps=3", resume_from=first.id)
    assert len(backend.runs) == 1


@pytest.mark.parametrize("identity", ["", " "])
def test_an_empty_id_is_no_run_to_continue(identity: str, backend: Backend, server: Server) -> None:
    with pytest.raises(SentinelError, match="expected the id of a run"):
        send(server, resume_from=identity)
    assert not backend.runs


def test_a_server_that_never_answers_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel.pipelines.client.LIMITS", (0.1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServerError, match="Read timed out"):
        Server.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", "kubeflow")


def test_no_server_is_said_with_the_way_to_reach_one() -> None:
    with pytest.raises(ServerError, match="KF_PIPELINES_ENDPOINT"):
        Server.connect("http://127.0.0.1:9", "kubeflow")
