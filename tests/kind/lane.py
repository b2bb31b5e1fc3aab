"""What `make kind-up`, `kind-test` and `kind-down` do; people and .github/workflows/kind.yaml call the same targets.

    up()       a cluster, our images in it, Kubeflow Pipelines, the chart
    test()     an experiment as a run, one of its pods killed on the way; then its results, without executing anything
    down()     uninstall the chart, see that nothing of it is left, delete the cluster

Versions are pinned by what was read (docs/cluster.md says where). It was never run against a real kind by us: the tests
of this package run it with stand-ins for docker, kind, kubectl and helm.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sentinel.errors import SentinelError

NAME = "sentinel"
"""Of the cluster and of the chart's release."""
NODE = "kindest/node:v1.36.1@sha256:3489c7674813ba5d8b1a9977baea8a6e553784dab7b84759d1014dbd78f7ebd5"
"""The node image of kind 0.32.0's release notes."""
KFP = "2.17.0"
NAMESPACE = "kubeflow"
MANIFESTS = "https://github.com/kubeflow/pipelines/manifests/kustomize/"
SPEC, REPORT = "experiments/retail-cpu.yaml", "retail-cpu-report"
METRICS = "runs/retail-cpu/report/metrics.json"
PROFILE = "kind"
VALUES = "charts/sentinel/values-kind.yaml"
CHART = ("charts/sentinel", f"--namespace={NAMESPACE}", f"--values={VALUES}")
"""What `helm` is told to render or install."""
SECRET, BUCKET = "mlpipeline-minio-artifact", "s3://mlpipeline/sentinel"
TOOLS = ("docker", "kind", "kubectl", "helm", "git")
FOLDER = Path("build/kind")
PATIENCE = 900.0
"""Seconds until the pod that is to be killed is there."""
EXECUTED = re.compile(r"^ *Running stage '", re.MULTILINE)
OURS = (
    "serviceaccounts,roles,rolebindings,networkpolicies,deployments,services,persistentvolumeclaims,pods,configmaps,"
    "poddisruptionbudgets,resourcequotas,secrets"
)
"""Kinds of which the chart may leave nothing."""


class LaneError(SentinelError):
    """A step of the lane failed."""

    exit_code = 1


class Ports(NamedTuple):
    """Ports of this machine that lead into the cluster."""

    kfp: int = 8888
    s3: int = 9000


def say(text: str) -> None:
    """A heading."""
    print(f"== {text}", file=sys.stderr, flush=True)


def run(*command: str, cwd: Path | None = None, **variables: str) -> str:
    """Run a command; what it prints on stdout.

    Raises:
        LaneError: It ended with another code than 0.
    """
    say(" ".join(command))
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LaneError(f"{' '.join(command)}: ended with code {done.returncode}; what it printed stands above")
    return done.stdout


def kubectl(*arguments: str) -> str:
    """`kubectl` in the cluster of this lane, whatever the current context is."""
    return run("kubectl", f"--context=kind-{NAME}", *arguments)


def helm(*arguments: str) -> str:
    """`helm` in the cluster of this lane."""
    return run("helm", f"--kube-context=kind-{NAME}", *arguments)


