"""Loss and gradient equal TRL's GRPO on the same token tensors: padding, masks, aggregations, KL, correction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sentinel.llm.tokenizer import train_tokenizer
from sentinel.llm.transcript import Tokens
from sentinel.solver.batch import Sample, spread
from sentinel.solver.loss import policy_loss, score
from sentinel.solver.objective import cut
from sentinel.spec.trainer import Trainer as Settings
from tests.unit.solver_toys import VOCABULARY, tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore")
LENGTH = 40
"""Most tokens of a completion; the constant of dr_grpo."""
CLIP = (0.2, 0.28)
CAP = 1.5
LOSS_TYPE = {"token": "dapo", "sequence": "grpo", "dr_grpo": "dr_grpo"}


class Case(NamedTuple):
    """A random batch in both forms."""

    samples: list[Sample]
    inputs: dict[str, Any]


def random_case(seed: int) -> Case:
    """Prompts padded on the left, completions on the right; within those, observations that are masked."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(3, 7))
    prompts = [rng.integers(1, VOCABULARY, int(rng.integers(2, 9))) for _ in range(rows)]
    answers = [rng.integers(1, VOCABULARY, int(rng.integers(3, LENGTH))) for _ in range(rows)]
    sampled = [np.where(rng.random(len(answer)) < 0.6, True, False) for answer in answers]
    for each in sampled:
        each[0] = True
    logprobs = [rng.normal(-3.0, 0.4, len(answer)).astype(np.float32) for answer in answers]
    old = [each + rng.normal(0.0, 0.3, len(each)).astype(np.float32) for each in logprobs]
    advantages = rng.normal(size=rows).astype(np.float32)
    samples = [
        Sample(
            Tokens(
                np.concatenate([prompt, answer]),
                np.concatenate([np.zeros(len(prompt), bool), mask]),
                np.concatenate([np.zeros(len(prompt), np.float32), behaviour]),
            ),
            float(advantage),
        )
        for prompt, answer, mask, behaviour, advantage in zip(
            prompts, answers, sampled, logprobs, advantages, strict=True
        )
    ]
    mask = padded(sampled).bool()
    inputs = {
        "prompt_ids": padded(prompts, left=True).long(),
        "prompt_mask": padded([np.ones(len(each)) for each in prompts], left=True).long(),
        "completion_ids": padded(answers).long(),
        "completion_mask": padded([np.ones(len(each)) for each in answers]).long(),
        "tool_mask": mask.long(),
        "advantages": torch.from_numpy(advantages),
        "old": padded(old).float(),
        "behaviour": padded(logprobs).float(),
        "num_items_in_batch": mask.sum().float(),
    }
    return Case(samples, inputs)


def padded(rows: list[Any], *, left: bool = False) -> torch.Tensor:
    width = max(len(row) for row in rows)
    pads = [np.zeros(width - len(row)) for row in rows]
    both = [(pad, row) if left else (row, pad) for row, pad in zip(rows, pads, strict=True)]
    return torch.from_numpy(np.stack([np.concatenate(pair) for pair in both]))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["a b c"], ["x"], max_context=128)


