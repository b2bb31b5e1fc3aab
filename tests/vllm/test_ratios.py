"""At step 0 engine and trainer agree about a real model: importance ratios of the engine in process, and of vLLM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sentinel.llm.engine import Engine, Limits, Sample
from sentinel.llm.hf import HfEngine
from sentinel.llm.lora import attach, save_adapter
from sentinel.llm.policy import Dtype, Policy, load_policy, save_policy
from sentinel.llm.templates import END, Hermes
from sentinel.llm.transcript import Tokens
from sentinel.seeds import generator
from sentinel.solver import batch
from sentinel.solver.loss import score
from tests.vllm.conftest import Server, running

pytestmark = pytest.mark.timeout(2400)

ROWS, TURN = 16, 24
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
SAYINGS = ("I want to cancel my order.", "Where is my parcel?", "Can you exchange the mug for a blue one?", "Hello!")


class Served(NamedTuple):
    """A server, and the precision of its policy."""

    dtype: Dtype
    server: Server


class Answer:
    """One sampled turn."""

    def __init__(self, prompt: list[int], seed: int) -> None:
        self._prompt, self._seed = prompt, seed

    def start(self) -> list[int]:
        return self._prompt

    def advance(self, sample: Sample) -> None:
        ids = np.array([*self._prompt, *sample.ids], dtype=np.int64)
        read = np.zeros(len(self._prompt))
        sampled = np.concatenate([read, np.ones(len(sample.ids))]).astype(bool)
        self.tokens = Tokens(ids, sampled, np.concatenate([read, sample.logprobs]).astype(np.float32))

    def abandon(self, reason: str) -> None:
        raise AssertionError(reason)

    def noise(self, count: int) -> NDArray[np.float64]:
        return generator(self._seed, "noise").random(count)


def ratios(engine: Engine, policy: Policy) -> NDArray[np.float64]:
    """Trainer to engine, of every sampled token."""
    prompts = [policy.tokenizer.encode(Hermes().opening(SAYINGS[n % len(SAYINGS)])) for n in range(ROWS)]
    answers = [Answer(prompt, seed) for seed, prompt in enumerate(prompts)]
    engine.run(answers, Limits(1.0, TURN, 128))
    samples = [batch.Sample(answer.tokens, 1.0) for answer in answers]
    (whole,) = batch.micro_batches(samples, max_tokens=10_000)
    with torch.no_grad():
        logprobs = score(policy.model, whole, temperature=1.0).logprobs
    found: NDArray[np.float64] = (logprobs - whole.behaviour).exp().double().numpy()
    return found


def assert_one(found: NDArray[np.float64], dtype: Dtype) -> None:
    """In fp32 at least 99% lie within a hundredth of 1, in bfloat16 at least 85% within a tenth."""
    width, share = (0.01, 0.99) if dtype == "float32" else (0.1, 0.85)
    within = float((np.abs(found - 1.0) <= width).mean())
    print(f"{dtype}: {len(found)} tokens, {within:.3f} within {width}, from {found.min():.4f} to {found.max():.4f}")
    assert len(found) >= 120
    assert within >= share


def stop(policy: Policy) -> int:
    token: int = policy.tokenizer.convert_tokens_to_ids(END)
    return token


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_engine_in_process_agrees(dtype: Dtype, root: Path) -> None:
    folder = root / ".venv-vllm" / "smollm2"
    if not folder.exists():
        pytest.skip("needs .venv-vllm/smollm2 (make test-vllm)")
    policy = load_policy(folder, dtype=dtype)
    assert_one(ratios(HfEngine(policy.model, stop(policy)), policy), dtype)


@pytest.fixture(scope="module", params=DTYPES)
def served(root: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The session's server for fp32, and one of its own for bfloat16."""
    if request.param == "float32":
        yield Served("float32", request.getfixturevalue("server"))
        return
    with running(root, tmp_path_factory.mktemp("low"), "bfloat16") as started:
        yield Served("bfloat16", started)


def test_a_vllm_server_agrees_before_and_after_all_weights_were_reloaded(served: Served, tmp_path: Path) -> None:
    dtype, server = served
    policy = load_policy(server.folder, dtype=dtype)
    shutil.copytree(server.folder, tmp_path / "as it was")
    engine = server.engine(stop(policy))
    first = ratios(engine, policy)
    assert_one(first, dtype)
    before = [answer.clone() for answer in policy.model.parameters()]
    move(policy)
    assert any(not torch.equal(one, other) for one, other in zip(before, policy.model.parameters(), strict=True))
    stale = ratios(engine, policy)
    save_policy(server.folder, policy)
    engine.reload_weights()
    assert_one(ratios(engine, policy), dtype)
    assert np.abs(np.log(stale)).mean() > 2 * np.abs(np.log(first)).mean(), "the new weights are others"
    shutil.copytree(tmp_path / "as it was", server.folder, dirs_exist_ok=True)
    engine.reload_weights()


@torch.no_grad()
def move(policy: Policy) -> None:
    """Weights that an optimizer step may have made, only larger."""
    generator = torch.Generator().manual_seed(1)
    for name, weights in policy.model.named_parameters():
        if "down_proj" in name:
            noise = torch.randn(weights.shape, generator=generator)
            weights.add_((0.1 * weights.float().std() * noise).to(weights.dtype))


def test_a_vllm_server_agrees_after_an_adapter_was_swapped_in(served: Served, tmp_path: Path) -> None:
    dtype, server = served
    policy = load_policy(server.folder, dtype=dtype)
    engine = server.engine(stop(policy))
    attach(policy.model, rank=8, alpha=16.0, modules=("q_proj", "v_proj", "down_proj"), seed=1)
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weights in policy.model.named_parameters():
                if name.endswith(".up"):
                    weights.copy_(0.02 * torch.randn(weights.shape, generator=generator))
        stale = ratios(engine, policy)
        save_adapter(tmp_path / str(seed), policy.model)
        engine.load_lora("adapter", tmp_path / str(seed))
        engine.model = "adapter"
        found = ratios(engine, policy)
        assert_one(found, dtype)
        assert np.abs(np.log(stale)).mean() > 1.3 * np.abs(np.log(found)).mean(), "the adapter changes what is said"
