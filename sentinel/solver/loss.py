"""The GRPO objective, token by token.

    scores = score(model, batch, temperature=1.0)
    terms = policy_loss(scores.logprobs, batch, clip=(0.2, 0.28), kl=0.001, reference=reference)
    (terms.loss / divisor_of_the_whole_batch).backward()

Loss of a sampled token t of an episode with advantage A, with r = pi(t) / behaviour(t):

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl * k3,    k3 = exp(d) - d - 1,    d = log reference(t) - log pi(t)

With a cap C the ratio is r = pi(t) / old(t) instead, to the trainer's own probabilities before the update, and the
first term is weighted by min(old(t) / behaviour(t), C): clipping bounds the update, the weight corrects what engine and
trainer disagree about. With `unbiased_kl` k3 is multiplied by r, whose gradient then is that of the reverse KL. What a
token's loss counts in the sum is in the batch (`sentinel.solver.batch.spread`).

Sources: clipped surrogate, PPO (arXiv:1707.06347, eq. 7); one advantage per episode and the KL inside the loss, GRPO
(arXiv:2402.03300, eq. 3-4); k3, Schulman, "Approximating KL Divergence" (2020): unbiased, never negative; `high > low`
("clip higher") and the mean over all tokens of the batch rather than per episode, DAPO (arXiv:2503.14476, §3.1, §3.3);
k3 times the ratio, DeepSeek-V3.2 (arXiv:2512.02556); truncated importance weights, Ionides (2008) and Yao et al., "Your
Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025).

Left out of the textbook versions: several updates per batch, so old = pi without gradient and costs no pass of its own
(the tests give another one); sequence-level ratios (GSPO); an entropy bonus; a value function.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sentinel.llm.head import Logits, PreciseHead
from sentinel.solver.batch import MicroBatch
from sentinel.solver.forward import states

NEAR = (0.9, 1.1)
"""Importance ratios of trainer to engine that rounding explains."""
LOGITS = 2**24
"""Logits that exist at a time, at most: 64 MiB in fp32, and the backward pass has three times as much."""


class Scores(NamedTuple):
    """What the model thinks of the N sampled tokens of a micro-batch."""

    logprobs: torch.Tensor
    """float32 [N], with gradient where the model has one."""
    entropy: torch.Tensor
    """float32 [N], nats, without gradient: of the distribution each token was drawn from."""


class Terms(NamedTuple):
    """Sums over the N sampled tokens of a micro-batch; all but the loss unweighted."""

    loss: torch.Tensor
    """Weighted, with gradient; divided by the batch's divisor."""
    kl: torch.Tensor
    """k3 estimate of KL(pi, reference); zero where there is no reference."""
    ratio: torch.Tensor
    """Importance ratios pi / behaviour."""
    off: torch.Tensor
    """Tokens whose importance ratio lies outside `NEAR`."""
    clipped: torch.Tensor
    """Tokens whose ratio lay beyond the clip on the side where clipping takes the gradient away."""


def score(model: PreTrainedModel, batch: MicroBatch, *, temperature: float) -> Scores:
    """Logprobs and entropies of the sampled tokens at the temperature they were sampled with.

    Logits exist only where a token was sampled, and for no more than `LOGITS` of them at a time: beyond that they are
    computed part by part, and again in the backward pass.
    """
    hidden, head = states(model, batch), model.get_output_embeddings()
    rows = max(1, LOGITS // model.config.get_text_config().vocab_size)
    if len(hidden) <= rows:
        return Scores(*_chosen(hidden, batch.targets, head, temperature))

    def parts(logits: Logits) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pieces = zip(hidden.split(rows), batch.targets.split(rows), strict=True)
        return [checkpoint(_chosen, *piece, logits, temperature, use_reentrant=False) for piece in pieces]

    logprobs, entropies = zip(*(head(hidden, parts) if isinstance(head, PreciseHead) else parts(head)), strict=True)
    return Scores(torch.cat(logprobs), torch.cat(entropies))


def _chosen(
    hidden: torch.Tensor, targets: torch.Tensor, logits: Logits, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs of the targets and entropies, [N], of hidden states [N, width]."""
    logprobs = (logits(hidden).float() / temperature).log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


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
    cap: float | None = None,
    old: torch.Tensor | None = None,
    unbiased_kl: bool = False,
) -> Terms:
    """The objective of the module docstring, summed over the sampled tokens of a micro-batch.

    Args:
        logprobs: [N], of the model in training.
        batch: where the tokens, their advantages, weights and the sampling logprobs come from.
        clip: lower and upper distance of the ratio from 1.
        kl: weight of the KL penalty.
        reference: [N], logprobs under the policy at the iteration's start, without gradient; `None` for no penalty.
        cap: bound of the correction between engine and trainer; `None` to clip the ratio to the engine itself.
        old: [N], logprobs under the trainer's policy before the update, for `cap`; by default those given, detached.
        unbiased_kl: whether the KL is weighted by the ratio.
    """
    low, high = clip
    importance = (logprobs - batch.behaviour).exp()
    if cap is None:
        ratio, correction = importance, None
    else:
        before = logprobs.detach() if old is None else old
        ratio, correction = (logprobs - before).exp(), (before - batch.behaviour).exp().clamp(max=cap)
    unclipped = ratio * batch.advantages
    bounded = ratio.clamp(1.0 - low, 1.0 + high) * batch.advantages
    surrogate = torch.minimum(unclipped, bounded)
    if correction is not None:
        surrogate = surrogate * correction
    divergence = torch.zeros_like(logprobs) if reference is None else k3(logprobs, reference)
    penalty = divergence * ratio if unbiased_kl else divergence
    loss = (batch.weights * (kl * penalty - surrogate)).sum()
    off = (importance < NEAR[0]) | (importance > NEAR[1])
    return Terms(loss, divergence.sum().detach(), importance.sum().detach(), off.sum(), (bounded < unclipped).sum())
