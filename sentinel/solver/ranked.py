"""The `deepspeed` backend: the stage's side of a training that is spread over processes.

    with ranked(policy.model, setup, place, state=context.state, threads=2) as backend:
        Trainer(backend, …).train()

The ranks hold masters, moments and gradients (`sentinel.solver.shares`); this process holds a model to play with, which
takes over the ranks' weights after each step, in the precision of their forward pass. Ranks end with this process,
whatever its end; where one of them dies, the run ends with the last lines of its log.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedModel

from sentinel.errors import StageError
from sentinel.llm import keeper
from sentinel.solver import builds
from sentinel.solver.batch import Sample
from sentinel.solver.checkpoint import restore_model
from sentinel.solver.metrics import Update
from sentinel.solver.rank import ADDRESS, KEY, Setup, environment
from sentinel.spec.profile import DeepSpeedTrainer

SHOWN_LINES = 30
"""Of a rank's log, where it fails."""
LAST_WORDS_SECONDS = 5.0
"""Where one rank dies, the others soon end as well, since they miss it: all are heard before one is blamed."""


class RankedBackend:
    """A `Backend` whose steps are computed by the ranks."""

    def __init__(self, model: PreTrainedModel, ranks: _Ranks, live: Path) -> None:
        self.model = model.eval()
        self._ranks, self._live = ranks, live

    def update(self, samples: Sequence[Sample]) -> Update | None:
        """One step on the whole batch (`Backend`)."""
        found: Update | None = self._ranks.ask("update", list(samples))
        if found:
            self._take_over()
        return found

    def save(self, path: Path) -> None:
        """Gathered by the first rank, which writes it (`Backend`)."""
        self._ranks.ask("save", str(path))

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote (`Backend`)."""
        self._ranks.ask("load", str(path))
        self._take_over()

    def _take_over(self) -> None:
        """Have the weights that the ranks compute with."""
        self._ranks.ask("export", str(self._live))
        restore_model(self.model, load_file(self._live))
        self._live.unlink()


class _Ranks:
    """The processes of this node."""

    def __init__(self, place: DeepSpeedTrainer, device: str, folder: Path, threads: int) -> None:
        self._logs = [folder / f"rank-{n}.log" for n in range(place.ranks)]
        self._listening = tempfile.TemporaryDirectory(prefix="sentinel-")
        address, key = f"{self._listening.name}/rank", secrets.token_bytes(16)
        self._listener = Listener(address, family="AF_UNIX", authkey=key)
        self._connection: Connection | None = None
        rendezvous, world = place.rendezvous or f"127.0.0.1:{_free_port()}", place.nodes * place.ranks
        shared = os.environ | builds.environment(place) | {"OMP_NUM_THREADS": str(max(1, threads // place.ranks))}
        first = {ADDRESS: address, KEY: key.hex()}
        self._processes = []
        for n, log in enumerate(self._logs):
            mine = environment(n, n, world, rendezvous, device) | (first if n == 0 else {})
            with log.open("wb") as output:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-I", keeper.__file__, sys.executable, "-m", "sentinel.solver.rank"],
                        env=shared | mine,
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def greet(self, seconds: float) -> None:
        """Wait for the first rank; the others find it by themselves."""
        deadline = time.monotonic() + seconds
        listening: Any = self._listener
        listening._listener._socket.settimeout(1.0)
        while self._connection is None:
            self._check()
            if time.monotonic() > deadline:
                raise StageError(f"the ranks of the training are not there after {seconds:.0f} s\n{self._tails()}")
            with suppress(TimeoutError):
                self._connection = self._listener.accept()

    def ask(self, name: str, argument: object) -> Any:
        """Have all ranks do something; returns what the first one answers."""
        connection = self._connection
        assert connection is not None
        try:
            connection.send((name, argument))
            while not connection.poll(1.0):
                self._check()
            return connection.recv()
        except (EOFError, OSError) as error:
            _wait(self._processes, LAST_WORDS_SECONDS)
            self._check()
            raise StageError(f"the first rank of the training is gone: {error}\n{self._tails()}") from error

    def _check(self) -> None:
        if all(process.poll() is None for process in self._processes):
            return
        _wait(self._processes, LAST_WORDS_SECONDS)
        codes = {n: code for n, process in enumerate(self._processes) if (code := process.poll()) is not None}
        first, *others = sorted(codes, key=lambda n: -codes[n])  # a signal's code is above that of who lost a peer
        raise StageError(
            f"rank {first} of the training ended with exit code {codes[first]}; the checkpoints are as they were\n"
            f"{self._tails(first, *others)}"
        )

    def _tails(self, *ranks: int) -> str:
        return "\n".join(_tail(self._logs[n]) for n in ranks or range(len(self._logs)))

    def close(self) -> None:
        """End the ranks and all that they have started."""
        if self._connection:
            with suppress(OSError):
                self._connection.send(("end", None))
            self._connection.close()
            _wait(self._processes, 5.0)
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
        for process in self._processes:
            process.wait(2 * keeper.GRACE_SECONDS)
        self._listener.close()
        self._listening.cleanup()


@contextmanager
def ranked(
    model: PreTrainedModel, setup: Setup, place: DeepSpeedTrainer, *, state: Path, threads: int
) -> Iterator[RankedBackend]:
    """Start the ranks and end them.

    Args:
        model: the iteration's first policy, adapters attached; it follows the ranks' weights.
        setup: what the ranks must know.
        place: how many there are, and what each one holds.
        state: the stage's own folder; their logs go there.
        threads: CPU threads of the stage, to be shared out.

    Raises:
        StageError: A rank cannot be started, or dies; shows the end of its log.
    """
    builds.warm(place)
    folder = state / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    ranks = _Ranks(place, setup.device, folder, threads)
    try:
        ranks.greet(place.start_seconds)
        ranks.ask("setup", setup)
        yield RankedBackend(model, ranks, state / "live.safetensors")
    finally:
        ranks.close()


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.05)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    return f"    the end of {log}:\n" + "\n".join(f"    {line}" for line in lines)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