def require_tools(*tools: str) -> None:
    """Raise unless what a step calls is on PATH."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        raise LaneError(f"not on PATH: {', '.join(missing)}; kind itself: `make kind-install` on Linux x86-64")


def there() -> bool:
    """Whether the cluster is."""
    return NAME in run("kind", "get", "clusters").split()


def require_cluster() -> None:
    """Raise unless the cluster is there."""
    require_tools("kind", "kubectl")
    if not there():
        raise LaneError(f"there is no kind cluster '{NAME}': `make kind-up` makes it")


def images() -> list[str]:
    """What the pods of the profile run, and so what the nodes must have."""
    from sentinel.pipelines.images import images as of
    from sentinel.spec.profile import load_profile

    cluster = load_profile(PROFILE).spec.cluster
    assert cluster is not None
    return sorted(set(of(cluster).values()))


def require_images() -> None:
    """Raise unless docker has all that the pods run: found now, not after the cluster was made."""
    try:
        run("docker", "image", "inspect", "--format={{.Id}}", *images())
    except LaneError:
        raise LaneError(f"docker has not all images of the profile '{PROFILE}' (see above): `make images`") from None


def up() -> None:
    """Make the cluster and all that stands in it; what is there already stays."""
    require_tools(*TOOLS)
    require_images()
    if not there():
        run(
            "kind",
            "create",
            "cluster",
            f"--name={NAME}",
            f"--image={NODE}",
            "--config=tests/kind/cluster.yaml",
            "--wait=180s",
        )
    run("kind", "load", "docker-image", *images(), f"--name={NAME}")
    _install_kfp()
    helm("upgrade", "--install", NAME, *CHART)  # no --wait: the state volume is bound when a pod first asks for it
    helm("test", NAME, f"--namespace={NAMESPACE}", "--logs")


def _install_kfp() -> None:
    kubectl("apply", "-k", f"{MANIFESTS}cluster-scoped-resources?ref={KFP}")
    kubectl("wait", "crd/applications.app.k8s.io", "--for=condition=established", "--timeout=60s")
    kubectl("apply", "-k", f"{MANIFESTS}env/platform-agnostic?ref={KFP}")
    # Not the pods: those of runs that are over never become ready again.
    kubectl("wait", "deployments", "--all", "--for=condition=Available", f"--namespace={NAMESPACE}", "--timeout=15m")


def listens(port: int) -> bool:
    """Whether somebody on this machine does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


