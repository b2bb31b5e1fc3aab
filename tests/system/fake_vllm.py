"""A program that is started, asked and stopped as a vLLM server, and says the same nonsense for the same seed.

    python -m tests.system.fake_vllm FOLDER --port P --served-model-name NAME …

With a process of its own, as vLLM's engine is. `FAKE_VLLM` in its environment is a way to fail: `crash`, `sleep`
(never ready) or `die:N` (after N answers).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

TROUBLE = os.environ.get("FAKE_VLLM", "")
LIMIT = int(TROUBLE.partition(":")[2] or 10**9)


def logprob(folder: Path) -> float:
    """What every token is said to have: a function of the weights in the folder."""
    return -1.0 - hashlib.sha256((folder / "model.safetensors").read_bytes()).digest()[0] / 256


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    name: str
    logprob: float
    answers: Iterator[int] = count()

    def do_GET(self) -> None:
        self.reply({"data": [{"id": self.name}]})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v1/completions":
            if next(self.answers) >= LIMIT:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.complete(json.loads(content))
        print(f"POST {self.path} {content.decode()}", flush=True)
        if self.path == "/collective_rpc":
            Handler.logprob = logprob(self.folder)
        return self.reply({})

    def complete(self, body: dict[str, Any]) -> None:
        ids = [30 + body["seed"] % 20, *body["stop_token_ids"]][: body["max_tokens"]]
        choice = {
            "prompt_token_ids": body["prompt"],
            "token_ids": ids,
            "logprobs": {"token_logprobs": [self.logprob] * len(ids)},
        }
        self.reply({"choices": [choice]})

    def reply(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: what matters is printed."""


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    known, rest = parser.parse_known_args()
    print("options", rest, flush=True)
    engine = subprocess.Popen(["sleep", "3600"])
    if TROUBLE == "crash":
        sys.exit("no memory for the KV cache")
    if TROUBLE == "sleep":
        engine.wait()
    Handler.folder, Handler.name, Handler.logprob = known.folder, known.served_model_name, logprob(known.folder)
    ThreadingHTTPServer(("127.0.0.1", known.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
