"""The cached forward pass against transformers' own, for every build of model it runs; and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sentinel.errors import StageError
from sentinel.llm.decoder import Decoder

VOCABULARY, ROWS, LENGTH = 23, 5, 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": 0,
}
FAMILIES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
BUILDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one key head, wide heads": ("llama", {"num_key_value_heads": 1, "head_dim": 24}),
    "llama, tied, other base": ("llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 500.0}}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied, a key head per head": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3, wide heads, tied": ("qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
    "qwen3 with biases": ("qwen3", {"head_dim": 10, "attention_bias": True}),
}


def build(family: str, changes: dict[str, Any]) -> PreTrainedModel:
    """A random model in which every weight matters: biases and norms are drawn too."""
    config, model = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = model(config(**SIZES | changes)).eval()
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if weight.ndim == 1:
                    weight.copy_(torch.rand_like(weight) + (0.5 if "norm" in name else -0.5))
    return made


def draw_ids() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def step_by_step(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits [rows, length, vocabulary] of the cached pass."""
    decoder = Decoder(model, len(ids), LENGTH)
    hidden = [decoder.feed(ids[:, [position]], position) for position in range(ids.shape[1])]
    logits: torch.Tensor = model.lm_head(torch.stack(hidden, 1))
    return logits


@torch.inference_mode()
def all_at_once(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """The same, as transformers computes it."""
    logits: torch.Tensor = model(input_ids=ids).logits
    return logits


@pytest.mark.parametrize("name", BUILDS)
def test_logits_are_those_of_transformers(name: str) -> None:
    model, ids = build(*BUILDS[name]), draw_ids()
    expected = all_at_once(model, ids)
    assert expected.std() > 0.3, "far from uniform, so that a mistake shows"
    torch.testing.assert_close(step_by_step(model, ids), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blocks", [[LENGTH], [1, LENGTH - 1], [5, 3, 1, LENGTH - 9]])
def test_blocks_of_tokens_are_read_as_one_after_the_other(blocks: list[int]) -> None:
    model, ids = build(*BUILDS["qwen3"]), draw_ids()
    expected, position = all_at_once(model, ids), 0
    with torch.inference_mode():
        decoder = Decoder(model, ROWS, LENGTH)
        for size in blocks:
            logits = model.lm_head(decoder.feed(ids[:, position : position + size], position))
            position += size
            torch.testing.assert_close(logits, expected[:, position - 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_bfloat16_is_near(name: str) -> None:
    """As near to the exact forward pass as transformers' own in this precision is."""
    model, ids = build(*BUILDS[name]), draw_ids()
    exact = all_at_once(model, ids).log_softmax(-1)
    model.to(torch.bfloat16)
    found, theirs = (logits(model, ids).float().log_softmax(-1) for logits in (step_by_step, all_at_once))
    assert torch.isfinite(found).all()
    assert (found - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()
    assert (found - exact).abs().max() < 3 * (theirs - exact).abs().max()


def test_the_rows_that_are_kept_go_on_as_before() -> None:
    model, ids = build(*BUILDS["qwen3"]), draw_ids()
    expected = all_at_once(model, ids)
    kept = torch.tensor([1, 4])
    with torch.inference_mode():
        decoder = Decoder(model, ROWS, LENGTH)
        decoder.feed(ids[:, :10], 0)
        decoder.keep(kept)
        logits = model.lm_head(decoder.feed(ids[kept, 10:11], 10))
    torch.testing.assert_close(logits, expected[kept, 10], atol=1e-5, rtol=1e-5)


def test_the_temperature_is_applied_in_single_precision() -> None:
    model = build(*BUILDS["llama"]).to(torch.bfloat16)
    hidden = torch.randn(2, 32, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = Decoder(model, 2, 4).log_probabilities(hidden, temperature=0.5)
        expected = (model.lm_head(hidden).float() / 0.5).log_softmax(-1)
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "'sliding_attention'"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "'sliding_attention'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "'linear'"),
        ("qwen3", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
    ],
)
def test_what_it_cannot_run_exactly_is_refused(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=f"found .*{message}; use the vllm engine"):
        Decoder(build(family, changes), 1, 8)


def test_other_architectures_are_refused() -> None:
    model = build(*BUILDS["llama"])
    model.config = GPT2Config()
    with pytest.raises(StageError, match="runs models of type llama, qwen2, qwen3, found 'gpt2'"):
        Decoder(model, 1, 8)
