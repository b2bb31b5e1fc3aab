"""The GRPO objective, token by token.

    scores = score(model, batch, temperature=1.0)
    terms = policy_loss(scores.logprobs, batch, clip=(0.2, 0.28), kl=0.001, reference=reference)
    (terms.loss / trained_tokens_of_the_whole_batch).backward()

Loss of a sampled token t of an episode with advantage A, with r = pi(t) / behaviour(t):

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl * k3,    k3 = exp(d) - d - 1,    d = log reference(t) - log pi(t)

Sources: clipped surrogate, PPO (arXiv:1707.06347, eq. 7); one advantage per episode and the KL inside the loss, GRPO
(arXiv:2402.03300, eq. 3-4); k3, Schulman, "Approximating KL Divergence" (2020): unbiased, never negative; `high > low`
("clip higher") and the mean over all tokens of the batch rather than per episode, DAPO (arXiv:2503.14476, §3.1, §3.3).

Left out of the textbook versions: the ratio is taken to the probabilities of the engine that sampled the token, so with
one update per batch it also corrects for a mismatch between engine and trainer and there is no separate "old policy"
pass; no entropy bonus; no value function.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from sentinel.solver.batch import MicroBatch


class Scores(NamedTuple):
    """What the model thinks of the N sampled tokens of a micro-batch."""

    logprobs: torch.Tensor
    """float32 [N], with gradient where the model has one."""
    entropy: torch.Tensor
    """float32 [N], nats, without gradient: of the distribution each token was drawn from."""


class Terms(NamedTuple):
    """Sums over the N sampled tokens of a micro-batch; divide by the trained tokens of the whole batch."""

    loss: torch.Tensor
    """With gradient."""
    kl: torch.Tensor
    """k3 estimate of KL(pi, reference); zero where there is no reference."""
    ratio: torch.Tensor
    """Importance ratios pi / behaviour."""
    clipped: torch.Tensor
    """Tokens whose ratio lay beyond the clip on the side where clipping takes the gradient away."""


def score(model: PreTrainedModel, batch: MicroBatch, *, temperature: float) -> Scores:
    """Logprobs and entropies of the sampled tokens at the temperature they were sampled with.

    Hidden states are selected before the output layer, so logits exist only where a token was sampled. There is no
    attention mask: padding is on the right and the model is causal.
    """
    hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[batch.rows, batch.columns]).float() / temperature
    logprobs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return Scores(logprobs.gather(-1, batch.targets[:, None])[:, 0], entropy)


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Per-token KL estimate `exp(d) - d - 1` with `d = reference - logprobs`; zero where they agree, never negative."""
    difference = reference - logprobs
    return difference.exp() - difference - 1.0


def policy_loss(
    logprobs: torch.Tensor,
    batch: MicroBatch,
    *,
    clip: tuple[float, float],
    kl: float,
    reference: torch.Tensor | None = None,
) -> Terms:
    """The objective of the module docstring, summed over the sampled tokens of a micro-batch.

    Args:
        logprobs: [N], of the model in training.
        batch: where the tokens, their advantages and the sampling logprobs come from.
        clip: lower and upper distance of the ratio from 1.
        kl: weight of the KL penalty.
        reference: [N], logprobs under the policy at the iteration's start, without gradient; `None` for no penalty.
    """
    low, high = clip
    ratio = (logprobs - batch.behaviour).exp()
    unclipped = ratio * batch.advantages
    bounded = ratio.clamp(1.0 - low, 1.0 + high) * batch.advantages
    divergence = torch.zeros_like(logprobs) if reference is None else k3(logprobs, reference)
    loss = (kl * divergence - torch.minimum(unclipped, bounded)).sum()
    return Terms(loss, divergence.sum().detach(), ratio.sum().detach(), (bounded < unclipped).sum())
