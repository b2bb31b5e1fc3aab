"""A training that is spread over processes makes the same steps: ZeRO stages 0, 2 and 3, one rank and two.

The policy is transformers' `LlamaForCausalLM` with the architecture of every Llama (RMSNorm, rotary embeddings, gated
feed-forward layers, tied embeddings) and random weights in fp32: 2 layers of width 32, 2 heads, feed-forward layers of
width 64, a context of 128 tokens and the vocabulary of a tokenizer that is trained here. It is no published model.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sentinel.errors import StageError
from sentinel.llm.policy import Dtype, Policy, load_policy, new_policy, save_policy
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.llm.transcript import Tokens
from sentinel.solver.batch import Sample
from sentinel.solver.rank import Setup
from sentinel.solver.ranked import RankedBackend, ranked
from sentinel.solver.update import Updater
from sentinel.spec.models import TinyPolicy
from sentinel.spec.profile import DeepSpeedTrainer
from sentinel.spec.trainer import Trainer as Settings

TINY = TinyPolicy(type="tiny", layers=2, hidden=32, heads=2, feed_forward=64, max_context=128)
STEPS = 5
SETTINGS = Settings(learning_rate=1e-3, kl=0.05, max_new_tokens=16, micro_batch_tokens=96, aggregation="sequence")
zero = pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed (extra: deepspeed)")
Stage = Literal[0, 2, 3]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["cancel the order", "what is the reason"], ["x", "y"], max_context=128)


@pytest.fixture(scope="module")
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of random weights."""
    path = tmp_path_factory.mktemp("ranks") / "policy"
    save_policy(path, new_policy(TINY, tokenizer, seed=3))
    return path


def batch(step: int, vocabulary: int) -> list[Sample]:
    """Seven episodes: no number of ranks divides their micro-batches evenly every time."""
    rng = np.random.default_rng(step)
    found = []
    for _ in range(7):
        length = int(rng.integers(12, 60))
        sampled = rng.random(length) < 0.5
        sampled[0], sampled[-1] = False, True
        logprobs = np.where(sampled, rng.normal(-3.0, 0.2, length), 0.0).astype(np.float32)
        found.append(Sample(Tokens(rng.integers(0, vocabulary, length), sampled, logprobs), float(rng.normal())))
    return found


@contextmanager
def spread(
    folder: Path, state: Path, stage: Stage, ranks: int, dtype: Dtype = "float32", settings: Settings = SETTINGS
) -> Iterator[tuple[Policy, RankedBackend]]:
    place = DeepSpeedTrainer(type="deepspeed", stage=stage, ranks=ranks, start_seconds=600)
    setup = Setup(
        policy=str(folder),
        dtype=dtype,
        device="cpu",
        settings=settings.model_dump_json(),
        place=place.model_dump_json(),
        adapters_seed=1,
    )
    policy = load_policy(folder, dtype=dtype)
    with ranked(policy.model, setup, place, state=state, threads=1) as backend:
        yield policy, backend


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([each.detach().float().flatten() for each in policy.model.parameters()])


@pytest.fixture(scope="module")
def alone(folder: Path) -> tuple[list[float], torch.Tensor]:
    """Losses and final weights of the `torch` backend."""
    policy = load_policy(folder)
    updater = Updater(policy.model, SETTINGS)
    updates = [updater.update(batch(step, len(policy.tokenizer))) for step in range(STEPS)]
    return [each.loss for each in updates if each], weights(policy)


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [(0, 1), (0, 2), pytest.param(2, 1, marks=zero), pytest.param(2, 2, marks=zero), pytest.param(3, 1, marks=zero),
     pytest.param(3, 2, marks=zero)],
)  # fmt: skip
def test_stages_and_ranks_make_the_same_steps_and_resume(
    stage: Stage, ranks: int, folder: Path, alone: tuple[list[float], torch.Tensor], tmp_path: Path
) -> None:
    """Killed after step 3 and continued in new processes; in the end the weights are exported, and load."""
    losses, middle = [], tmp_path / "middle.safetensors"
    with spread(folder, tmp_path / "first", stage, ranks) as (policy, backend):
        vocabulary = len(policy.tokenizer)
        for step in range(3):
            found = backend.update(batch(step, vocabulary))
            assert found is not None
            losses.append(found.loss)
        backend.save(middle)
    with spread(folder, tmp_path / "second", stage, ranks) as (policy, backend):
        backend.load(middle)
        for step in range(3, STEPS):
            found = backend.update(batch(step, vocabulary))
            assert found is not None
            losses.append(found.loss)
        nonsense = [sample._replace(advantage=float("nan")) for sample in batch(9, vocabulary)]
        before = weights(policy)
        assert backend.update(nonsense) is None
        backend.save(tmp_path / "end.safetensors")
        assert torch.equal(weights(policy), before)
    print("losses", losses, "alone", alone[0])
    assert losses == pytest.approx(alone[0], abs=1e-4)
    assert float((weights(policy) - alone[1]).abs().max()) < 1e-4
    save_policy(tmp_path / "exported", policy)
    ids = torch.arange(20)[None] % vocabulary
    with torch.no_grad():
        expected = policy.model(input_ids=ids).logits
        assert torch.equal(load_policy(tmp_path / "exported").model(input_ids=ids).logits, expected)


def test_a_checkpoint_of_the_torch_backend_continues_on_two_ranks(
    folder: Path, alone: tuple[list[float], torch.Tensor], tmp_path: Path
) -> None:
    policy = load_policy(folder)
    updater = Updater(policy.model, SETTINGS)
    for step in range(4):
        updater.update(batch(step, len(policy.tokenizer)))
    updater.save(tmp_path / "four.safetensors")
    with spread(folder, tmp_path, 0, 2) as (other, backend):
        backend.load(tmp_path / "four.safetensors")
        found = backend.update(batch(4, len(policy.tokenizer)))
        assert found is not None
        assert found.loss == pytest.approx(alone[0][4], abs=1e-5)
        assert float((weights(other) - alone[1]).abs().max()) < 1e-4


def test_a_rank_that_dies_ends_the_run_and_nobody_is_left(folder: Path, tmp_path: Path) -> None:
    died = pytest.raises(StageError, match=r"rank 1 of the training ended with exit code \d+; the checkpoints are")
    with died, spread(folder, tmp_path, 0, 2) as (policy, backend):
        keepers = [process.pid for process in backend._ranks._processes]
        victim = int(Path(f"/proc/{keepers[1]}/task/{keepers[1]}/children").read_text().split()[0])
        os.kill(keepers[1], signal.SIGSTOP)  # so that the other one, who misses it, is seen to end first
        os.kill(victim, signal.SIGKILL)
        threading.Thread(target=_continue_after, args=keepers).start()
        backend.update(batch(0, len(policy.tokenizer)))
    assert not [pid for pid in keepers if _runs(pid)]


def _continue_after(first: int, second: int) -> None:
    while _runs(first):
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(second, signal.SIGCONT)


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()
