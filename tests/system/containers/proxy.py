"""A server between an S3 client and its server, which can vanish: at the first request that one names."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy(socketserver.ThreadingTCPServer):
    """Forwards every connection, until a request begins with `until`; from then on it answers nobody."""

    daemon_threads = True

    def __init__(self, endpoint: str, until: bytes) -> None:
        self.target, self.until = (urlsplit(endpoint).hostname, urlsplit(endpoint).port), until
        self.gone = threading.Event()
        super().__init__(("127.0.0.1", 0), Connection)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Connection(socketserver.BaseRequestHandler):
    """One client."""

    server: Proxy

    def handle(self) -> None:
        """Pass on both ways; a client that would send what must not arrive is cut off."""
        if self.server.gone.is_set():
            return
        with suppress(OSError), socket.create_connection(self.server.target) as upstream:
            threading.Thread(target=self._answer, args=(upstream,), daemon=True).start()
            while data := self.request.recv(65536):
                if self.server.until in data:
                    self.server.gone.set()
                if self.server.gone.is_set():
                    return
                upstream.sendall(data)

    def _answer(self, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := upstream.recv(65536):
                self.request.sendall(data)


@contextmanager
def vanishing(endpoint: str, until: bytes) -> Iterator[Proxy]:
    """A proxy before an endpoint, for as long as the block lasts."""
    with Proxy(endpoint, until) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
