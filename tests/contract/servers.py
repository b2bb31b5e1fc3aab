"""A server on a free port of this machine that answers as it is told to: well, badly, late, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """A request that reached the server."""

    path: str
    body: Any
    key: str | None
    """The `Authorization` header."""


class Handler(BaseHTTPRequestHandler):
    """One request; what is answered is the behaviour's business."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, content: bytes) -> None:
        self.server.answer(
            self, Asked(self.path, json.loads(content) if content else None, self.headers["Authorization"])
        )

    def reply(
        self,
        content: bytes | dict[str, Any],
        status: int = 200,
        claimed: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a body; `claimed` bytes may be more than are sent."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(max(claimed, len(body))))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test report is the log."""


Behaviour = Callable[[Handler, Asked], None]


class Server(ThreadingHTTPServer):
    """Remembers what it was asked, and how many requests it had in hand at a time."""

    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour, self.asked = behaviour, list[Asked]()
        self.open = self.most_open = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, handler: Handler, asked: Asked) -> None:
        with self.lock:
            self.asked.append(asked)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            self.behaviour(handler, asked)
        except (BrokenPipeError, ConnectionResetError):  # the client has given up, as it should
            handler.close_connection = True
        finally:
            with self.lock:
                self.open -= 1


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Server]:
    with Server(behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sends(content: bytes | dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Always the same answer."""
    return lambda handler, asked: handler.reply(content, status, headers=headers)


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    """What a chat server answers."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"total_tokens": 12},
    }


def saying(*texts: str) -> Behaviour:
    """One text after the other; the last one for ever."""
    left = list(texts)
    return lambda handler, asked: handler.reply(completion(left.pop(0) if len(left) > 1 else left[0]))


def hang_up(handler: Handler, asked: Asked) -> None:
    """Closes without an answer."""
    handler.close_connection = True
