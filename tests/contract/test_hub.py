"""How a published model is brought here: what is asked of a hub (a small one on this machine), and what is not."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

MODEL, COMMIT = "lab/small", "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"tokens": []}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"hello",
    "model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}',
    "one.safetensors": b"1" * 1000,
    "two.safetensors": b"2" * 1000,
    "pytorch_model.bin": b"a pickle",
    "modeling_small.py": b"code",
    "README.md": b"words",
    "original/one.safetensors": b"the same once more",
}
WANTED = {name for name in FILES if "/" not in name and not name.endswith((".bin", ".py", ".md"))}
FETCH = f"""
import sys
from pathlib import Path
from sentinel.errors import SentinelError
from sentinel.llm.hub import fetch
try:
    fetch("{MODEL}", sys.argv[1], Path(sys.argv[2]), say=print)
except SentinelError as error:
    sys.exit(str(error))
"""


class Hub(BaseHTTPRequestHandler):
    """What `huggingface_hub` asks for, and no more."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.asked.append(path)
        siblings = [{"rfilename": name} for name in FILES]
        tree = [{"type": "file", "path": n, "size": len(c), "oid": digest(c)} for n, c in FILES.items()]
        api, files = f"/api/models/{MODEL}", f"/{MODEL}/resolve/{COMMIT}/"
        content: bytes | None = None
        if path in (f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            content = json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode()
        elif path == f"{api}/tree/{COMMIT}":
            content = json.dumps(tree).encode()
        elif path.startswith(files):
            content = FILES.get(path.removeprefix(files))
        self.send_response(404 if content is None else 200)
        content = content or b""
        for name, value in {
            "Content-Length": str(len(content)),
            "ETag": f'"{digest(content)}"',
            "X-Repo-Commit": COMMIT,
            "X-Error-Code": "RevisionNotFound",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: `asked` is the log."""


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def fetched(root: Path, url: str, home: Path, revision: str, target: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", FETCH, revision, str(target)],
        cwd=root,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def brought(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_config_tokenizer_and_safetensors_are_brought_and_nothing_else_is_asked_for(
    revision: str, root: Path, tmp_path: Path
) -> None:
    with hub() as (url, asked):
        done = fetched(root, url, tmp_path / "home", revision, tmp_path / "policy")
    assert done.returncode == 0, done.stderr
    assert brought(tmp_path / "policy") == {name: FILES[name] for name in WANTED}
    assert not any(path.endswith(unwanted) for path in asked for unwanted in set(FILES) - WANTED if "/resolve/" in path)
    assert (f"is the commit {COMMIT}: pin it" in done.stdout) == (revision == "main")
    again = fetched(root, "http://127.0.0.1:9", tmp_path / "home", revision, tmp_path / "again")
    assert again.returncode == 0, f"the cache holds it, no hub is needed: {again.stderr}"
    assert brought(tmp_path / "again") == brought(tmp_path / "policy")


def test_an_unknown_revision_is_named_and_nothing_is_left(root: Path, tmp_path: Path) -> None:
    with hub() as (url, _):
        done = fetched(root, url, tmp_path / "home", "v9", tmp_path / "policy")
    assert done.returncode == 1
    assert done.stderr.startswith(f"policy.model: '{MODEL}' at revision 'v9' could not be brought here")
    assert not (tmp_path / "policy").exists()
