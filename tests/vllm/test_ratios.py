"""At step 0 engine and trainer agree about a real model: importance ratios of what the in-process engine samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sentinel.llm.engine import Limits, Sample
from sentinel.llm.hf import HfEngine
from sentinel.llm.policy import Dtype, load_policy
from sentinel.llm.templates import Hermes
from sentinel.llm.transcript import Tokens
from sentinel.seeds import generator
from sentinel.solver import batch
from sentinel.solver.loss import score

ROWS, TURN = 8, 24
SAYINGS = ("I want to cancel my order.", "Where is my parcel?", "Can you exchange the mug for a blue one?", "Hello!")


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


@torch.no_grad()
def ratios(folder: Path, dtype: Dtype) -> NDArray[np.float64]:
    """Trainer to engine, of every sampled token."""
    model, tokenizer = load_policy(folder, dtype=dtype)
    prompts = [tokenizer.encode(Hermes().opening(SAYINGS[n % len(SAYINGS)])) for n in range(ROWS)]
    answers = [Answer(prompt, seed) for seed, prompt in enumerate(prompts)]
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    HfEngine(model, stop).run(answers, Limits(1.0, TURN, 128))
    samples = [batch.Sample(answer.tokens, 1.0) for answer in answers]
    (whole,) = batch.micro_batches(samples, max_tokens=10_000)
    found: NDArray[np.float64] = (
        (score(model, whole, temperature=1.0).logprobs - whole.behaviour).exp().double().numpy()
    )
    return found


def test_importance_ratios_are_one_at_step_0_in_float32(root: Path) -> None:
    folder = root / ".venv-vllm" / "smollm2"
    if not folder.exists():
        pytest.skip("needs .venv-vllm/smollm2 (make test-vllm)")
    found = ratios(folder, "float32")
    within = float((np.abs(found - 1.0) <= 0.01).mean())
    print(f"{len(found)} tokens, {within:.3f} within 1%, from {found.min():.4f} to {found.max():.4f}")
    assert len(found) >= 60
    assert within >= 0.99
