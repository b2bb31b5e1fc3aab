"""A test fixture: the few endpoints of the KFP API (v2beta1) that kfp's client uses, on 127.0.0.1. Not a backend: it
runs nothing. Request bodies must fit kfp_server_api's models, and a run's pipeline must parse as a PipelineSpec.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from kfp_server_api import ApiClient, V2beta1Experiment, V2beta1Run

from tests.contract.listening import listening

API = "/apis/v2beta1"
Body = dict[str, Any]


class Reply(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: Body


@dataclass
class Backend:
    """What the server was told, and what it says."""

    experiments: dict[str, Body] = field(default_factory=dict)
    runs: dict[str, Body] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, Reply] = field(default_factory=dict)
    """`POST /runs` -> what it answers instead of doing it."""
    on_look: Callable[[Body], None] = lambda run: None
    """Called before a run is shown: how tests let time pass."""
    url: str = ""

    def answer(self, method: str, path: str, query: Mapping[str, list[str]], body: Body) -> Reply:
        """One request."""
        self.requests.append(f"{method} {path}")
        if fault := self.faults.get(f"{method} {path}"):
            return fault
        parts = path.strip("/").split("/")
        match method, *parts:
            case "GET", "healthz":
                return Reply(200, {"multi_user": False})
            case "GET", "experiments":
                wanted = json.loads(query["filter"][0])["predicates"][0]["stringValue"]
                found = [one for one in self.experiments.values() if one["display_name"] == wanted]
                return Reply(200, {"experiments": found, "total_size": len(found)})
            case "POST", "experiments":
                return Reply(200, self._add(self.experiments, "experiment", check(body, V2beta1Experiment)))
            case "POST", "runs":
                return self._create_run(body)
            case "GET", "runs", run if run in self.runs:
                self.on_look(self.runs[run])
                return Reply(200, self.runs[run])
        return Reply(404, {"error": "not found", "code": 5, "message": f"{method} {path}: not found"})

    def _create_run(self, body: Body) -> Reply:
        check(body, V2beta1Run)
        if body["experiment_id"] not in self.experiments:
            return Reply(400, {"message": f"no experiment {body['experiment_id']}"})
        spec, platform = parse_pipeline(body["pipeline_spec"])
        declared = set(spec.root.input_definitions.parameters)
        if unknown := set(body.get("runtime_config", {}).get("parameters", {})) - declared:
            return Reply(400, {"message": f"parameters that the pipeline does not have: {sorted(unknown)}"})
        assert platform is None or "kubernetes" in platform.platforms
        return Reply(200, self._add(self.runs, "run", {**body, "state": "PENDING"}))

    def _add(self, table: dict[str, Body], kind: str, body: Body) -> Body:
        identity = f"{kind}-{len(table) + 1}"
        table[identity] = {**body, f"{kind}_id": identity, "created_at": "2026-01-01T00:00:00Z"}
        return table[identity]


def check(body: Body, model: Any) -> Body:
    """The body, if all of its keys and types are those of the model."""
    if unknown := set(body) - set(model.attribute_map.values()):
        raise ValueError(f"{model.__name__} has no {sorted(unknown)}")
    ApiClient().deserialize(SimpleNamespace(data=json.dumps(body)), model.__name__)
    return body


def parse_pipeline(body: Body) -> tuple[Any, Any]:
    """The protobuf messages of a posted pipeline: its spec, and its platform's if it has one."""
    if "pipeline_spec" not in body:
        return json_format.ParseDict(body, pipeline_spec_pb2.PipelineSpec()), None
    spec = json_format.ParseDict(body["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
    return spec, json_format.ParseDict(body["platform_spec"], pipeline_spec_pb2.PlatformSpec())


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            split = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                path = split.path.removeprefix(API)
                reply = backend.answer(self.command, path, parse_qs(split.query), json.loads(text or b"{}"))
            except Exception as error:
                reply = Reply(400, {"message": f"{type(error).__name__}: {error}"})
            content = json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Tests look at `Backend.requests`."""

    return Handler


@contextmanager
def serving() -> Iterator[Backend]:
    """A server on a free port."""
    backend = Backend()
    with listening(_handler(backend)) as backend.url:
        yield backend
