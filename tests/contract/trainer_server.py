"""A test fixture: the endpoints of the Kubernetes API that a launcher uses, on 127.0.0.1. It runs nothing.

TrainJobs are held against the models of kubeflow_trainer_api: what these do not know is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api import models

from tests.contract.listening import listening

Body = dict[str, Any]
GROUP = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/(?P<namespace>[^/]+)"
CREATED = "2026-01-01T00:00:00Z"


class Reply(NamedTuple):
    """Status and body of an answer; text is sent as it is."""

    status: int
    body: Body | str


def status(code: int, reason: str) -> Reply:
    return Reply(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code})


@dataclass
class Cluster:
    """What there is, and what was asked."""

    runtimes: dict[str, Body] = field(default_factory=dict)
    jobs: dict[str, Body] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, list[Reply]] = field(default_factory=dict)
    """`GET trainjobs` -> what the next such requests get."""
    url: str = ""

    def end(self, name: str, condition: str) -> None:
        """Let a job come to its end."""
        self.jobs[name]["status"] = {
            "conditions": [
                {"type": condition, "status": "True", "reason": "x", "message": "", "lastTransitionTime": CREATED}
            ]
        }

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Body) -> Reply:
        """One request."""
        kind = "log" if path.endswith("/log") else next((word for word in KINDS if f"/{word}" in path), path)
        self.requests.append(f"{method} {kind}")
        if waiting := self.faults.get(f"{method} {kind}"):
            return waiting.pop(0)
        name = path.rpartition("/")[2]
        match method, kind:
            case "GET", "trainingruntimes" if name in self.runtimes:
                return Reply(200, self.runtimes[name])
            case "POST", "trainjobs":
                return self._create(body, path)
            case "GET", "trainjobs" if name in self.jobs:
                return Reply(200, self.jobs[name])
            case "PATCH", "trainjobs" if name in self.jobs:
                for part, change in body.items():
                    self.jobs[name][part].update(change)
                return Reply(200, self.jobs[name])
            case "DELETE", "trainjobs" if name in self.jobs:
                return Reply(200, self.jobs.pop(name))
            case "GET", "log":
                return Reply(200, "".join(f"{line}\n" for line in self.log))
            case "GET", "pods":
                selector = query.get("labelSelector", [""])[0]
                job = selector.partition("=")[2].partition(",")[0]
                return Reply(
                    200, {"kind": "PodList", "apiVersion": "v1", "items": [pod(job)] if job in self.jobs else []}
                )
        return status(404, "NotFound")

    def _create(self, body: Body, path: str) -> Reply:
        if (name := body["metadata"]["name"]) in self.jobs:
            return status(409, "AlreadyExists")
        known = models.TrainerV1alpha1TrainJob.from_dict(body)
        if known is None or without_nulls(known.to_dict()) != without_nulls(body):
            return status(422, "Invalid")
        found = re.match(GROUP, path)
        assert found
        metadata = {**body["metadata"], "namespace": found["namespace"], "creationTimestamp": CREATED}
        self.jobs[name] = {**without_nulls(body), "metadata": metadata}
        return Reply(201, self.jobs[name])


KINDS = ("trainjobs", "trainingruntimes", "clustertrainingruntimes", "configmaps", "pods")


def pod(job: str) -> Body:
    """The pod of a job's first node."""
    labels = {
        "jobset.sigs.k8s.io/jobset-name": job,
        "jobset.sigs.k8s.io/replicatedjob-name": "node",
        "batch.kubernetes.io/job-completion-index": "0",
    }
    return {
        "metadata": {"name": f"{job}-node-0-0", "labels": labels, "creationTimestamp": CREATED},
        "spec": {"containers": [{"name": "node", "image": "x", "resources": {}}]},
        "status": {"phase": "Running"},
    }


def without_nulls(value: Any) -> Any:
    """The same without keys that say nothing."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def runtime(name: str) -> Body:
    """A TrainingRuntime as charts/sentinel makes it, as far as the SDK reads it."""
    node = {"containers": [{"name": "node", "image": "sentinel-trainer:dev"}]}
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    job = {"name": "node", "template": {"metadata": {"labels": labels}, "spec": {"template": {"spec": node}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {"mlPolicy": {"numNodes": 2, "torch": {}}, "template": {"spec": {"replicatedJobs": [job]}}},
    }


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            split = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = cluster.answer(self.command, split.path, parse_qs(split.query), json.loads(text or b"{}"))
            plain = isinstance(reply.body, str)
            content = str(reply.body).encode() if plain else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Tests look at `Cluster.requests`."""

    return Handler


@contextmanager
def serving() -> Iterator[Cluster]:
    """A server on a free port."""
    cluster = Cluster()
    with listening(_handler(cluster)) as cluster.url:
        yield cluster
