"""A training is killed at five random steps, and its weights end bit for bit as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sentinel.curriculum import Curriculum
from sentinel.records import OriginKind
from sentinel.rollout.episode import Assignment, Played
from sentinel.solver.checkpoint import Checkpoints, model_tensors, save_tensors
from sentinel.solver.trainer import Trainer
from sentinel.solver.update import Updater
from sentinel.spec.models import Curriculum as CurriculumSettings
from sentinel.spec.trainer import Alarms
from sentinel.spec.trainer import Trainer as Settings
from tests.unit.solver_toys import Log, WordGame, task, tiny_llama

STEPS, KILLS = 12, 5
SETTINGS = Settings(
    steps=STEPS, prompts_per_step=4, group_size=4, dev_every=3, learning_rate=0.01, alarms=Alarms(kl=1e3, dev_drop=1.0)
)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def train(folder: Path, every: int) -> Log:
    """Twelve steps, or what is left of them; the result is `result.safetensors`."""
    torch.set_num_threads(1)
    model, log = tiny_llama(), Log()
    backend, game = Updater(model, SETTINGS), WordGame(model)

    def play(assignments: Sequence[Assignment], *, policy: str) -> list[Played]:
        time.sleep(0.01)  # a moment at which it can be killed
        return game(assignments, policy=policy)

    general = [task(f"g{n}") for n in range(10)]
    targeted = [task(f"t{n}", OriginKind.targeted, "hard") for n in range(6)]
    curriculum, dev = Curriculum(general, targeted, CurriculumSettings()), [task(f"d{n}") for n in range(6)]
    checkpoints = Checkpoints(folder, say=log.say)
    Trainer(backend, "start", play, curriculum, dev, SETTINGS, (7, 1), checkpoints, log, every).train()
    save_tensors(folder / "result.safetensors", model_tensors(model))
    return log


def in_child(folder: Path, every: int) -> None:
    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    train(folder, every)


def run(folder: Path, kill_after: int | None, number: signal.Signals = signal.SIGKILL, every: int = 1) -> int | None:
    """Train in a process of its own, and send it a signal some moments after a step's checkpoint is there."""
    folder.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=in_child, args=(folder, every))
    process.start()
    if kill_after is not None:
        while process.is_alive() and not (folder / f"trajectories-{kill_after:04d}.jsonl").exists():
            time.sleep(0.002)
        time.sleep(random.Random(kill_after).random() * 0.05)
        assert process.pid
        os.kill(process.pid, number)
    process.join(300)
    return process.exitcode


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "result.safetensors")


def drawn(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("drawn-*.jsonl"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[bytes]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, None) == 0
    return weights(folder), drawn(folder)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_five_kills_leave_no_trace(undisturbed: tuple[dict[str, torch.Tensor], list[bytes]], tmp_path: Path) -> None:
    steps = sorted(random.Random(5).sample(range(1, STEPS), KILLS))
    codes = [run(tmp_path, step) for step in steps]
    assert codes == [-signal.SIGKILL] * KILLS, f"a run ended before it was killed: {steps}"
    assert run(tmp_path, None) == 0
    assert same(weights(tmp_path), undisturbed[0])
    assert drawn(tmp_path) == undisturbed[1]


def test_a_run_that_is_told_to_end_keeps_its_last_whole_step(
    undisturbed: tuple[dict[str, torch.Tensor], list[bytes]], tmp_path: Path
) -> None:
    """With a checkpoint every tenth step only, SIGTERM writes the one of the last whole step."""
    code = run(tmp_path, 5, signal.SIGTERM, every=10)
    assert code == 128 + signal.SIGTERM
    newest = max(int(path.stem.removeprefix("step-")) for path in tmp_path.glob("step-*.json"))
    assert newest in (3, 4, 5, 6)  # 3 is the best so far, kept where the signal fell into a half step
    assert run(tmp_path, None, every=10) == 0
    assert same(weights(tmp_path), undisturbed[0])
    assert drawn(tmp_path) == undisturbed[1]
