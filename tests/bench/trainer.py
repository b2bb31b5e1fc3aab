"""How fast is an update? Ours against TRL's GRPO on the same model, episodes and threads, each in processes of its own.

    python -m tests.bench.trainer --json [--policy FOLDER] [--episodes 64]

An update is loss, gradient, clipping and an AdamW step over all episodes of a batch; no rollouts. Both sides do one
forward and one backward pass, without KL, in micro-batches of one size: TRL's are its 8 episodes, padded to the longest
of each eight, and ours have as many tokens as eight of the longest. TRL's side calls its own `_compute_loss` and adds
nothing else of its training loop; entropies are computed on both. The episodes are random ids with the lengths of the
tiny policy's: speed does not depend on what is said.
Both sides are timed by CPU seconds, which what else runs on the machine disturbs least, in turn and several times over;
the medians count. `ratio` is of trained tokens per CPU second (`ratio_tiny` where no folder is given), `memory` of the
peaks of resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sentinel.llm.tokenizer import train_tokenizer
from sentinel.llm.transcript import Tokens
from sentinel.solver.batch import Sample
from sentinel.solver.update import Updater
from sentinel.spec.trainer import Trainer as Settings

Side = Literal["ours", "trl"]
SIDES: tuple[Side, Side] = ("ours", "trl")
ROUNDS, UPDATES = 3, 4
PROMPT, LENGTHS, ACTION = 20, (30, 160), 0.3
"""Tokens of a prompt, of the rest of an episode, and the share of those that are sampled."""
ROWS = 8
"""Episodes of a micro-batch, TRL's default."""


def model_of(folder: Path | None) -> PreTrainedModel:
    """A real model, or one of the tiny policy's size with random weights."""
    if folder:
        return LlamaForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=510,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config)


def episodes(count: int, vocabulary: int, seed: int) -> list[Sample]:
    """Random conversations."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = PROMPT + int(rng.integers(*LENGTHS))
        sampled = rng.random(length) < ACTION
        sampled[:PROMPT], sampled[-1] = False, True
        logprobs = np.where(sampled, rng.normal(-6.0, 0.1, length), 0.0).astype(np.float32)
        found.append(Sample(Tokens(rng.integers(0, vocabulary, length), sampled, logprobs), float(rng.normal())))
    return found


def ours(model: PreTrainedModel) -> Any:
    """Our update."""
    tokens = ROWS * (PROMPT + LENGTHS[1])
    updater = Updater(model, Settings(learning_rate=1e-6, kl=0.0, micro_batch_tokens=tokens))
    return updater.update


def trl(model: PreTrainedModel) -> Any:
    """TRL's update: its loss, and what its trainer does with it."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    folder = tempfile.mkdtemp()
    config = GRPOConfig(folder, use_cpu=True, bf16=False, report_to=[], beta=0.0, gradient_checkpointing=False)
    trainer = GRPOTrainer(
        model,
        reward_funcs=lambda completions, **rest: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}),
        processing_class=train_tokenizer(["a b"], ["x"], max_context=512),
    )
    optimizer = trainer.create_optimizer()
    trainer.model.eval()  # no accumulation factors: the divisor is given

    def update(samples: list[Sample]) -> None:
        total = float(sum(sample.tokens.sampled.sum() for sample in samples))
        for start in range(0, len(samples), ROWS):
            trainer._compute_loss(trainer.model, padded(samples[start : start + ROWS], total)).backward()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def padded(samples: list[Sample], total: float) -> dict[str, torch.Tensor]:
    """A micro-batch as TRL takes it."""
    width = max(len(sample.tokens.ids) for sample in samples)

    def stack(name: str) -> torch.Tensor:
        rows = [np.pad(getattr(sample.tokens, name), (0, width - len(sample.tokens.ids))) for sample in samples]
        return torch.from_numpy(np.stack(rows))

    real = torch.from_numpy(np.stack([np.arange(width) < len(sample.tokens.ids) for sample in samples])).long()
    ids = stack("ids")
    return {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": real[:, :PROMPT],
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": real[:, PROMPT:],
        "tool_mask": stack("sampled")[:, PROMPT:].long(),
        "old_per_token_logps": stack("logprobs")[:, PROMPT:],
        "advantages": torch.tensor([sample.advantage for sample in samples]),
        "num_items_in_batch": torch.tensor(total),
    }


def measure(side: Side, folder: Path | None, count: int) -> dict[str, float]:
    """One side, in this process: trained tokens per CPU second, and the peak of resident memory in bytes."""
    torch.set_num_threads(1)
    model = model_of(folder)
    batches = [episodes(count, model.config.vocab_size, seed) for seed in range(UPDATES + 1)]
    update = {"ours": ours, "trl": trl}[side](model)
    update(batches[0])
    began = time.process_time()
    for each in batches[1:]:
        update(each)
    seconds = time.process_time() - began
    tokens = sum(int(sample.tokens.sampled.sum()) for each in batches[1:] for sample in each)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tokens_per_cpu_second": tokens / seconds, "peak_bytes": float(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.policy, options.episodes)))
        return
    found: dict[Side, list[dict[str, float]]] = {side: [] for side in SIDES}
    more = ["--policy", str(options.policy)] if options.policy else []
    for _ in range(options.rounds):
        for side in SIDES:
            command = [sys.executable, "-W", "ignore", "-m", "tests.bench.trainer", "--side", side, *more]
            done = subprocess.run([*command, "--episodes", str(options.episodes)], check=True, stdout=subprocess.PIPE)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {side: {name: median(run[name] for run in runs) for name in runs[0]} for side, runs in found.items()}
    name = "ratio" if options.policy else "ratio_tiny"
    result = {
        name: middle["ours"]["tokens_per_cpu_second"] / middle["trl"]["tokens_per_cpu_second"],
        "memory": middle["ours"]["peak_bytes"] / middle["trl"]["peak_bytes"],
        "runs": found,
    }
    print(json.dumps(result) if options.json else f"{name} {result[name]:.2f}, memory {result['memory']:.2f}")


if __name__ == "__main__":
    main()
