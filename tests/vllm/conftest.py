"""A real vLLM server on this machine, with a real small model: what `make test-vllm` has installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sentinel.errors import StageError
from sentinel.llm.vllm import VllmEngine

MODEL = "policy"
CONTEXT = 1024
"""Of an episode."""
SERVED = 8192
"""Of the server: whole failures in a prompt take some thousand tokens."""
START_SECONDS = 1500.0
"""vLLM imports itself three times over; on a busy machine that takes minutes."""
STOP_SECONDS = 120.0
SETTINGS = {
    "TORCH_COMPILE_DISABLE": "1",  # it would compile one small kernel at the first request, for minutes
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",
}


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    folder: Path
    """The weights it serves; they may be overwritten."""
    process: subprocess.Popen[bytes]
    log: Path

    def engine(self, stop: int, concurrency: int = 32) -> VllmEngine:
        return VllmEngine(self.url, MODEL, stop, concurrency=concurrency)

    def wait_until_ready(self) -> None:
        """Waits as long as the process lives, but not for ever."""
        began = time.monotonic()
        while True:
            try:
                return self.engine(stop=0).wait_until_ready(10.0)
            except StageError as error:
                if self.process.poll() is not None or time.monotonic() - began > START_SECONDS:
                    tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])
                    pytest.fail(f"vLLM did not start: {error}\n{tail}", pytrace=False)

    def stop(self) -> int:
        """Ask it to end, as an operator would; returns its exit code."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)

    def survivors(self) -> bool:
        """Whether any process of its group is left."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def home(root: Path) -> Path:
    """The environment of the tier, with the model in it."""
    place = root / ".venv-vllm"
    if not (place / "smollm2" / "config.json").exists():
        pytest.fail("there is no vLLM environment yet: run `make test-vllm`", pytrace=False)
    return place


@contextmanager
def running(root: Path, scratch: Path, dtype: str) -> Iterator[Server]:
    """A server in a process group of its own, of which nothing is left afterwards."""
    place = home(root)
    folder, log, port = scratch / "model", scratch / "server.log", free_port()
    shutil.copytree(place / "smollm2", folder)
    # `vllm serve` asks for a distribution named "vllm", which "vllm-cpu" is not: hence the module.
    command = f"""-m vllm.entrypoints.openai.api_server --model {folder} --served-model-name {MODEL}
        --host 127.0.0.1 --port {port} --dtype {dtype} --max-model-len {SERVED} --max-num-seqs 32 --enforce-eager
        --logprobs-mode processed_logprobs --enable-lora --max-lora-rank 8 --disable-log-stats"""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(place / "bin" / "python"), *command.split()],
            env=os.environ | SETTINGS,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Server(f"http://127.0.0.1:{port}/v1", folder, process, log)
    try:
        started.wait_until_ready()
        yield started
    finally:
        if started.survivors():
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In fp32, started once for all tests."""
    with running(root, tmp_path_factory.mktemp("vllm"), "float32") as started:
        yield started
