"""Checkpoints restore every bit, survive corruption, and keep no more than they need."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from sentinel.artifacts import write_text
from sentinel.errors import StageError
from sentinel.solver.checkpoint import (
    Checkpoints,
    model_tensors,
    restore_model,
    save_tensors,
)
from sentinel.solver.optimizer import MasterAdamW
from tests.unit.solver_toys import VOCABULARY, tiny_llama


def trained(steps: int, seed: int = 0) -> tuple[LlamaForCausalLM, MasterAdamW]:
    model = tiny_llama(seed)
    optimizer = MasterAdamW(model, 1e-3)
    learn(model, optimizer, range(steps))
    return model, optimizer


def learn(model: LlamaForCausalLM, optimizer: MasterAdamW, steps: range) -> None:
    for step in steps:
        ids = torch.arange(step, step + 12)[None] % VOCABULARY
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.take_gradients()
        optimizer.step()


def writing(**values: float) -> Callable[[Path], None]:
    return partial(save_tensors, tensors={name: torch.full((4,), value) for name, value in values.items()})


def equal(one: LlamaForCausalLM, other: LlamaForCausalLM) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def save(folder: Path, steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, say=print)
    for step in range(1, steps + 1):
        checkpoints.attach(f"log-{step}.jsonl", partial(write_text, text=f"{step}\n"))
        checkpoints.save(step, writing(x=step), {"step": step, "half": 0.1 * step})
    return checkpoints


def test_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    Checkpoints(tmp_path, say=print).save(3, partial(save_tensors, tensors=optimizer.tensors()), {})
    found = Checkpoints(tmp_path, say=print).load()
    assert found is not None
    resumed, fresh = trained(1, seed=9)
    fresh.restore(load_file(found[1]))
    assert equal(model, resumed)
    old, new = optimizer.tensors(), fresh.tensors()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    learn(model, optimizer, range(3, 6))
    learn(resumed, fresh, range(3, 6))
    assert equal(model, resumed)


def test_a_checkpoint_before_the_first_update_has_no_moments(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    other, moved = trained(2)
    moved.restore(optimizer.tensors())
    assert equal(model, other)
    assert moved.tensors().keys() == model_tensors(model).keys()


def test_a_full_disk_is_told_and_the_checkpoint_before_it_stays(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        large = partial(save_tensors, tensors={"x": torch.zeros(100_000)})
        with pytest.raises(StageError, match=r"checkpoint of step 3 cannot be written.*\n.*make room"):
            checkpoints.save(3, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    found = Checkpoints(tmp_path, say=print).load()
    assert found is not None
    assert found[0].step == 2


def test_shared_weights_stay_shared() -> None:
    model = tiny_llama(seed=4)
    restore_model(model, model_tensors(tiny_llama(seed=5)))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert equal(model, tiny_llama(seed=5))


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 5)
    found = Checkpoints(tmp_path, say=print).load()
    assert found is not None
    assert found[0].state == {"step": 5, "half": 0.5}
    assert load_file(found[1])["x"].tolist() == [5.0] * 4
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-0004.json", "step-0004.safetensors", "step-0005.json", "step-0005.safetensors",
    ]  # fmt: skip
    assert len(list(tmp_path.glob("log-*"))) == 5


@pytest.mark.parametrize("damaged", ["step-0005.safetensors", "step-0005.json", "log-5.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "binary"])
def test_a_corrupt_one_is_skipped_for_the_one_before(tmp_path: Path, damaged: str, damage: str) -> None:
    save(tmp_path, 5)
    path = tmp_path / damaged
    content = path.read_bytes()
    broken = {"cut": content[:-1], "flip": content[:-2] + b"?" + content[-1:], "binary": b"\xff\xfe\x00"}
    path.unlink() if damage == "remove" else path.write_bytes(broken[damage])
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, say=said.append)
    found = checkpoints.load()
    assert found is not None
    if (damaged, damage) == ("step-0005.json", "cut"):  # the lost byte was only the line's end
        assert found[0].step == 5
        return
    assert found[0].step == 4
    assert bool(said) == ((damaged, damage) != ("step-0005.json", "remove"))
    assert all("step-0005.json skipped" in text and damaged in text for text in said)
    checkpoints.save(5, writing(x=0.0), {})
    again = Checkpoints(tmp_path, say=print).load()
    assert again is not None
    assert again[0].step == 5


def test_nothing_intact_means_from_the_start(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "log-1.jsonl").write_text("changed\n")
    said: list[str] = []
    assert Checkpoints(tmp_path, say=said.append).load() is None
    assert len(said) == 2
    assert Checkpoints(tmp_path, say=said.append).load() is None


def test_a_checkpoint_is_there_only_when_its_manifest_is(tmp_path: Path) -> None:
    """What a kill may leave: tensors and attachments without their manifest, and temporary files."""
    checkpoints = save(tmp_path, 2)
    save_tensors(tmp_path / "step-0003.safetensors", {"x": torch.zeros(1)})
    (tmp_path / ".step-0003.json.123.tmp").write_text("{")
    found = Checkpoints(tmp_path, say=print).load()
    assert found is not None
    assert found[0].step == 2
    checkpoints.save(3, writing(x=1.0), {})
    assert not list(tmp_path.glob(".*.tmp"))


def test_detached_files_go_when_no_kept_checkpoint_needs_them(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, say=print)
    checkpoints.attach("best-0.safetensors", partial(save_tensors, tensors={"x": torch.zeros(1)}))
    checkpoints.save(1, writing(x=0.0), {})
    checkpoints.detach("best-0.safetensors")
    checkpoints.save(2, writing(x=0.0), {})
    assert (tmp_path / "best-0.safetensors").exists()
    checkpoints.save(3, writing(x=0.0), {})
    assert not (tmp_path / "best-0.safetensors").exists()


def test_no_clock_and_no_host_in_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save(tmp_path / "a", 2)
    save(tmp_path / "b", 2)
    one, other = ((tmp_path / name / "step-0002.json").read_bytes() for name in "ab")
    assert one == other
    assert set(json.loads(one)) == {"files", "schema_version", "state", "step", "weights"}
