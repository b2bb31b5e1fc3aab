"""The objective against a slow reference: one episode at a time, one token at a time, on full logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from sentinel.llm.transcript import Tokens
from sentinel.solver.batch import MicroBatch, Sample, micro_batches
from sentinel.solver.loss import k3, policy_loss, score
from tests.unit.solver_toys import random_tokens, tiny_llama

CLIP = (0.2, 0.28)


def token_logprob(model: LlamaForCausalLM, ids: np.ndarray, at: int, temperature: float) -> torch.Tensor:
    logits = model(input_ids=torch.from_numpy(ids[:at][None].astype(np.int64))).logits[0, -1]
    return (logits / temperature).log_softmax(dim=-1)[int(ids[at])]


def slow_loss(
    model: LlamaForCausalLM,
    reference: LlamaForCausalLM | None,
    samples: list[Sample],
    kl: float,
    temperature: float,
) -> torch.Tensor:
    total, count = torch.zeros(()), 0
    for tokens, advantage, _ in samples:
        for at in range(len(tokens.ids)):
            if not tokens.sampled[at]:
                continue
            logprob = token_logprob(model, tokens.ids, at, temperature)
            ratio = torch.exp(logprob - float(tokens.logprobs[at]))
            value = float(ratio.detach())
            allowed = min(max(value, 1 - CLIP[0]), 1 + CLIP[1])
            surrogate = (
                ratio * advantage if value * advantage <= allowed * advantage else torch.tensor(allowed * advantage)
            )
            total = total - surrogate
            if reference is not None:
                difference = token_logprob(reference, tokens.ids, at, temperature).detach() - logprob
                total = total + kl * (torch.exp(difference) - difference - 1)
            count += 1
    return total / count


def fast_loss(
    model: LlamaForCausalLM,
    reference: LlamaForCausalLM | None,
    samples: list[Sample],
    kl: float,
    temperature: float,
    max_tokens: int,
) -> torch.Tensor:
    batches = micro_batches(samples, max_tokens=max_tokens)
    total = torch.zeros(())
    for batch in batches:
        past = None if reference is None else score(reference, batch, temperature=temperature).logprobs.detach()
        logprobs = score(model, batch, temperature=temperature).logprobs
        total = total + policy_loss(logprobs, batch, clip=CLIP, kl=kl, reference=past).loss
    return total / sum(len(batch.targets) for batch in batches)


def gradients(model: LlamaForCausalLM, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([each.flatten() for each in found])


def episodes(seed: int, count: int = 4) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [Sample(random_tokens(rng, int(rng.integers(4, 24))), float(rng.normal())) for _ in range(count)]


def on_policy(model: LlamaForCausalLM, samples: list[Sample], temperature: float = 1.0) -> list[Sample]:
    result = []
    for tokens, advantage, _ in samples:
        logprobs = np.zeros(len(tokens.ids), np.float32)
        for at in np.flatnonzero(tokens.sampled):
            logprobs[at] = float(token_logprob(model, tokens.ids, int(at), temperature).detach())
        result.append(Sample(Tokens(tokens.ids, tokens.sampled, logprobs), advantage))
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kl", "temperature"), [(0.0, 1.0), (0.1, 1.0), (0.1, 0.7)])
def test_loss_and_gradient_equal_the_slow_reference(seed: int, kl: float, temperature: float) -> None:
    model, samples = tiny_llama(seed), episodes(seed)
    reference = tiny_llama(seed + 100) if kl else None
    slow = slow_loss(model, reference, samples, kl, temperature)
    slow_gradient = gradients(model, slow)
    for max_tokens in (30, 10_000):
        fast = fast_loss(model, reference, samples, kl, temperature, max_tokens)
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients(model, fast), slow_gradient, rtol=1e-4, atol=1e-5)


def test_observations_are_context_only() -> None:
    """The gradient is that of the sampled tokens; what the batch says about the others does not matter."""
    model, samples = tiny_llama(), episodes(5)
    disturbed = [
        Sample(Tokens(t.ids, t.sampled, np.where(t.sampled, t.logprobs, -7.0).astype(np.float32)), advantage)
        for t, advantage, _ in samples
    ]
    before, after = (gradients(model, fast_loss(model, None, each, 0.0, 1.0, 100)) for each in (samples, disturbed))
    assert torch.equal(before, after)


def test_the_loss_sees_the_next_token_of_a_sampled_position_only() -> None:
    """The derivative with respect to full logits is zero wherever the next token was not sampled."""
    model, (sample, *_) = tiny_llama(), episodes(6)
    tokens = sample.tokens
    hidden = model.base_model(input_ids=torch.from_numpy(tokens.ids[None])).last_hidden_state
    logits = model.get_output_embeddings()(hidden).detach().requires_grad_()
    (batch,) = micro_batches([sample], max_tokens=1000)
    logprobs = logits.log_softmax(-1)[0, batch.columns].gather(-1, batch.targets[:, None])[:, 0]
    policy_loss(logprobs, batch, clip=(0.999, 100.0), kl=0.0).loss.backward()
    assert logits.grad is not None
    touched = logits.grad[0].abs().sum(dim=-1) > 0
    assert touched.tolist() == [*tokens.sampled[1:].tolist(), False]
    torch.testing.assert_close(logprobs, score(model, batch, temperature=1.0).logprobs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_on_policy_ratio_is_one_and_kl_zero(temperature: float) -> None:
    model = tiny_llama()
    (batch,) = micro_batches(on_policy(model, episodes(7), temperature), max_tokens=10_000)
    logprobs = score(model, batch, temperature=temperature).logprobs
    terms = policy_loss(logprobs, batch, clip=CLIP, kl=0.1, reference=logprobs.detach())
    assert float(terms.ratio) / len(batch.targets) == pytest.approx(1.0, abs=1e-5)
    assert float(terms.kl) == 0.0
    assert int(terms.clipped) == 0


def flat(ratios: list[float], advantages: list[float]) -> tuple[torch.Tensor, MicroBatch]:
    n = len(ratios)
    zeros = torch.zeros(n, dtype=torch.int64)
    logprobs = torch.tensor([math.log(ratio) for ratio in ratios], requires_grad=True)
    return logprobs, MicroBatch(
        zeros[None], zeros, zeros, zeros, torch.zeros(n), torch.tensor(advantages), torch.ones(n)
    )


def test_the_clip_is_asymmetric_and_one_sided() -> None:
    # Good token: may rise to 1.28. Bad token: may fall to 0.8. In the other direction nothing is cut.
    logprobs, batch = flat([1.27, 1.29, 0.5, 0.81, 0.79, 2.0], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    terms = policy_loss(logprobs, batch, clip=CLIP, kl=0.0)
    terms.loss.backward()
    assert logprobs.grad is not None
    assert (logprobs.grad != 0).tolist() == [True, False, True, True, False, True]
    assert int(terms.clipped) == 2
    assert float(terms.loss.detach()) == pytest.approx(-1.27 - 1.28 - 0.5 + 0.81 + 0.8 + 2.0, rel=1e-6)


def test_k3_is_positive_and_zero_only_where_equal() -> None:
    logprobs = torch.linspace(-3, 0, 31)
    divergence = k3(logprobs, torch.full_like(logprobs, -1.5))
    assert float(divergence[15]) == pytest.approx(0.0, abs=1e-6)
    assert bool((divergence[torch.arange(31) != 15] > 0).all())


def test_entropy_of_the_sampling_distribution() -> None:
    model, samples = tiny_llama(), episodes(8, count=1)
    (batch,) = micro_batches(samples, max_tokens=1000)
    found = score(model, batch, temperature=0.5).entropy
    ids = samples[0].tokens.ids
    for n, column in enumerate(batch.columns.tolist()):
        logits = model(input_ids=torch.from_numpy(ids[None, : column + 1])).logits[0, -1] / 0.5
        expected = torch.distributions.Categorical(logits=logits.detach()).entropy()
        assert float(found[n]) == pytest.approx(float(expected), abs=1e-5)
