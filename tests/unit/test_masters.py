"""Small steps survive in the masters of a bf16 policy; adapters train alone and merge exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sentinel.errors import SpecError
from sentinel.llm.lora import attach, plain_state, save_adapter, without_adapters
from sentinel.solver.batch import Sample, micro_batches
from sentinel.solver.loss import score
from sentinel.solver.optimizer import MasterAdamW
from sentinel.solver.update import Updater
from sentinel.spec.trainer import Lora
from sentinel.spec.trainer import Trainer as Settings
from tests.unit.solver_toys import random_tokens, tiny_llama

ALL = Lora().modules


def samples(seed: int = 0, count: int = 6) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [Sample(random_tokens(rng, int(rng.integers(6, 30))), float(rng.normal())) for _ in range(count)]


def logprobs(model: torch.nn.Module) -> torch.Tensor:
    (batch,) = micro_batches(samples(3), max_tokens=10_000)
    with torch.no_grad():
        return score(model, batch, temperature=1.0).logprobs


def test_steps_too_small_for_bf16_add_up_in_the_masters() -> None:
    model = tiny_llama().to(torch.bfloat16)
    updater = Updater(model, Settings(learning_rate=1e-5, kl=0.0, max_new_tokens=8))
    before = {name: each.clone() for name, each in updater._optimizer.masters.items()}
    for _ in range(3):
        assert updater.update(samples()) is not None
    masters = updater._optimizer.masters
    moved = torch.cat([(masters[name] - before[name]).abs().flatten() for name in masters])
    assert float((moved > 5e-6).float().mean()) > 0.9
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, masters[name].to(torch.bfloat16))
    assert all(value.dtype == torch.float32 for value in updater._optimizer.tensors().values())


def test_an_fp32_policy_is_its_own_master() -> None:
    model = tiny_llama()
    optimizer = MasterAdamW(model, 1e-3)
    assert all(optimizer.masters[name] is parameter for name, parameter in model.named_parameters())


def test_a_step_is_the_same_with_gradient_checkpointing_and_with_packing() -> None:
    results = []
    for checkpointing, packing in ((False, False), (True, False), (False, True)):
        model = tiny_llama()
        settings = Settings(learning_rate=1e-2, kl=0.1, max_new_tokens=8, packing=packing, micro_batch_tokens=64)
        found = Updater(model, settings, gradient_checkpointing=checkpointing).update(samples())
        assert found is not None
        assert not model.training
        results.append((found.loss, found.grad_norm, torch.cat([p.detach().flatten() for p in model.parameters()])))
    for loss, norm, weights in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert norm == pytest.approx(results[0][1], rel=1e-4)
        assert float((weights - results[0][2]).abs().max()) < 2e-3


def test_packed_rows_keep_their_samples_apart() -> None:
    model, given = tiny_llama(), samples(5, count=12)
    apart = micro_batches(given, max_tokens=10_000)
    together = micro_batches(given, max_tokens=10_000, packed=True)
    assert sum(batch.ids.numel() for batch in together) < 0.95 * sum(batch.ids.numel() for batch in apart)
    found = []
    for batches in (apart, together):
        rows = [
            (int(target), round(float(behaviour), 5), float(value))
            for batch in batches
            for target, behaviour, value in zip(
                batch.targets, batch.behaviour, score(model, batch, temperature=1.0).logprobs.detach(), strict=True
            )
        ]
        found.append(sorted(rows))
    for (one, two, value), (other, same, packed) in zip(*found, strict=True):
        assert (one, two) == (other, same)
        assert value == pytest.approx(packed, abs=2e-5)


def test_adapters_start_as_nothing_train_alone_and_merge_exactly() -> None:
    model = tiny_llama()
    before, frozen = logprobs(model), {name: each.clone() for name, each in model.named_parameters()}
    attach(model, rank=4, alpha=8.0, modules=ALL, seed=1)
    assert torch.equal(logprobs(model), before)
    updater = Updater(model, Settings(learning_rate=1e-2, kl=0.1, max_new_tokens=8))
    for _ in range(3):
        found = updater.update(samples())
    assert found is not None
    assert found.kl is not None
    assert found.kl > 0.0
    after = logprobs(model)
    assert not torch.allclose(after, before, atol=1e-3)
    with without_adapters(model):
        assert torch.equal(logprobs(model), before)
    plain = tiny_llama(9)
    plain.load_state_dict(plain_state(model))
    torch.testing.assert_close(logprobs(plain), after, atol=1e-5, rtol=1e-5)
    untouched = {name.replace(".base.", "."): each for name, each in model.named_parameters() if not each.requires_grad}
    assert all(torch.equal(each, frozen[name]) for name, each in untouched.items())
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) < 0.5 * sum(
        each.numel() for each in frozen.values()
    )


def test_the_adapter_file_has_pefts_names_and_values(tmp_path: Path) -> None:
    model = tiny_llama()
    attach(model, rank=4, alpha=8.0, modules=("q_proj",), seed=1)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if name.endswith(".up"):
                each.fill_(0.1)
    save_adapter(tmp_path / "adapter", model)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 8.0, ["q_proj"])
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    change = 2.0 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    base = tiny_llama().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(plain_state(model)["model.layers.0.self_attn.q_proj.weight"], base + change)


def test_a_module_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(SpecError, match=r"trainer\.lora\.modules: c_attn: .* it has .*q_proj"):
        attach(tiny_llama(), rank=4, alpha=8.0, modules=("q_proj", "c_attn"), seed=1)


def test_a_checkpoint_of_adapters_holds_nothing_else(tmp_path: Path) -> None:
    model = tiny_llama()
    attach(model, rank=4, alpha=8.0, modules=("q_proj",), seed=1)
    updater = Updater(model, Settings(learning_rate=1e-2, kl=0.0, max_new_tokens=8))
    updater.update(samples())
    updater.save(tmp_path / "a.safetensors")
    names = load_file(tmp_path / "a.safetensors")
    assert all(name.endswith((".down", ".up")) for name in names)
    again = tiny_llama()
    attach(again, rank=4, alpha=8.0, modules=("q_proj",), seed=2)
    other = Updater(again, Settings(learning_rate=1e-2, kl=0.0, max_new_tokens=8))
    other.load(tmp_path / "a.safetensors")
    assert torch.equal(logprobs(again), logprobs(model))
    updater.update(samples(1))
    other.update(samples(1))
    assert torch.equal(logprobs(again), logprobs(model))