@contextmanager
def forwarded(service: str, here: int, there: int, wait: float = 30.0) -> Iterator[None]:
    """A port of this machine that leads to a Service.

    Raises:
        LaneError: Somebody else has the port, or it does not come to be.
    """
    if listens(here):
        raise LaneError(f"port {here} of this machine is taken, and is to lead to {service}: end what listens there")
    place = f"--namespace={NAMESPACE}"
    command = ["kubectl", f"--context=kind-{NAME}", "port-forward", place, service, f"{here}:{there}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + wait
        while not listens(here):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LaneError(f"{' '.join(command)}: port {here} leads nowhere; what kubectl said stands above")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def credentials() -> dict[str, str]:
    """The bucket's keys, from the secret that Kubeflow made."""
    data = json.loads(kubectl("get", "secret", SECRET, f"--namespace={NAMESPACE}", "--output=json"))["data"]
    names = {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}
    return {name: base64.b64decode(data[key]).decode() for name, key in names.items()}


def test() -> None:
    """Submit the experiment, kill a pod of it once, and take its results into a fresh clone."""
    require_cluster()
    ports = Ports()
    FOLDER.mkdir(parents=True, exist_ok=True)
    run("sentinel", "submit", SPEC, f"--profile={PROFILE}", f"--output={FOLDER / 'pipeline.yaml'}")
    with forwarded("svc/ml-pipeline", ports.kfp, 8888):
        submit(ports, PATIENCE)
    with forwarded("svc/seaweedfs", ports.s3, 9000):
        taken(credentials(), ports)


def submit(ports: Ports, wait: float) -> None:
    """`kfp run submit --watch`; while it waits, the rollout's container is killed once.

    Raises:
        LaneError: The run did not succeed, or no pod could be killed.
    """
    command = ["kfp", "run", "submit", SPEC, f"--profile={PROFILE}", "--watch"]
    say(" ".join(command))
    variables = {**os.environ, "KF_PIPELINES_ENDPOINT": f"http://127.0.0.1:{ports.kfp}"}
    with subprocess.Popen(command, env=variables) as process:
        try:
            kill_one(process, wait)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise LaneError(f"the run did not succeed: code {process.returncode}")


def kill_one(process: subprocess.Popen[bytes], wait: float) -> None:
    """Kill everything in the container of the rollout, once; KFP's retry must go on from what was finished."""
    deadline = time.monotonic() + wait
    query = ["get", "pods", f"--namespace={NAMESPACE}", "--selector=sentinel.dev/role=rollout"]
    while process.poll() is None and time.monotonic() < deadline:
        if pods := kubectl(*query, "--field-selector=status.phase=Running", "--output=name").split():
            time.sleep(min(10.0, wait / 10))
            kill = ["sh", "-c", "kill -KILL -1"]  # all but the container's first process, which Argo needs
            kubectl("exec", f"--namespace={NAMESPACE}", "--container=main", pods[0], "--", *kill)
            return
        time.sleep(min(5.0, wait / 10))
    raise LaneError("no pod of a rollout was seen running: nothing was killed, so nothing was tested")


def taken(keys: Mapping[str, str], ports: Ports) -> None:
    """In a fresh clone, everything comes from the bucket, and no stage executes.

    Raises:
        LaneError: A stage executed, or the report has no figures.
    """
    clone = FOLDER / "checkout"
    shutil.rmtree(clone, ignore_errors=True)
    run("git", "clone", "--quiet", ".", str(clone))
    here = {**keys, "PYTHONPATH": str(clone.absolute())}
    for arguments in remote(ports):
        run("dvc", "remote", *arguments, cwd=clone, **here)
    log = run("dvc", "repro", "--pull", REPORT, cwd=clone, **here)
    (FOLDER / "repro.log").write_text(log, encoding="utf-8")
    if executed := EXECUTED.findall(log):
        raise LaneError(f"{len(executed)} stages executed, though the run had made all of them: see {FOLDER}/repro.log")
    say(f"Pass^1 of the last iteration: {figures(clone / METRICS)}")


def remote(ports: Ports) -> Sequence[tuple[str, ...]]:
    """Arguments of `dvc remote` that make the bucket in the cluster this clone's."""
    endpoint = f"http://127.0.0.1:{ports.s3}"
    return (
        ("add", "--local", "--default", "bus", BUCKET),
        ("modify", "--local", "bus", "endpointurl", endpoint),
    )


def figures(path: Path) -> float:
    """Pass^1 of the last iteration, from the report's metrics.

    Raises:
        LaneError: There are none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return float(found["pass_hat_1_last"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaneError(f"{path}: no figure of Pass^1 ({type(error).__name__}: {error})") from None


def uninstall() -> None:
    """Remove the chart.

    Raises:
        LaneError: Something of it is left.
    """
    kubectl("delete", "workflows", "--all", f"--namespace={NAMESPACE}")  # their pods hold on to the state volume
    helm("uninstall", NAME, f"--namespace={NAMESPACE}", "--wait", "--timeout=5m")
    selector = f"--selector=app.kubernetes.io/instance={NAME},app.kubernetes.io/name=sentinel"
    if left := kubectl("get", OURS, f"--namespace={NAMESPACE}", selector, "--output=name").split():
        raise LaneError(f"the chart left {', '.join(left)}")


def down() -> None:
    """Remove the chart, see that nothing of it is left, and delete the cluster in any case."""
    require_tools("kind", "kubectl", "helm")
    if not there():
        say(f"there is no kind cluster '{NAME}': nothing is to be done")
        return
    try:
        uninstall()
    finally:
        run("kind", "delete", "cluster", f"--name={NAME}")


def logs() -> None:
    """All that may say why something failed, below build/kind/logs; goes on where a part cannot be had."""
    require_cluster()
    folder = FOLDER / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    queries = {
        "pods": ("get", "pods", "--all-namespaces", "--output=wide"),
        "events": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
        "workflows": ("get", "workflows", f"--namespace={NAMESPACE}", "--output=yaml"),
        "api": ("logs", "deployment/ml-pipeline", f"--namespace={NAMESPACE}", "--tail=2000"),
    }
    for name, query in queries.items():
        try:
            (folder / f"{name}.txt").write_text(kubectl(*query), encoding="utf-8")
        except LaneError as error:
            (folder / f"{name}.txt").write_text(str(error), encoding="utf-8")
    run("kind", "export", "logs", str(folder / "nodes"), f"--name={NAME}")
