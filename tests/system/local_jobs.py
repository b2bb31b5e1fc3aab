"""Jobs of the launcher on the Kubeflow SDK's local backend: the nodes are processes of this machine.

The backend runs a function in a virtual environment of its own; ours starts the nodes, as JobSet does in a cluster. It
knows neither containers nor suspension.
"""

from __future__ import annotations

import json
import os
import sysconfig
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress

from sentinel.launch.follow import Order, State
from tests.contract.listening import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK's use of pydantic
    from kubeflow.trainer import CustomTrainer, TrainerClient
    from kubeflow.trainer.backends.localprocess.types import LocalProcessBackendConfig
    from kubeflow.trainer.options import Name
    from kubeflow.trainer.types.types import Runtime, RuntimeKind, RuntimeTrainer, TrainerType

NODES = "TEST_NODES"
"""Environment variable: the command of each node, as JSON."""


def nodes() -> None:
    """What the backend runs: all nodes side by side; the worst exit code is the job's."""
    import json
    import os
    import subprocess
    import sys

    commands = json.loads(os.environ["TEST_NODES"])
    started = [
        subprocess.Popen([sys.executable, *command], env={**os.environ, "PET_NODE_RANK": str(node)})
        for node, command in enumerate(commands)
    ]
    sys.exit(max(abs(process.wait()) for process in started))


class LocalJobs:
    """`sentinel.launch.follow.Jobs`, for tests."""

    def __init__(self, *commands: list[str]) -> None:
        self._commands = commands
        self._client = TrainerClient(LocalProcessBackendConfig(cleanup_venv=True))
        self.created: list[Order] = []

    def state(self, name: str) -> State:
        try:
            status = self._client.get_job(name).status
        except ValueError:
            return State.absent
        return {"Complete": State.complete, "Failed": State.failed}.get(status, State.active)

    def create(self, order: Order) -> None:
        self.created.append(order)
        rendezvous = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
        packages = os.pathsep.join([os.environ.get("PYTHONPATH", ""), sysconfig.get_paths()["purelib"]])
        commands = {NODES: json.dumps([list(command) for command in self._commands])}
        seats = {"PET_NNODES": str(order.nodes), **rendezvous, **commands}
        trainer = CustomTrainer(func=nodes, env={**os.environ, **order.environment, **seats, "PYTHONPATH": packages})
        # Any other framework than torch has the function started by Python, not by a torchrun of that environment.
        kind = RuntimeTrainer(trainer_type=TrainerType.CUSTOM_TRAINER, framework="plain", image="local")
        runtime = Runtime(name="torch-distributed", trainer=kind, kind=RuntimeKind.TRAINING_RUNTIME)
        self._client.train(runtime=runtime, trainer=trainer, options=[Name(order.name)])

    def claim(self, order: Order) -> None:
        """Processes of this machine belong to nobody's pod."""

    def suspend(self, name: str, suspended: bool) -> None:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        self._client.delete_job(name)

    def logs(self, name: str) -> Iterator[str]:
        shown, over = 0, False
        while not over:
            over = self.state(name) is not State.active
            lines = list(self._client.get_job_logs(name)) if self.state(name) is not State.absent else []
            yield from lines[shown:]
            shown = len(lines)
            time.sleep(0.2)

    def wait(self, name: str, seconds: float) -> State:
        with suppress(TimeoutError):
            limit = max(2, round(seconds))
            self._client.wait_for_job_status(name, {"Complete", "Failed"}, timeout=limit, polling_interval=1)
        return self.state(name)
