"""The trainer's section of a spec: the objective, its guards, and what is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sentinel.spec.section import Positive, Sampling, Section, Share

Aggregation = Literal["token", "sequence", "dr_grpo"]


class Shaping(Section):
    """Bounded penalties, each the weight of a share in [0, 1] of an episode; sources in `sentinel.solver.shaping`."""

    repeated_calls: Share = 0.0
    """Calls that repeat an earlier one of the episode, word for word."""
    format: Share = 0.0
    """Turns whose tool call cannot be read."""
    length: Share = 0.0
    """How far the episode is beyond half of `length_tokens`."""
    authentication: Share = 0.0
    """Calls about a customer before the customer was found."""
    length_tokens: Positive = 16384
    """Tokens of an episode from which on the length penalty is whole."""

    @property
    def weights(self) -> dict[str, float]:
        """The weights that are not zero, by name."""
        named = ("repeated_calls", "format", "length", "authentication")
        return {name: weight for name in named if (weight := getattr(self, name))}

    @model_validator(mode="after")
    def _any_success_above_any_failure(self) -> Shaping:
        if (total := sum(self.weights.values())) >= 1.0:
            raise ValueError(
                f"length: with it the weights add up to {total:g}; keep them below 1, or a failure could win"
            )
        return self


class Lora(Section):
    """Low-rank adapters (arXiv:2106.09685)."""

    rank: Positive = 16
    """Rank of the change of each matrix."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """The change is scaled by alpha / rank."""
    modules: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Last names of the linear layers that get an adapter."""


class Alarms(Section):
    """Thresholds of the guards; what each means is in `sentinel.solver.alarms`."""

    kl: Annotated[float, Field(gt=0.0)] = 1.0
    """Most KL to the iteration's first policy, in nats per token; beyond it the run stops."""
    entropy: Share = 0.1
    """Least entropy, as a share of the first step's."""
    length: Annotated[float, Field(gt=1.0)] = 3.0
    """Factor by which episodes may become longer or shorter than in the first step."""
    void: Share = 0.5
    """Most void episodes of a step; beyond it in two steps running the run stops."""
    informative: Share = 0.05
    """Least share of groups whose episodes differ in reward."""
    ratio: Share = 0.5
    """Most tokens whose importance ratio lies outside [0.9, 1.1]."""
    dev_drop: Share = 0.1
    """How far the dev score may fall below the best one; beyond it the run stops and the best policy is the result."""


class Trainer(Sampling):
    """Reinforcement learning of the Solver (GRPO)."""

    algorithm: Literal["grpo"] = "grpo"
    """The objective."""
    steps: Positive = 12
    """Optimizer steps per iteration; the paper refreshes tasks every 12 rollout batches."""
    prompts_per_step: Positive = 32
    """Groups per step."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Episodes per group; advantages are relative within a group, so at least 2."""
    refills: Annotated[int, Field(ge=0, le=4)] = 1
    """Most extra draws per step in place of groups whose rewards are all equal; their episodes count in the budget."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1.0e-6
    """AdamW step size."""
    clip: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], Annotated[float, Field(gt=0.0)]] = (0.2, 0.28)
    """Lower and upper clip of the importance ratio (asymmetric, as DAPO)."""
    kl: Annotated[float, Field(ge=0.0)] = 0.001
    """Weight of the KL penalty to the policy at the iteration's start."""
    unbiased_kl: bool = False
    """Whether the KL penalty is weighted by the ratio, so that its gradient is that of the reverse KL (TRL's way)."""
    aggregation: Aggregation = "token"
    """How token losses become one: mean over tokens, mean of episodes' means, or sum by a constant."""
    scale_advantages: bool = True
    """Whether a group's advantages are divided by its standard deviation; without, easy and hard tasks weigh alike."""
    importance_cap: Annotated[float, Field(ge=1.0)] | None = None
    """Bound of the engine's mismatch correction (TIS), apart from the clip; null: the clip is to the engine itself."""
    mask_truncated: bool = False
    """Whether episodes that a limit cut off (context, turns, tokens of a turn) are left out of the loss."""
    shaping: Shaping = Shaping()
    """Penalties beside the reward."""
    packing: bool = False
    """Whether short samples share rows; for attention kernels that take variable lengths."""
    micro_batch_tokens: Positive = 4096
    """Tokens that go through the model together, padding included; fixed, as it decides the order of float sums."""
    lora: Lora | None = None
    """Train low-rank adapters in place of all weights."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient clipping."""
    dev_every: Positive = 6
    """Steps between dev evaluations; the checkpoint with the best dev score is the stage's result."""
    alarms: Alarms = Alarms()
    """When something is wrong with the training."""
