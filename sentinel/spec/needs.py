"""What an experiment needs of the place where it runs: asked before the first stage, not hours later by the last.

    require(experiment.spec, profile.spec, profile_file(None))

It looks at the profile and at this machine (commands, environment variables); whether a server answers is not tried.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sentinel.errors import Fault, SpecError
from sentinel.spec.models import ExperimentSpec
from sentinel.spec.profile import LlmRole, ProfileSpec


def llm_roles(spec: ExperimentSpec) -> dict[LlmRole, str]:
    """The roles beside the policy that the spec gives to language models, and to which."""
    roles: dict[LlmRole, str] = {}
    if spec.environment.user.type == "llm":
        roles["user"] = spec.environment.user.model
    if spec.controller.type == "llm":
        roles["controller"] = spec.controller.model
    if spec.proposer.model is not None:
        roles["proposer"] = spec.proposer.model
    return roles


def require(spec: ExperimentSpec, profile: ProfileSpec, file: Path) -> None:
    """Raise `SpecError` with everything that the profile `file` lacks for the experiment."""
    roles = llm_roles(spec)
    faults = [Fault(text, str(file), path=path) for path, text in _lacking(profile, roles)]
    if faults and spec.policy.type == "pretrained" and profile.device == "cpu":
        text = (
            f"cpu, and the policy is {spec.policy.model}: all but small models need `cuda` and `engine: {{type: vllm}}`"
        )
        faults.append(Fault(text, str(file), path="spec.device"))
    if faults:
        raise SpecError(faults)


def _lacking(profile: ProfileSpec, roles: dict[LlmRole, str]) -> Iterator[tuple[str, str]]:
    for role, model in roles.items():
        path = f"spec.endpoints.{role}"
        if not (endpoint := profile.endpoints.get(role)):
            example = f'{role}: {{url: "http://127.0.0.1:8000/v1"}}'
            yield path, f"missing; the spec gives this role to {model}: say which server has it, as `{example}`"
        elif endpoint.api_key_env and not os.environ.get(endpoint.api_key_env):
            yield f"{path}.api_key_env", f"the environment variable {endpoint.api_key_env} is not set"
    if profile.engine.type == "vllm" and shutil.which(profile.engine.command[0]) is None:
        yield "spec.engine.command", f"'{profile.engine.command[0]}' is not on PATH; install vLLM, or name its command"