@pytest.fixture(scope="module")
def theirs(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """TRL's trainer over the same model; it only computes losses here."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to=[],
        epsilon=CLIP[0],
        epsilon_high=CLIP[1],
        max_completion_length=LENGTH,
        disable_dropout=True,
        gradient_checkpointing=False,
    )
    yield GRPOTrainer(
        tiny_llama(),
        reward_funcs=lambda completions, **rest: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}),
        processing_class=tokenizer,
    )


def theirs_loss(
    trainer: Any, seed: int, case: Case, aggregation: str, kl: float, cap: float | None, unbiased: bool
) -> Any:
    """Of the model that TRL has prepared for itself, with our weights."""
    model = trainer.model.eval()
    given = dict(case.inputs)
    behaviour, old = given.pop("behaviour"), given.pop("old")
    trainer.loss_type, trainer.beta = LOSS_TYPE[aggregation], kl
    trainer.args.use_bias_correction_kl = unbiased
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = cap is not None, True
    if cap is None:
        given["old_per_token_logps"] = behaviour
    else:
        given["old_per_token_logps"] = old
        given["importance_sampling_ratio"] = (old - behaviour).exp().clamp(max=cap)
    if kl:
        ids = torch.cat([given["prompt_ids"], given["completion_ids"]], dim=1)
        mask = torch.cat([given["prompt_mask"], given["completion_mask"]], dim=1)
        with torch.no_grad():
            width = given["completion_ids"].size(1)
            model.load_state_dict(tiny_llama(99).state_dict())
            found = trainer._get_per_token_logps_and_entropies(model, ids, mask, width)
            given["ref_per_token_logps"] = found[0]
    model.load_state_dict(tiny_llama(seed).state_dict())
    return trainer._compute_loss(model, given)


def old_of(case: Case) -> list[Sample]:
    """The samples with the trainer's earlier logprobs in place of the engine's."""
    found = []
    for row, sample in enumerate(case.samples):
        tokens = sample.tokens
        prompt = int(case.inputs["prompt_mask"][row].sum())
        old = case.inputs["old"][row, : len(tokens.ids) - prompt].numpy()
        values = np.concatenate([np.zeros(prompt, np.float32), old]).astype(np.float32)
        found.append(Sample(Tokens(tokens.ids, tokens.sampled, values), sample.advantage))
    return found


def ours_loss(model: LlamaForCausalLM, case: Case, settings: Settings) -> torch.Tensor:
    plan, before = cut(case.samples, settings, "cpu"), cut(old_of(case), settings, "cpu")
    total = torch.zeros(())
    for batch, earlier in zip(plan.batches, before.batches, strict=True):
        reference = None
        if settings.kl:
            with torch.no_grad():
                reference = score(tiny_llama(99), batch, temperature=1.0).logprobs
        total = (
            total
            + policy_loss(
                score(model, batch, temperature=1.0).logprobs,
                batch,
                clip=settings.clip,
                kl=settings.kl,
                reference=reference,
                cap=settings.importance_cap,
                old=earlier.behaviour,
                unbiased_kl=settings.unbiased_kl,
            ).loss
        )
    return total / plan.divisor


def gradients(model: LlamaForCausalLM, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("aggregation", ["token", "sequence", "dr_grpo"])
@pytest.mark.parametrize(("kl", "unbiased"), [(0.0, False), (0.04, False), (0.04, True)])
@pytest.mark.parametrize("cap", [None, CAP])
def test_loss_and_gradient_are_trls(
    seed: int, aggregation: Any, kl: float, unbiased: bool, cap: float | None, theirs: Any
) -> None:
    case, model = random_case(seed), tiny_llama(seed)
    settings = Settings(
        aggregation=aggregation,
        kl=kl,
        clip=CLIP,
        unbiased_kl=unbiased,
        importance_cap=cap,
        max_new_tokens=LENGTH,
        micro_batch_tokens=60,
        packing=seed % 2 == 1,
    )
    ours, other = ours_loss(model, case, settings), theirs_loss(theirs, seed, case, aggregation, kl, cap, unbiased)
    one, two = gradients(model, ours), gradients(theirs.model, other)
    # The terms of a token are of size 1; a sum of them that cancels has no relative precision left.
    assert float(ours) == pytest.approx(float(other), rel=1e-5, abs=1e-7)
    assert float((one - two).norm()) <= 1e-5 * float(two.norm())


def test_the_divisors_are_of_the_whole_batch() -> None:
    case = random_case(3)
    counts = [int(sample.tokens.sampled.sum()) for sample in case.samples]
    assert spread(case.samples, "token", LENGTH) == ([1.0] * len(counts), sum(counts))
    assert spread(case.samples, "sequence", LENGTH) == ([1.0 / count for count in counts], len(counts))
    assert spread(case.samples, "dr_grpo", LENGTH) == ([1.0] * len(counts), len(counts) * LENGTH)


def test_stretches_of_one_episode_count_as_one() -> None:
    tokens = random_case(4).samples[0].tokens
    halves = [Sample(tokens, 1.0, 7), Sample(tokens, 1.0, 7)]
    size = int(tokens.sampled.sum())
    assert spread(halves, "sequence", LENGTH) == ([0.5 / size] * 2, 1)
    assert spread(halves, "dr_grpo", LENGTH).divisor == LENGTH
