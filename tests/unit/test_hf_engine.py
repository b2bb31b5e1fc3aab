"""The in-process engine against transformers' own forward pass: logprobs, determinism, the distribution, and limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from sentinel.llm.engine import Finish, Limits, Sample
from sentinel.llm.hf import HfEngine
from sentinel.seeds import generator

VOCABULARY, STOP, CONTEXT = 19, 2, 48
SHAPES = {
    "plain": {"num_attention_heads": 4},
    "grouped queries": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "one key head": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "wide heads": {"num_attention_heads": 2, "head_dim": 24},
}


def llama(seed: int = 0, **shape: int) -> LlamaForCausalLM:
    """A random model with far from uniform predictions."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        tie_word_embeddings=True,
        **(shape or SHAPES["plain"]),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


class Talk:
    """A conversation of a few turns that keeps what the engine told it."""

    def __init__(self, prompt: Sequence[int], seed: int, turns: int = 3, answer: Sequence[int] = (5, 6, 7)) -> None:
        self.prompt, self.seed, self.turns, self.answer = list(prompt), seed, turns, list(answer)
        self.ids: list[int] = []
        self.samples: list[Sample] = []
        self.logprobs: dict[int, float] = {}

    def start(self) -> list[int]:
        self.ids = list(self.prompt)
        return list(self.prompt)

    def noise(self, count: int) -> NDArray[np.float64]:
        return generator(self.seed, "noise").random(count)

    def abandon(self, reason: str) -> None:
        raise AssertionError(f"this engine has nothing that can break down: {reason}")

    def advance(self, sample: Sample) -> list[int] | None:
        self.logprobs |= {len(self.ids) + n: value for n, value in enumerate(sample.logprobs)}
        self.ids += sample.ids
        self.samples.append(sample)
        room = CONTEXT - len(self.ids)
        if sample.finish is not Finish.stop or len(self.samples) >= self.turns or len(self.answer) >= room:
            return None
        self.ids += self.answer
        return list(self.answer)


def talks(count: int, turns: int = 3) -> list[Talk]:
    """Prompts of different lengths, so that rows are never in step."""
    return [Talk([1, *range(3, 4 + n % 7), 8], seed=n, turns=turns) for n in range(count)]


def limits(temperature: float = 1.0, max_new_tokens: int = 12, max_context: int = CONTEXT) -> Limits:
    return Limits(temperature, max_new_tokens, max_context)


def run(model: LlamaForCausalLM, conversations: list[Talk], bounds: Limits) -> list[Talk]:
    HfEngine(model, STOP).run(conversations, bounds)
    return conversations


@torch.no_grad()
def forward(model: LlamaForCausalLM, ids: list[int], temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    return torch.log_softmax(logits / temperature, dim=-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.8])
def test_logprobs_are_those_of_the_whole_sequence(shape: str, temperature: float) -> None:
    model = llama(**SHAPES[shape])
    compared = 0
    for talk in run(model, talks(12), limits(temperature)):
        expected = forward(model, talk.ids, temperature)
        for position, logprob in talk.logprobs.items():
            assert logprob == pytest.approx(float(expected[position - 1, talk.ids[position]]), abs=1e-4)
            compared += 1
    assert compared > 60


def test_an_untied_head_is_used() -> None:
    model = llama()
    torch.manual_seed(1)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32))
    talk = run(model, talks(1), limits())[0]
    expected = forward(model, talk.ids, 1.0)
    assert all(
        logprob == pytest.approx(float(expected[position - 1, talk.ids[position]]), abs=1e-4)
        for position, logprob in talk.logprobs.items()
    )


def test_the_same_batch_twice_is_equal_to_the_last_bit() -> None:
    model = llama()
    first, second = (run(model, talks(20), limits()) for _ in range(2))
    assert [talk.samples for talk in first] == [talk.samples for talk in second]


def test_sampling_hangs_on_nothing_but_weights_prompt_and_noise() -> None:
    """Whatever the neighbours in the batch, the tokens are the same (the logprobs up to float error)."""
    model = llama()
    together = run(model, talks(9), limits())
    for number, talk in enumerate(together):
        alone = talks(9)[number]
        run(model, [alone], limits())
        assert alone.ids == talk.ids
        assert list(alone.logprobs.values()) == pytest.approx(list(talk.logprobs.values()), abs=1e-4)


