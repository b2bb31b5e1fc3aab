"""Training computes only what the loss looks at, with the values and gradients of the whole pass; logits in fp32."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from sentinel.llm.head import PreciseHead, frozen, precise
from sentinel.llm.model_folder import policy_hash
from sentinel.llm.policy import Policy, load_policy, new_policy, save_policy
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.solver import loss
from sentinel.solver.batch import MicroBatch, Sample, micro_batches
from sentinel.solver.forward import states
from sentinel.solver.loss import score
from sentinel.spec.models import TinyPolicy
from tests.unit.solver_toys import random_tokens, tiny_llama
from tests.unit.test_decoder import FAMILIES, SIZES


def batch(packed: bool = False) -> MicroBatch:
    rng = np.random.default_rng(0)
    samples = [Sample(random_tokens(rng, int(length)), 1.0) for length in (9, 24, 17, 5)]
    (found,) = micro_batches(samples, max_tokens=1000, packed=packed)
    return found


def gradients(model: PreTrainedModel, value: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, list(model.parameters()))
    return torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_of_the_whole_forward_pass(family: str, packed: bool) -> None:
    config, build = FAMILIES[family]
    torch.manual_seed(0)
    model, chosen = build(config(**SIZES)).eval(), batch(packed)
    found = states(model, chosen)
    whole = model.base_model(input_ids=chosen.ids, position_ids=chosen.positions, use_cache=False).last_hidden_state
    expected = whole[chosen.rows, chosen.columns]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    one, other = (gradients(model.base_model, (each * weights).sum()) for each in (found, expected))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not any("forward" in vars(module) for module in model.modules()), "the model is as it was"


def test_a_model_of_another_build_is_run_as_it_is() -> None:
    torch.manual_seed(0)
    model, chosen = GPT2LMHeadModel(GPT2Config(vocab_size=23, n_embd=32, n_layer=2, n_head=2)).eval(), batch()
    expected = model.transformer(input_ids=chosen.ids).last_hidden_state[chosen.rows, chosen.columns]
    assert torch.equal(states(model, chosen), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_whole_again_after_an_error(dtype: torch.dtype) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("in the last layer")

    model, chosen = tiny_llama().to(dtype), batch()
    model.model.layers[-1].mlp.register_forward_hook(fail)
    with pytest.raises(ArithmeticError):
        states(model, chosen)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_computed_for_padding_nor_at_the_end_for_what_no_loss_looks_at(packed: bool) -> None:
    model, chosen, seen = tiny_llama(), batch(packed), list[int]()
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, given, found: seen.append(found.shape[:-1].numel()))
    states(model, chosen)
    rng = np.random.default_rng(0)
    fed = sum(int(random_tokens(rng, length).sampled.nonzero()[0][-1]) for length in (9, 24, 17, 5))
    assert seen == [fed, len(chosen.targets)]
    assert fed < chosen.ids.numel()


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_the_layers_are_those_of_transformers(family: str) -> None:
    config, build = FAMILIES[family]
    torch.manual_seed(0)
    model, chosen = build(config(**SIZES)).eval().bfloat16(), batch()
    expected = model.base_model(input_ids=chosen.ids, use_cache=False).last_hidden_state[chosen.rows, chosen.columns]
    torch.testing.assert_close(states(model, chosen), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 7])
def test_logits_in_parts_change_neither_values_nor_gradients(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = tiny_llama(), batch()
    whole = score(model, chosen, temperature=0.7)
    monkeypatch.setattr(loss, "LOGITS", rows * model.config.vocab_size)
    parts = score(model, chosen, temperature=0.7)
    torch.testing.assert_close(parts.logprobs, whole.logprobs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(parts.entropy, whole.entropy, atol=1e-6, rtol=1e-6)
    one, other = (gradients(model, each.logprobs.sum()) for each in (parts, whole))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_no_more_logits_than_asked_for_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen, seen = tiny_llama(), batch(), list[int]()
    monkeypatch.setattr(loss, "LOGITS", 3 * model.config.vocab_size)
    model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits.numel()))
    score(model, chosen, temperature=1.0).logprobs.sum().backward()
    assert max(seen) == loss.LOGITS
    assert sum(seen) == 2 * len(chosen.targets) * model.config.vocab_size, "once more in the backward pass"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TinyPolicy(type="tiny", layers=2, hidden=32, heads=2, feed_forward=64, max_context=64)
    path = tmp_path_factory.mktemp("head") / "policy"
    save_policy(path, new_policy(settings, train_tokenizer(["a b"], ["x"], max_context=64), seed=0))
    return path


def test_logits_of_a_policy_in_bfloat16_are_fp32_and_its_weights_are_not(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder, dtype="bfloat16")
    assert isinstance(policy.model.lm_head, PreciseHead)
    with torch.no_grad():
        hidden = policy.model.base_model(input_ids=torch.arange(20)[None]).last_hidden_state
        logits = policy.model(input_ids=torch.arange(20)[None]).logits
        expected = hidden.float() @ policy.model.lm_head.weight.float().T
    assert (logits.dtype, policy.model.lm_head.weight.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(logits, expected)
    assert not torch.equal(logits, logits.bfloat16().float())
    assert isinstance(copy.deepcopy(policy.model).lm_head, PreciseHead)
    for name in ("one", "two"):
        save_policy(tmp_path / name, Policy(load_policy(folder, dtype="bfloat16").model, policy.tokenizer))
    assert policy_hash(tmp_path / "one") == policy_hash(tmp_path / "two")
    assert isinstance(load_policy(tmp_path / "one", dtype="bfloat16").model.lm_head, PreciseHead)


def test_gradients_of_parts_are_summed_in_fp32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 the weights' gradient is rounded once, however many parts there are."""
    found = []
    for parts in (False, True):
        model, chosen = load_policy(folder, dtype="bfloat16").model, batch()
        monkeypatch.setattr(loss, "LOGITS", 2 * model.config.vocab_size if parts else 2**24)
        with torch.no_grad():
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # not that of the embeddings
        scores = score(model, chosen, temperature=1.0)
        (gradient,) = torch.autograd.grad(scores.logprobs.sum(), [model.lm_head.weight])
        found.append((scores.logprobs.detach(), gradient))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-6)
    differs = found[0][1] != found[1][1]
    assert float(differs.float().mean()) < 0.01


def test_a_frozen_head_is_the_head_in_fp32_and_a_policy_in_fp32_keeps_its_own(folder: Path) -> None:
    low, high = (load_policy(folder, dtype=dtype).model for dtype in ("bfloat16", "float32"))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(frozen(low.lm_head)(x.float()), low.lm_head(x))
    assert type(high.lm_head) is torch.nn.Linear
    assert frozen(high.lm_head) is high.lm_head
    assert precise(high) is high
