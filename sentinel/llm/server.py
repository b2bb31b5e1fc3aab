"""A vLLM server of a stage's own: started with its policy, stopped with it, and gone with it whatever happens.

    model = Model(folder, policy_hash(folder), "bfloat16", 32768)
    with serving(model, profile.engine, log=state / "server.log") as url:
        ServedEngine(url, model.name, stop).run(conversations, limits)

It listens on a free port of this machine only and serves the policy under its hash, so that nobody else's server is
taken for it. Precision and context come from the spec; how it is started, and all other options, from the profile.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel.errors import StageError
from sentinel.llm import keeper
from sentinel.llm.engine import Conversation, Limits
from sentinel.llm.vllm import VllmEngine
from sentinel.spec.profile import VllmServer

SHOWN_LINES = 30
"""Of the server's log, where it fails."""
ALIVE_SECONDS = 15.0
"""How long a server may leave the question unanswered whether it is there."""
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
"""The policy lies on disk: the server has nobody to talk to but its stage."""
RELOADING = {"VLLM_SERVER_DEV_MODE": "1"}
"""Opens `reload_weights`."""


@dataclass(frozen=True)
class Model:
    """What is served."""

    folder: Path
    name: str
    """Under which it is served: the hash of its weights."""
    dtype: str
    max_context: int
    """Tokens of prompt and answer together."""


class ServedEngine(VllmEngine):
    """Samples from a stage's own server; where that is gone, the run ends, and not every episode that is left."""

    def run(self, conversations: Sequence[Conversation], limits: Limits) -> None:
        """Drive every conversation to its end; raises `StageError` if the server did not live to see it."""
        super().run(conversations, limits)
        self.wait_until_ready(ALIVE_SECONDS)


@contextmanager
def serving(
    model: Model,
    server: VllmServer,
    *,
    log: Path,
    reloading: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[str]:
    """Start a server, wait until it is ready, and stop it in the end; gives its address, with the `/v1`.

    Args:
        model: what it serves.
        server: how it is started.
        log: where its output goes.
        reloading: whether it shall take over new weights later on.
        say: hears of what a person should know.

    Raises:
        StageError: It cannot be started, is not ready in time, or dies while it is needed; shows the end of its log.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}/v1"
    environment = os.environ | QUIET | (RELOADING if reloading else {}) | server.environment
    say(f"starting the inference server; its log is {log}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(keeper.__file__)), *_command(model, server, port)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def check() -> None:
        if (code := process.poll()) is not None:
            raise StageError(f"the inference server ended with exit code {code}")

    ready = False
    try:
        VllmEngine(url, model.name, stop=0).wait_until_ready(server.start_seconds, check=check)
        ready = True
        yield url
    except StageError as error:
        if ready and process.poll() is None:
            raise
        raise StageError(f"{error}\n    the end of {log}:\n{_tail(log)}") from error
    finally:
        _stop(process)


def _command(model: Model, server: VllmServer, port: int) -> list[str]:
    options = {
        "--served-model-name": model.name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": model.dtype,
        "--max-model-len": str(model.max_context),
        "--logprobs-mode": "processed_logprobs",
    }
    ours = [word for option in options.items() for word in option]
    return [*server.command, str(model.folder), *ours, *server.arguments]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close its keeper's standard input, and wait until all is gone."""
    if process.stdin:
        process.stdin.close()
    process.wait(2 * keeper.GRACE_SECONDS)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    return "\n".join(f"    {line}" for line in lines)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
