"""kfp.local's DockerRunner, as strict as a cluster: nobody's privileges, a root that is read-only, one scratch folder.

    with runner(images, home) as docker_runner: ...

Containers see the host's network and one folder of the host, `home` (.sentinel: batons, the state that survives a kill,
and the bucket unless the profile names another), at the same path. Credentials come from this shell's environment.
"""

from __future__ import annotations

import codecs
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from sentinel.errors import StageError
from sentinel.pipelines.place import SCRATCH
from sentinel.spec.cluster import Cluster

CREDENTIALS = frozenset(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
"""Environment variables that containers are given in any case; others of their kind name files of this machine."""
GRACE = 15
"""Seconds that a container has to end after a SIGTERM."""
GONE = 137
"""Exit code that stands for that of a container which somebody removed."""


@contextmanager
def runner(cluster: Cluster, images: Iterable[str], home: Path) -> Iterator[Any]:
    """A DockerRunner; when the block ends, however it ends, none of its containers is left.

    Raises:
        StageError: no docker daemon answers, or an image is not to be had.
    """
    client = _client()
    try:
        for image in sorted(set(images)):
            _require(client, image)
    finally:
        client.close()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield _docker_runner(cluster, home)
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_container(client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any) -> int:
    """Run a container to its end; its exit code. Stands in for kfp's own, which takes one that vanished for a success.

    Whatever ends this process but a SIGKILL ends the container first: it has `GRACE` seconds after a SIGTERM.
    """
    from docker.errors import NotFound

    container = client.containers.create(image, command, volumes=volumes, **arguments)
    try:
        container.start()
        for text in codecs.iterdecode(container.logs(stream=True), "utf-8", errors="replace"):
            print(text, end="", flush=True)
        return int(container.wait()["StatusCode"])
    except NotFound:
        print(f"the container was removed before it had ended ({image})", flush=True)
        return GONE
    finally:
        _remove(container)


def _remove(container: Any) -> None:
    """End a container and remove it, if nobody has done that, or is about to."""
    from docker.errors import APIError

    try:
        container.stop(timeout=GRACE)
        container.remove(force=True)
    except APIError as error:
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def _docker_runner(cluster: Cluster, home: Path) -> Any:
    from docker.types import Mount
    from kfp import local

    return local.DockerRunner(
        user=f"{os.getuid()}:{os.getgid()}",
        init=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={SCRATCH: "mode=1777"},
        network_mode="host",
        mounts=[Mount(str(home), str(home), type="bind")],
        environment=credentials(cluster),
    )


def credentials(cluster: Cluster) -> dict[str, str]:
    """What stands for the cluster's secrets here: variables of this shell, by the names that the profile gives."""
    named = CREDENTIALS.union(*(secret.env for secret in cluster.secrets))
    return {name: value for name, value in os.environ.items() if name in named}


def _client() -> Any:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise StageError(
            f"no docker daemon answers: {error}\n"
            "    start it, set DOCKER_HOST, or run without containers: --runner subprocess"
        ) from None
    return client


def _require(client: Any, image: str) -> None:
    from docker.errors import APIError, ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except APIError as error:
            raise StageError(
                f"{image}: not on this machine, and not to be pulled: {error.explanation}\n    `make images` builds it"
            ) from None


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
