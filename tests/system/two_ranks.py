"""One training on two ranks, for tests: started by torchrun, or as the first node of a TrainJob.

    torchrun --nproc-per-node 2 tests/system/two_ranks.py POLICY WEIGHTS
    python tests/system/two_ranks.py POLICY WEIGHTS HOST:PORT

Both make the same steps on the same episodes; the first rank writes the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sentinel.llm.policy import load_policy
from sentinel.solver.rank import Rank, Setup
from sentinel.solver.ranked import ranked
from sentinel.spec.profile import DeepSpeedTrainer
from tests.system.test_ranks import SETTINGS, STEPS, batch


def setup(folder: Path, place: DeepSpeedTrainer) -> Setup:
    return Setup(
        policy=str(folder),
        dtype="float32",
        device="cpu",
        settings=SETTINGS.model_dump_json(),
        place=place.model_dump_json(),
        adapters_seed=1,
    )


def by_torchrun(folder: Path, weights: Path) -> None:
    """Every process is a rank; nobody tells the first one what to do."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = Rank(setup(folder, DeepSpeedTrainer(type="deepspeed", stage=0, ranks=2)))
    vocabulary = len(load_policy(folder).tokenizer)
    for step in range(STEPS):
        rank.update(batch(step, vocabulary))
    exported = rank.share.weights()
    if dist.get_rank() == 0:
        save_file({name.removeprefix("model."): each.clone() for name, each in exported.items()}, weights)
    dist.destroy_process_group()


def by_nodes(folder: Path, weights: Path, rendezvous: str) -> None:
    """The stage's side on the first of two nodes."""
    place = DeepSpeedTrainer(type="deepspeed", stage=0, ranks=1, nodes=2, rendezvous=rendezvous, start_seconds=600)
    policy = load_policy(folder)
    with ranked(policy.model, setup(folder, place), place, state=weights.parent, threads=1) as backend:
        for step in range(STEPS):
            backend.update(batch(step, len(policy.tokenizer)))
    save_file({name: each.detach().clone() for name, each in policy.model.named_parameters()}, weights)


if __name__ == "__main__":
    torch.set_num_threads(1)
    (by_nodes if len(sys.argv) > 3 else by_torchrun)(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
