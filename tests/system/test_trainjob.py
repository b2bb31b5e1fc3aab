"""Two nodes of a TrainJob, by the SDK's local backend, make the same weights as `torchrun` with two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

pytest.importorskip("kubeflow", reason="needs the extra trainjob")

from sentinel.errors import StageError
from sentinel.launch.follow import Order, follow
from sentinel.llm.policy import load_policy, new_policy, save_policy
from sentinel.llm.tokenizer import train_tokenizer
from tests.contract.listening import free_port
from tests.system.local_jobs import LocalJobs
from tests.system.test_ranks import TINY

SCRIPT = Path(__file__).with_name("two_ranks.py")
ORDER = Order(name="small-train-01-0a1b2c3d", image="local", nodes=2, resources={}, environment={})
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(["cancel the order", "why"], ["x", "y"], max_context=128)
    path = tmp_path_factory.mktemp("trainjob") / "policy"
    save_policy(path, new_policy(TINY, tokenizer, seed=3))
    return path


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def torchrun(policy: Path, weights: Path) -> dict[str, torch.Tensor]:
    options = ["--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *options, str(SCRIPT)]
    variables = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([*command, str(policy), str(weights)], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(weights)


def test_two_nodes_of_a_job_make_the_weights_of_torchrun(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, rendezvous = tmp_path / "job" / "weights.safetensors", f"127.0.0.1:{free_port()}"
    weights.parent.mkdir()
    other = ["--node=1", "--nodes=2", "--ranks=1", f"--rendezvous={rendezvous}", "--device=cpu"]
    jobs = LocalJobs([str(SCRIPT), str(policy), str(weights), rendezvous], ["-m", "sentinel.solver.rank", *other])
    follow(jobs, ORDER, seconds=500.0, look=2.0)
    expected, found = torchrun(policy, tmp_path / "torchrun.safetensors"), load_file(weights)
    before = dict(load_policy(policy).model.named_parameters())
    assert expected.keys() == found.keys() == before.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not any(torch.equal(before[name], tensor) for name, tensor in expected.items() if tensor.ndim > 1)


def test_a_node_that_fails_fails_the_job_and_its_log_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = LocalJobs(["-c", "print('first node')"], ["-c", "raise SystemExit('no such device')"])
    with pytest.raises(StageError, match="TrainJob small-train-01-0a1b2c3d failed; its log stands above"):
        follow(jobs, ORDER, seconds=300.0, look=2.0)
    told = capsys.readouterr().out
    assert "first node" in told and "no such device" in told


def test_a_job_that_is_there_already_is_not_created_again(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = LocalJobs(["-c", "import time; time.sleep(3); print('done')"])
    jobs.create(ORDER)
    follow(jobs, ORDER, seconds=300.0, look=2.0)
    assert len(jobs.created) == 1 and "is there already" in capsys.readouterr().err
