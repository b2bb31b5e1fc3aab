"""Checkpoints restore every bit, survive corruption, and keep no more than they need."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from sentinel.artifacts import write_text
from sentinel.solver.checkpoint import (
    Checkpoints,
    model_tensors,
    restore_model,
    restore_training,
    save_tensors,
    training_tensors,
)
from tests.unit.solver_toys import VOCABULARY, tiny_llama


def trained(steps: int) -> tuple[LlamaForCausalLM, torch.optim.AdamW]:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    learn(model, optimizer, range(steps))
    return model, optimizer


def learn(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.arange(step, step + 12)[None] % VOCABULARY
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def equal(one: LlamaForCausalLM, other: LlamaForCausalLM) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def save(folder: Path, steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, say=print)
    for step in range(1, steps + 1):
        checkpoints.attach(f"log-{step}.jsonl", partial(write_text, text=f"{step}\n"))
        checkpoints.save(step, {"x": torch.full((4,), float(step))}, {"step": step, "half": 0.1 * step})
    return checkpoints


def test_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    Checkpoints(tmp_path, say=print).save(3, training_tensors(model, optimizer), {})
    found = Checkpoints(tmp_path, say=print).load()
    assert found is not None
    resumed = tiny_llama(seed=9)
    fresh = torch.optim.AdamW(resumed.parameters(), lr=1e-3)
    restore_training(resumed, fresh, found[1])
    assert equal(model, resumed)
    for old, new in zip(model.parameters(), resumed.parameters(), strict=True):
        assert optimizer.state[old].keys() == fresh.state[new].keys()
        assert all(torch.equal(optimizer.state[old][key], fresh.state[new][key]) for key in optimizer.state[old])
    learn(model, optimizer, range(3, 6))
    learn(resumed, fresh, range(3, 6))
    assert equal(model, resumed)


def test_a_checkpoint_before_the_first_update_has_no_moments(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    save_tensors(tmp_path / "start.safetensors", training_tensors(model, optimizer))
    other, moved = trained(2)
    restore_training(other, moved, model_tensors(model))
    assert equal(model, other)
    assert not moved.state


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
    assert found[1]["x"].tolist() == [5.0] * 4
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
    checkpoints.save(5, {"x": torch.zeros(1)}, {})
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
    checkpoints.save(3, {"x": torch.ones(1)}, {})
    assert not list(tmp_path.glob(".*.tmp"))


def test_detached_files_go_when_no_kept_checkpoint_needs_them(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, say=print)
    checkpoints.attach("best-0.safetensors", partial(save_tensors, tensors={"x": torch.zeros(1)}))
    checkpoints.save(1, {"x": torch.zeros(1)}, {})
    checkpoints.detach("best-0.safetensors")
    checkpoints.save(2, {"x": torch.zeros(1)}, {})
    assert (tmp_path / "best-0.safetensors").exists()
    checkpoints.save(3, {"x": torch.zeros(1)}, {})
    assert not (tmp_path / "best-0.safetensors").exists()


def test_no_clock_and_no_host_in_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save(tmp_path / "a", 2)
    save(tmp_path / "b", 2)
    one, other = ((tmp_path / name / "step-0002.json").read_bytes() for name in "ab")
    assert one == other
    assert set(json.loads(one)) == {"files", "schema_version", "state", "step", "weights"}