def test_the_engine_reads_the_live_weights() -> None:
    model = llama()
    engine, before, after = HfEngine(model, STOP), talks(4), talks(4)
    engine.run(before, limits())
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(-1.0)
    engine.run(after, limits())
    assert [talk.ids for talk in before] != [talk.ids for talk in after]
    expected = forward(model, after[0].ids, 1.0)
    position, logprob = next(iter(after[0].logprobs.items()))
    assert logprob == pytest.approx(float(expected[position - 1, after[0].ids[position]]), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampling_follows_the_distribution(temperature: float) -> None:
    """Chi-square of 4000 first tokens, over the tokens that are expected at least five times."""
    model, count = llama(seed=3), 4000
    drawn = run(model, [Talk([1, 4, 8], seed=n, turns=1) for n in range(count)], limits(temperature, max_new_tokens=1))
    found = np.bincount([talk.samples[0].ids[0] for talk in drawn], minlength=VOCABULARY)
    expected = count * forward(model, [1, 4, 8], temperature)[-1].double().exp().numpy()
    common = expected >= 5
    assert common.sum() >= 5
    statistic = float(((found - expected)[common] ** 2 / expected[common]).sum())
    assert statistic < common.sum() + 4 * np.sqrt(2 * common.sum())
    assert found[~common].sum() < 5 * (~common).sum() + 20


def never_stops(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with a stop token that is never likely."""

    class Muted(torch.nn.Module):
        def __init__(self, head: torch.nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(hidden)
            return logits.index_fill(-1, torch.tensor([STOP]), -1e9)

    model.lm_head = Muted(model.lm_head)
    return model


def test_a_turn_that_does_not_stop_ends_at_the_turn_limit() -> None:
    talk = run(never_stops(llama()), [Talk([1, 4], seed=0)], limits(max_new_tokens=5))[0]
    assert [(len(sample.ids), sample.finish) for sample in talk.samples] == [(5, Finish.turn_limit)]


def test_a_turn_that_fills_the_context_ends_there() -> None:
    talk = run(never_stops(llama()), [Talk([1, 4], seed=0)], limits(max_new_tokens=500, max_context=20))[0]
    assert [(len(sample.ids), sample.finish) for sample in talk.samples] == [(18, Finish.context_limit)]
    assert len(talk.ids) == 20


def test_a_prompt_that_fills_the_context_is_not_played() -> None:
    full, short = Talk([1] * 20, seed=0), Talk([1, 4], seed=1)
    run(llama(), [full, short], limits(max_context=20))
    assert full.samples == []
    assert short.samples != []


def test_an_answer_past_the_context_is_a_defect_of_the_conversation() -> None:
    with pytest.raises(ValueError, match="past its context of 12"):
        run(llama(), [Talk([1, 4], seed=n, turns=9, answer=[5] * 9) for n in range(8)], limits(max_context=12))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 10_000))
def test_no_conversation_exceeds_its_context(prompts: list[int], max_new_tokens: int, seed: int) -> None:
    conversations = [Talk([1] * length, seed=seed + n, turns=6) for n, length in enumerate(prompts)]
    for talk in run(llama(), conversations, limits(max_new_tokens=max_new_tokens)):
        assert len(talk.ids) <= CONTEXT
        assert all(len(sample.ids) == len(sample.logprobs) <= max_new_tokens for sample in talk.samples)
        assert all(sample.ids[-1] == STOP for sample in talk.samples if sample.finish is Finish.stop)
        assert all(STOP not in sample.ids[:-1] for sample in talk.samples)


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_noise_are_tokens_too(uniform: float) -> None:
    class Edge(Talk):
        def noise(self, count: int) -> NDArray[np.float64]:
            return np.full(count, uniform)

    talk = run(llama(), [Edge([1, 4], seed=0, turns=1)], limits())[0]
    assert all(
        0 <= token < VOCABULARY and np.isfinite(p)
        for s in talk.samples
        for token, p in zip(s.ids, s.logprobs, strict=True)
    )


def test_an_empty_batch_is_no_work() -> None:
    run(llama(), [], limits())


def test_no_gradient_is_left_and_the_model_is_as_it_was() -> None:
    model = llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(model, talks(3), limits())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
