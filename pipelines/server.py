"""The Kubeflow Pipelines API through kfp's client, with errors that say what to do."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sentinel.errors import SentinelError

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""States that a run does not leave."""
VARIABLES = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
"""From which kfp's command line and kfp's client take their server."""
POLL = 5.0
"""Seconds between two looks at a run."""
ADVICE: Mapping[int, str] = {
    400: "the server takes no such run: its version may differ from this kfp's (`sentinel doctor` shows both)",
    401: "log in: KFP's client reads a token from its context, or from the pod's service account",
    403: "this account may not do that in this namespace: ask for the role `kubeflow-edit`",
    404: "there is no such thing on this server: is the endpoint the KFP API, and the namespace right?",
    409: "it exists already: give the run another name with --run-name",
}
"""HTTP status -> what to do."""


class ServerError(SentinelError):
    """The server refused or was not reached."""

    exit_code = 1


class Run(NamedTuple):
    """A run on the server."""

    id: str
    name: str
    state: str
    parameters: Mapping[str, str]
    tasks: Mapping[str, str]
    """Name of a task -> its state."""
    error: str

    @property
    def ended(self) -> bool:
        """Whether it has come to an end."""
        return self.state in ENDED


class Server:
    """A Kubeflow Pipelines API."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(
        cls, endpoint: str | None, namespace: str | None, login: Mapping[str, Any] = MappingProxyType({})
    ) -> Server:
        """Find a server: by `login`, a variable (`VARIABLES`), `endpoint`, or else as kfp finds one, and ask for it.

        Args:
            endpoint: What the profile says.
            namespace: The namespace of Kubeflow Pipelines.
            login: Arguments of kfp's client that its command line was given; they go first.
        """
        from sentinel.pipelines.client import Client

        named = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), endpoint)
        found = {"host": named, "namespace": namespace or "kubeflow", **login}
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # what it tries again ends as one of ours
        with talking("connect"), quiet():
            server = cls(Client(**found))
        server.health()
        return server

    def health(self) -> str:
        """What the server says of itself."""
        with talking("ask for its health"):
            found = self._client.get_kfp_healthz()
        return "reached, several users" if found.multi_user else "reached, one user"

    def create(
        self, experiment: str, name: str, package: Path, parameters: Mapping[str, str], account: str | None
    ) -> Run:
        """Create a run, and its experiment if there is none of this name."""
        from sentinel.pipelines.client import foreign

        with talking(f"create the experiment '{experiment}'"), quiet():
            made = self._client.create_experiment(experiment)
        if not made.experiment_id:
            raise foreign(made)
        with talking(f"create the run '{name}' (no run was created)"), quiet():
            run = self._client.run_pipeline(
                experiment_id=made.experiment_id,
                job_name=name,
                pipeline_package_path=str(package),
                params=dict(parameters),
                service_account=account,
            )
        if not run.run_id:
            raise foreign(run)
        return _run(run)

    def get(self, run: str) -> Run:
        """A run by its id."""
        with talking(f"look at the run {run}"):
            return _run(self._client.get_run(run))

    def url(self, run: str) -> str:
        """Where the UI shows a run."""
        return f"{self._client._get_url_prefix()}/#/runs/details/{run}"

    def watch(self, run: str, say: Callable[[str], None], pause: float = POLL) -> Run:
        """Follow a run to its end, one line for every change of a task; short outages of the server are sat out."""
        shown: dict[str, str] = {}
        while True:
            found = self._patiently(run)
            for task, state in found.tasks.items():
                if shown.get(task) != state:
                    say(f"{task}: {state.lower()}")
            shown = dict(found.tasks)
            if found.ended:
                return found
            time.sleep(pause)

    def _patiently(self, run: str, attempts: int = 5) -> Run:
        for attempt in range(attempts):
            try:
                return self.get(run)
            except ServerError:
                if attempt == attempts - 1:
                    raise
                time.sleep(2.0**attempt)
        raise AssertionError("unreachable")


def _run(found: Any) -> Run:
    details = found.run_details.task_details if found.run_details and found.run_details.task_details else []
    config = found.runtime_config
    return Run(
        id=found.run_id,
        name=found.display_name or "",
        state=found.state or "PENDING",
        parameters={key: str(value) for key, value in ((config.parameters if config else None) or {}).items()},
        tasks={task.display_name: task.state for task in details if task.display_name and task.state},
        error=found.error.message if found.error and found.error.message else "",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from standard output, which is for results, what kfp prints and warns of."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def talking(what: str) -> Iterator[None]:
    """Errors of the API and of the network, as one of ours."""
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise ServerError(f"the server did not {what}: {_refusal(error)}") from None
    except (HTTPError, OSError) as error:
        raise ServerError(
            f"could not {what}: no Kubeflow Pipelines API answers: {getattr(error, 'reason', None) or error}\n"
            "    name it by `kfp --endpoint`, KF_PIPELINES_ENDPOINT or `cluster.endpoint` of the profile, or:\n"
            "    kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888"
        ) from None


def _refusal(error: Any) -> str:
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        message = str(error.body or error.reason)
    advice = ADVICE.get(error.status, "it failed; try again, and look at the log of the deployment ml-pipeline")
    return f"HTTP {error.status}: {str(message)[:500]}\n    {advice}"
