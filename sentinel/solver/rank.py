"""One process of a training that is spread over several: `python -m sentinel.solver.rank`, started by `ranked`.

The first rank is told what to do by the stage, over a local socket, and tells the others; so one loop, one curriculum
and one set of checkpoints exist however many ranks there are. On further nodes, whose first node a profile names as
`rendezvous`, the ranks are started by hand or by a job, and need nothing but to find it:

    python -m sentinel.solver.rank --node 1 --nodes 2 --ranks 8 --rendezvous HOST:PORT --device cuda

Each is started in a working folder in which the policy's folder and `.sentinel`, where checkpoints lie, have the same
relative paths as in that of the first node.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, Literal

ADDRESS, KEY = "SENTINEL_RANK_ADDRESS", "SENTINEL_RANK_KEY"
PATIENCE = timedelta(days=2)
"""Time that ranks wait for one another: while the first one's stage plays episodes, the others have nothing to do."""


@dataclass(frozen=True)
class Setup:
    """What all ranks must know before the first step; plain data."""

    policy: str
    """Folder of the iteration's first policy, relative to each rank's working folder."""
    dtype: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    settings: str
    """The trainer's section of the spec, as JSON."""
    place: str
    """The trainer's section of the profile, as JSON."""
    adapters_seed: int
    objective: Literal["grpo", "likelihood"] = "grpo"
    """What is maximised (`sentinel.solver.objective`)."""


def environment(rank: int, local: int, world: int, rendezvous: str, device: str) -> dict[str, str]:
    """What a rank reads from its environment."""
    host, _, port = rendezvous.rpartition(":")
    found = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": world, "MASTER_ADDR": host, "MASTER_PORT": port}
    accelerator = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {name: str(value) for name, value in found.items()} | accelerator


def cuda() -> bool:
    """Whether this rank has a GPU."""
    return "DS_ACCELERATOR" not in os.environ


class Rank:
    """A rank's model and its share; every method is called on all ranks together."""

    def __init__(self, setup: Setup) -> None:
        import torch

        from sentinel.llm.lora import attach
        from sentinel.llm.policy import load_policy
        from sentinel.solver.objective import GRADIENTS
        from sentinel.solver.shares import Scorer, Whole, Zero
        from sentinel.solver.update import checkpointed, reference_scores
        from sentinel.spec.profile import DeepSpeedTrainer
        from sentinel.spec.trainer import Trainer

        self.settings = Trainer.model_validate_json(setup.settings)
        place = DeepSpeedTrainer.model_validate_json(setup.place)
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda() else torch.device("cpu")
        model = load_policy(Path(setup.policy), str(self.device), setup.dtype).model
        if lora := self.settings.lora:
            attach(model, rank=lora.rank, alpha=lora.alpha, modules=lora.modules, seed=setup.adapters_seed)
        self._reference = reference_scores(model, self.settings)
        self._gradient = GRADIENTS[setup.objective]
        scorer = Scorer(model, self.settings.temperature)
        dtype = getattr(torch, setup.dtype)
        self.share = Zero(scorer, self.settings, place, dtype) if place.stage else Whole(scorer, self.settings)
        self._prepare = partial(checkpointed, model) if place.gradient_checkpointing else model.eval

    def update(self, samples: Sequence[Any]) -> Any:
        """This rank's part of one optimizer step; the figures are those of the whole batch."""
        import torch
        import torch.distributed as dist

        from sentinel.solver.objective import cut, figures

        plan = cut(samples, self.settings, self.device)
        mine = plan.batches[dist.get_rank() :: dist.get_world_size()]
        rounds = -(-len(plan.batches) // dist.get_world_size())
        last = plan.batches[-1]
        idle = last._replace(weights=torch.zeros_like(last.weights))  # whoever has one batch less keeps step with it
        sums = torch.zeros(6, dtype=torch.float64, device=self.device)
        self._prepare()
        for batch in [*mine, *[idle] * (rounds - len(mine))]:
            found = self._gradient(
                self.share.score, batch, plan.divisor, self.settings, self.share.backward, self._reference
            )
            sums += 0.0 if batch is idle else found
        dist.all_reduce(sums)
        return figures(sums, plan, self.settings, self.share.step(self.settings.max_grad_norm))

    def save(self, path: str) -> None:
        """Write all that is needed to continue."""
        self._write(path, self.share.tensors())

    def export(self, path: str) -> None:
        """Write the weights that are trained, as the forward pass sees them."""
        self._write(path, self.share.weights())

    def load(self, path: str) -> None:
        """Continue from what `save` wrote."""
        from safetensors.torch import load_file

        self.share.restore(load_file(path))

    def _write(self, path: str, tensors: Mapping[str, Any]) -> None:
        from sentinel.solver.checkpoint import save_tensors

        if tensors:
            save_tensors(Path(path), tensors)


def serve(connection: Connection | None) -> None:
    """Do what the stage asks until it asks no more; without a connection, what the first rank passes on."""
    import torch.distributed as dist

    rank: Rank | None = None
    while True:
        order: list[Any] = [connection.recv() if connection else None]
        dist.broadcast_object_list(order, src=0)
        name, argument = order[0]
        if name == "end":
            return
        if name == "setup":
            rank, answer = Rank(argument), None
        else:
            answer = getattr(rank, name)(argument)
        dist.barrier()
        if connection:
            connection.send(answer)


def join() -> None:
    """Find the other ranks, then serve."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if cuda():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda() else "gloo", timeout=PATIENCE)
    address = os.environ.get(ADDRESS)
    connection = Client(address, authkey=bytes.fromhex(os.environ[KEY])) if address else None
    try:
        serve(connection)
    finally:
        dist.destroy_process_group()


def main(arguments: Sequence[str]) -> int:
    """A rank; with `--node`, all ranks of a further node."""
    parser = argparse.ArgumentParser(prog="python -m sentinel.solver.rank", description=__doc__)
    parser.add_argument("--node", type=int)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rendezvous", default="127.0.0.1:0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args(arguments)
    if options.node is None:
        join()
        return 0
    command, world = [sys.executable, "-m", "sentinel.solver.rank"], options.nodes * options.ranks
    first = options.node * options.ranks
    ranks = [
        subprocess.Popen(command, env=os.environ | environment(first + n, n, world, options.rendezvous, options.device))
        for n in range(options.ranks)
    ]
    return max(rank.wait() for rank in ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
