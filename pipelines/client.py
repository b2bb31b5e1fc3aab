"""kfp's client, with limits of time and one look at the server's health. Importing it imports kfp."""

from __future__ import annotations

import json
from typing import Any

import kfp
from kfp_server_api import V2beta1GetHealthzResponse

from sentinel.pipelines.server import ServerError

LIMITS = (10.0, 60.0)
"""Seconds to connect, and to wait for an answer."""


class Client(kfp.Client):  # type: ignore[misc]
    """A client whose calls end."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        rest: Any = self._run_api.api_client.rest_client
        request = rest.request

        def limited(*given: Any, _request_timeout: Any = None, **named: Any) -> Any:
            return request(*given, _request_timeout=_request_timeout or LIMITS, **named)

        rest.request = limited

    def get_kfp_healthz(self, sleep_duration: int = 0) -> V2beta1GetHealthzResponse:
        """Ask once, and see who answers; kfp's own tries five times in half a minute and shows tracebacks.

        Args:
            sleep_duration: kfp's pause between two tries.

        Raises:
            ServerError: Something answers that is not this API.
        """
        reply = self._healthz_api.healthz_service_get_healthz(_preload_content=False, _request_timeout=LIMITS)
        try:
            found = json.loads(reply.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise foreign(reply.data.decode(errors="replace"))
        return V2beta1GetHealthzResponse(multi_user=bool(found.get("multi_user")))


def foreign(answer: object) -> ServerError:
    """What answers is not the API of Kubeflow Pipelines."""
    return ServerError(
        f"this server is not the Kubeflow Pipelines API: it answers {str(answer)[:60]!r}\n"
        "    the API is the service `ml-pipeline` (port 8888), or the UI's address with /pipeline, after logging in"
    )
