"""What the container tier starts on this machine, and stops again by process id: docker, a registry, an S3 server.

    with dockerd(cache) as address, registry(folder) as host, s3(folder) as bucket: ...

Everything listens on 127.0.0.1 (docker on a socket). Only Debian packages are installed, and kept; images, the base
system and the registry's content stay in the cache folder, so that a second run need not make them again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sentinel.stages.parent import die_with

ALWAYS = {"docker-registry": "docker-registry", "mmdebstrap": "mmdebstrap"}
FOR_A_DAEMON = {"dockerd": "docker.io", "iptables": "iptables"}
"""Program -> the Debian package that brings it."""
BASE_PACKAGES = "python3,libstdc++6,ca-certificates"
UNREAD = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
START_SECONDS = 90.0
STOP_SECONDS = 60.0


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command, with some more variables; what it printed, or a failure with all of that."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, text=True, capture_output=True)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: code {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


def daemon_answers(*options: str) -> bool:
    """Whether there is a docker daemon, by default the one that the environment names."""
    client = shutil.which("docker")
    return client is not None and subprocess.run([client, *options, "info"], capture_output=True).returncode == 0


def install(programs: Mapping[str, str]) -> None:
    """Install the Debian packages of the programs that are missing, or say who can."""
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not missing:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        pytest.fail(f"this tier needs Debian's {', '.join(missing)}: install them, or run it as root", pytrace=False)
    run("apt-get", "update", "--quiet")
    options = ["--yes", "--quiet", "--no-install-recommends"]
    run("apt-get", "install", *options, *missing, env={"DEBIAN_FRONTEND": "noninteractive"})


def free_port() -> int:
    """A port of the loopback address on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def service(
    command: list[str], log: Path, ready: Callable[[], bool], stop: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs as long as the block does; it fails with its log if it is not ready in time."""
    end_with_us = partial(die_with, os.getpid())
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=end_with_us
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
                pytest.fail(f"{command[0]} did not start:\n{tail}", pytrace=False)
            time.sleep(0.2)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Whether a server answers there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def dockerd(cache: Path) -> Iterator[str]:
    """A docker daemon of our own; yields the value of DOCKER_HOST."""
    if os.geteuid():
        pytest.fail("no docker daemon answers, and to start one takes root", pytrace=False)
    install(FOR_A_DAEMON)
    host = f"unix://{cache / 'docker.sock'}"
    command = ["dockerd", f"--data-root={cache / 'docker'}", f"--exec-root={cache / 'exec'}", f"--host={host}"]
    command += [f"--pidfile={cache / 'docker.pid'}"]
    with service(command, cache / "dockerd.log", lambda: daemon_answers("--host", host)):
        yield host


def debian_base(cache: Path, image: str) -> None:
    """Make a small Debian with Python from this machine's own package sources, and give it to docker as `image`."""
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0:
        return
    install(ALWAYS)
    suite = next(
        line.partition("=")[2]
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    wanted = ["Created-By: Packages", "Origin: Debian"]
    targets = run("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) main", *wanted)
    sources = sorted({line for line in targets.splitlines() if f" {suite}" in line})
    tar = cache / "base.tar"
    leave_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD]
    options = ["--quiet", "--variant=essential", f"--include={BASE_PACKAGES}", *leave_out]
    run("mmdebstrap", *options, suite, str(tar), *sources)
    run("docker", "import", str(tar), image)
    tar.unlink()


@contextmanager
def registry(cache: Path, folder: Path) -> Iterator[str]:
    """An image registry whose content stays in the cache; yields its host and port."""
    install(ALWAYS)
    host = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(cache / "registry")}},
        "http": {"addr": host},
    }
    (folder / "registry.json").write_text(json.dumps(config))
    command = ["docker-registry", "serve", str(folder / "registry.json")]
    with service(command, folder / "registry.log", lambda: answers(f"http://{host}/v2/")):
        yield host


@dataclass(frozen=True)
class Bucket:
    """A bucket on an S3 server of our own, with credentials made for this run."""

    name: str
    endpoint: str
    key: str
    secret: str
    reader: tuple[str, str]
    """Key and secret of somebody who may not write."""

    @property
    def url(self) -> str:
        """What DVC calls it."""
        return f"s3://{self.name}/cas"

    @property
    def environment(self) -> dict[str, str]:
        """The credentials, as S3 clients expect them."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}


def _credentials() -> tuple[str, str]:
    return secrets.token_hex(10), secrets.token_hex(20)


@contextmanager
def s3(folder: Path) -> Iterator[Bucket]:
    """SeaweedFS with one empty bucket."""
    names = [f"{part}.port{grpc}" for part in ("s3", "master", "volume", "filer") for grpc in ("", ".grpc")]
    ports = {name: free_port() for name in names}
    bucket = Bucket("sentinel", f"http://127.0.0.1:{ports['s3.port']}", *_credentials(), reader=_credentials())
    allowed = {"writer": ["Admin", "Read", "Write", "List"], "reader": ["Read", "List"]}
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": allowed[name]}
        for name, (key, secret) in {"writer": (bucket.key, bucket.secret), "reader": bucket.reader}.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "weed").mkdir()
    weed = shutil.which("weed", path=os.pathsep.join(["build/tools/bin", os.environ["PATH"]]))
    assert weed, "SeaweedFS is missing: `make test-system` installs it into build/tools"
    listen = [f"-{name}={port}" for name, port in ports.items()]
    only_here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    unused = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0"]
    config = ["-s3", f"-s3.config={folder / 's3.json'}", f"-dir={folder / 'weed'}"]
    command = [weed, "server", *config, *only_here, *unused, *listen]
    # It is killed, as it takes its time to end in good order, and nobody wants its data.
    with service(command, folder / "weed.log", lambda: answers(bucket.endpoint), signal.SIGKILL):
        make = "import s3fs, sys; s3fs.S3FileSystem(endpoint_url=sys.argv[1]).mkdir(sys.argv[2])"
        run(sys.executable, "-c", make, bucket.endpoint, bucket.name, env=bucket.environment)
        yield bucket
