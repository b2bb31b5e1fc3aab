"""What a place lacks for an experiment is told before the first stage, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.cli import main
from sentinel.errors import SpecError
from sentinel.spec.load import load
from sentinel.spec.models import ExperimentSpec
from sentinel.spec.needs import llm_roles, require
from sentinel.spec.profile import ProfileSpec

FILE = Path("experiments/profiles/mine.yaml")


def spec(root: Path, name: str) -> ExperimentSpec:
    return load(root / "experiments" / f"{name}.yaml").experiment.spec


def lacking(needed: ExperimentSpec, **profile: object) -> list[str]:
    try:
        require(needed, ProfileSpec.model_validate(profile, strict=False), FILE)
    except SpecError as error:
        return error.problems
    return []


def built(root: Path) -> ExperimentSpec:
    """The paper's setting with a Proposer that needs no model."""
    paper = spec(root, "retail").model_dump(mode="json")
    paper["proposer"]["type"], paper["proposer"]["model"] = "grammar", None
    return ExperimentSpec.model_validate(paper, strict=False)


def test_the_demo_needs_nothing(root: Path) -> None:
    assert llm_roles(spec(root, "retail-cpu")) == {}
    assert lacking(spec(root, "retail-cpu")) == []


def test_every_role_without_a_server_is_named_with_what_to_write(root: Path) -> None:
    found = lacking(spec(root, "retail"))
    for role, text in zip(("user", "controller", "proposer"), found, strict=False):
        assert text.startswith(f"{FILE}: spec.endpoints.{role}: missing; the spec gives this role to Qwen/Qwen3-32B")
        assert f'`{role}: {{url: "http' in text
    assert found[3].startswith(f"{FILE}: spec.device: cpu, and the policy is Qwen/Qwen3-4B-Thinking-2507")
    assert len(found) == 4


def test_a_server_is_enough_and_a_small_model_may_play_on_a_cpu(root: Path) -> None:
    server = {"url": "http://127.0.0.1:1/v1"}
    assert lacking(built(root), endpoints={"user": server, "controller": server}) == []


def test_keys_and_commands_are_looked_up_here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"url": "http://127.0.0.1:1/v1", "api_key_env": "SENTINEL_TEST_KEY"}
    engine = {"type": "vllm", "command": ["no-such-command"]}
    servers = {"user": user, "controller": {"url": "http://127.0.0.1:1/v1"}}
    key, command, *_ = lacking(built(root), endpoints=servers, engine=engine)
    assert key == f"{FILE}: spec.endpoints.user.api_key_env: the environment variable SENTINEL_TEST_KEY is not set"
    assert command.startswith(f"{FILE}: spec.engine.command: 'no-such-command' is not on PATH")
    monkeypatch.setenv("SENTINEL_TEST_KEY", "x")
    assert lacking(built(root), endpoints=servers) == []


def test_run_refuses_at_once(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    monkeypatch.delenv("SENTINEL_PROFILE", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(["run", "experiments/retail.yaml"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("experiments/profiles/local.yaml: spec.endpoints.user: missing")
