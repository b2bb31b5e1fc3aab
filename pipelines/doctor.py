"""`sentinel doctor`: what a submission would stumble over, each with the way to mend it. Changes nothing.

for finding in examine("gpu"): print(finding)
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sentinel.errors import SentinelError
from sentinel.pipelines.findings import Finding, State, unreadable
from sentinel.pipelines.images import images
from sentinel.pipelines.installed import accelerated, installed
from sentinel.pipelines.place import Placement
from sentinel.spec.cluster import Cluster, TaggedImages
from sentinel.spec.profile import ProfileSpec, load_profile

INSTALL = "in a checkout: pip install --no-deps -e .   otherwise: pip install --force-reinstall --no-deps sentinel-rl"
VERSIONS = {"kfp": "2.17", "kfp-kubernetes": "2.17", "kfp-server-api": "2.17", "dvc": "3."}
"""Distribution -> how its version must begin."""


def examine(profile: str, core: Callable[[], Any] | None = None, root: Path = Path()) -> Iterator[Finding]:
    """All checks for a profile, the machine's first.

    Args:
        profile: Name or path of the profile.
        core: How to get the Kubernetes API (a `CoreV1Api`); by default from the kubectl context.
        root: The project.
    """
    yield hook()
    yield from versions()
    yield command()
    try:
        loaded = load_profile(profile)
    except SentinelError as error:
        yield Finding("profile", State.broken, str(error), "name another one with --profile")
        return
    cluster = loaded.spec.cluster
    if cluster is None:
        yield Finding("profile", State.broken, f"'{profile}' has no section `cluster`", "take gpu or kind as a model")
        return
    yield Finding("profile", State.ok, f"{profile}: {cluster.bucket.url}, namespace {cluster.namespace}")
    yield _images(cluster, root)
    yield from accelerated(loaded.spec)
    yield _attempt("endpoint", lambda: endpoint(cluster), "")
    yield _attempt("bucket", lambda: bucket(cluster), "export the credentials here, or look from inside the cluster")
    yield from kubernetes(cluster, core or kubectl)
    if core is None:
        yield from chart(loaded.spec)


def hook() -> Finding:
    """Whether `kfp run submit` is ours."""
    from kfp.cli import run

    from sentinel.pipelines.command import SubmitCommand

    if isinstance(run.run.commands.get("submit"), SubmitCommand):
        return Finding("hook", State.ok, "`kfp run submit SPEC` is ours")
    return Finding("hook", State.broken, "`kfp run submit SPEC` is upstream's alone", INSTALL)


def versions() -> Iterator[Finding]:
    """Whether the libraries are those that this was written for."""
    for name, wanted in VERSIONS.items():
        found = importlib.metadata.version(name)
        state = State.ok if found.startswith(wanted) else State.broken
        yield Finding(name, state, found, "" if state is State.ok else f"pip install -c constraints.txt {name}")


def command() -> Finding:
    """Whether stages can be started by name."""
    found = shutil.which("sentinel")
    return Finding("sentinel", State.ok if found else State.broken, found or "not on PATH", "" if found else INSTALL)


def endpoint(cluster: Cluster) -> str:
    """Reach the KFP API."""
    from sentinel.pipelines.server import Server

    return Server.connect(cluster.endpoint, cluster.namespace).health()


def bucket(cluster: Cluster) -> str:
    """Write and read one small object, as a pod would; the credentials are this shell's."""
    from sentinel.pod.bus import Bus
    from sentinel.pod.folder import Place

    with TemporaryDirectory() as name:
        folder = Path(name)
        variables = Placement(cluster, {}, "").variables()
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text(Place.read(variables).dvc_config(), encoding="utf-8")
        Bus(folder, "doctor").check("doctor")
    return f"{cluster.bucket.url} can be written"


def kubectl() -> Any:
    """The Kubernetes API of the current kubectl context."""
    from kubernetes import client, config

    config.load_kube_config()
    return client.CoreV1Api()


def kubernetes(cluster: Cluster, core: Callable[[], Any]) -> Iterator[Finding]:
    """Whether secrets, volume and accelerators are there."""
    try:
        api = core()
        nodes = api.list_node().items
    except Exception as error:
        text = f"no Kubernetes API from here ({type(error).__name__}): secrets, volume and GPUs were not looked at"
        yield Finding("kubernetes", State.unknown, text, "kubectl config use-context …, then again")
        return
    for secret in cluster.secrets:
        yield _secret(api, cluster.namespace, secret.name, set(secret.env.values()))
    if cluster.state:
        yield _volume(api, cluster.namespace, cluster.state.claim)
    for resource, count in _accelerators(cluster).items():
        most = max((int(node.status.allocatable.get(resource, 0)) for node in nodes), default=0)
        state = State.ok if most >= count else State.broken
        mend = "" if state is State.ok else "install the device plugin, add nodes, or ask for fewer in the profile"
        yield Finding(resource, state, f"{most} on the largest node, {count} asked for", mend)


def chart(place: ProfileSpec) -> Iterator[Finding]:
    """What charts/sentinel has installed; nothing is said where `kubernetes` found no API."""
    from kubernetes import client

    try:
        api = kubectl()
    except Exception:
        return
    yield from installed(place, api, client.AppsV1Api(), client.CustomObjectsApi())


def _images(cluster: Cluster, root: Path) -> Finding:
    if isinstance(cluster.images, TaggedImages) and cluster.images.tag == "latest":
        text = "the tag `latest` names another image every day, and nodes pull it each time"
        return Finding("images", State.broken, text, "spec.cluster.images.tag: a version, or type: locked")
    return _attempt("images", lambda: ", ".join(sorted(set(images(cluster, root).values()))), "see above")


def _secret(api: Any, namespace: str, name: str, keys: set[str]) -> Finding:
    literals = " ".join(f"--from-literal={key}=…" for key in sorted(keys))
    create = f"kubectl create secret generic {name} -n {namespace} {literals}"
    try:
        found = set(api.read_namespaced_secret(name, namespace).data or {})
    except Exception as error:
        return unreadable("secret", name, error, create)
    if missing := sorted(keys - found):
        return Finding("secret", State.broken, f"{name} has no key {', '.join(missing)}", create)
    return Finding("secret", State.ok, name)


def _volume(api: Any, namespace: str, name: str) -> Finding:
    try:
        phase = api.read_namespaced_persistent_volume_claim(name, namespace).status.phase
    except Exception as error:
        return unreadable("volume", name, error, f"install charts/sentinel, or create the claim {name} in {namespace}")
    return Finding("volume", State.ok, f"{name} is {str(phase).lower()}")


def _accelerators(cluster: Cluster) -> dict[str, int]:
    """Extended resource -> the most that one container asks for."""
    wanted: dict[str, int] = {}
    for role in cluster.roles.values():
        if role.gpus:
            wanted[role.gpu_resource] = max(role.gpus, wanted.get(role.gpu_resource, 0))
    return wanted


def _attempt(name: str, check: Callable[[], str], mend: str) -> Finding:
    try:
        return Finding(name, State.ok, check())
    except SentinelError as error:
        return Finding(name, State.broken, str(error), mend)
