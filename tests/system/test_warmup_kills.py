"""A warm start is killed at random moments, and its policy ends bit for bit as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sentinel.solver.checkpoint import Checkpoints, model_tensors, save_tensors
from sentinel.solver.phases import run_phase
from sentinel.solver.warmup import Teaching
from tests.unit.solver_toys import Log, random_tokens, tiny_llama

STEPS, EVERY, KILLS = 60, 5, 5
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Slow(Teaching):
    """Leaves a moment at which it can be killed, and notes the step it is at."""

    folder: Path

    def step(self, number: int) -> float:
        time.sleep(0.003)
        (self.folder / "at").write_text(str(number))
        return super().step(number)


def learn(folder: Path) -> None:
    """A phase, or what is left of it; the result is `result.safetensors`."""
    torch.set_num_threads(1)
    model, rng = tiny_llama(), np.random.default_rng(0)
    demonstrations = [random_tokens(rng, int(length)) for length in rng.integers(8, 40, 50)]
    lesson = Slow(model, demonstrations, steps=STEPS, batch_size=4, learning_rate=0.01, rng=rng, pad=0)
    lesson.folder = folder
    checkpoints = Checkpoints(folder / "steps", say=print)
    run_phase("clean", lesson, steps=STEPS, checkpoints=checkpoints, every=EVERY, progress=Log())
    save_tensors(folder / "result.safetensors", model_tensors(model))


def run(folder: Path, kill_at: int | None) -> int | None:
    """Learn in a process of its own, and kill it some moments after it has begun a step."""
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=learn, args=(folder,))
    process.start()
    if kill_at is not None:
        while process.is_alive() and at(folder) < kill_at:
            time.sleep(0.001)
        time.sleep(random.Random(kill_at).random() * 0.02)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
    process.join(300)
    return process.exitcode


def at(folder: Path) -> int:
    """The step that was begun last."""
    file = folder / "at"
    return int((file.read_text() if file.exists() else "") or 0)


def test_five_kills_leave_no_trace_and_cost_few_steps(tmp_path: Path) -> None:
    assert run(tmp_path / "undisturbed", None) == 0
    killed = tmp_path / "killed"
    for step in sorted(random.Random(3).sample(range(2, STEPS - EVERY), KILLS)):
        assert run(killed, step) == -signal.SIGKILL
        kept = max((int(path.stem.removeprefix("step-")) for path in killed.glob("steps/step-*.json")), default=0)
        assert at(killed) - kept <= EVERY + 1
    assert run(killed, None) == 0
    one, other = (load_file(folder / "result.safetensors") for folder in (tmp_path / "undisturbed", killed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
