"""Profiles: where a run happens, found by name, by path or by the environment."""

from pathlib import Path

import pytest

from sentinel.errors import SpecError
from sentinel.spec import load, load_profile

HEAD = "apiVersion: sentinel.dev/v1alpha1\nkind: Profile\nmetadata: {name: lab}\n"
ENDPOINT = "spec: {endpoints: {user: {url: 'http://localhost:8000/v1', api_key_env: LAB_KEY}}}\n"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the profiles local and lab, as the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SENTINEL_PROFILE", raising=False)
    folder = tmp_path / "experiments" / "profiles"
    folder.mkdir(parents=True)
    (folder / "local.yaml").write_text(HEAD.replace("lab", "local") + "spec: {threads: 3}\n")
    (folder / "lab.yaml").write_text(HEAD + ENDPOINT)
    return folder / "lab.yaml"


def test_a_profile_is_found_by_name_by_path_and_by_the_environment(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_profile().spec.threads == 3
    named = load_profile("lab")
    assert named.spec.endpoints["user"].api_key_env == "LAB_KEY"
    assert (named.spec.threads, named.spec.device) == (2, "cpu")
    assert load_profile(lab) == named
    monkeypatch.setenv("SENTINEL_PROFILE", "lab")
    assert load_profile() == named
    assert load_profile("local").spec.threads == 3


def test_an_unknown_profile_names_its_neighbours(lab: Path) -> None:
    with pytest.raises(SpecError, match=r"profile 'locl': no such file .*locl.yaml; did you mean 'local'\?"):
        load_profile("locl")
    with pytest.raises(SpecError, match="there are: lab, local"):
        load_profile("gpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "api_key_env: LAB_KEY",
            "api_key: x",
            "4:60: spec.endpoints.user.api_key: unknown key; did you mean 'api_key_env'?",
        ),
        ("LAB_KEY", "sk-123", "4:73: spec.endpoints.user.api_key_env: found the text"),
        (
            "{user:",
            "{usr:",
            "4:20: spec.endpoints.usr: found the text \"usr\", expected 'user', 'controller' or 'proposer'",
        ),
        ("http://localhost", "localhost", "4:32: spec.endpoints.user.url: found the text"),
        ("spec: {", "spec: {device: gpu, ", "4:16: spec.device: found the text \"gpu\", expected 'cpu' or 'cuda'"),
    ],
)
def test_faults_of_a_profile_have_lines_too(old: str, new: str, message: str, lab: Path) -> None:
    lab.write_text((HEAD + ENDPOINT).replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_profile(lab)
    assert caught.value.problems[0].startswith(f"{lab}:{message}")


VLLM = "engine: {type: vllm, command: [python, -m, vllm], arguments: [--enforce-eager], environment: {A: '1'}}"


def test_the_policy_plays_in_process_unless_the_profile_names_a_server(lab: Path) -> None:
    assert load_profile(lab).spec.engine.type == "hf"
    lab.write_text(f"{HEAD}spec: {{{VLLM}, workers: 3}}\n")
    found = load_profile(lab).spec
    assert found.engine.type == "vllm"
    assert found.engine.command == ("python", "-m", "vllm")
    assert (found.engine.environment, found.engine.concurrency, found.workers) == ({"A": "1"}, 32, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{workers: 2}", "4:17: spec.workers: 2 processes would hold the weights 2 times over; set it to 1, or have"),
        ("{engine: {type: vlm}}", '4:23: spec.engine.type: found the text "vlm"'),
        ("{engine: {type: hf, concurrency: 4}}", "spec.engine.concurrency: unknown key"),
        (f"{{{VLLM.replace('--enforce-eager', '--dtype, half')}}}", "'--dtype' is given by the stage itself"),
        (f"{{{VLLM.replace('--enforce-eager', '--max_model_len=64')}}}", "'--max-model-len' is given by the stage"),
    ],
)
def test_faults_of_an_engine(spec: str, message: str, lab: Path) -> None:
    lab.write_text(f"{HEAD}spec: {spec}\n")
    with pytest.raises(SpecError) as caught:
        load_profile(lab)
    assert message in caught.value.problems[0]


def test_a_profile_is_no_experiment(lab: Path) -> None:
    with pytest.raises(SpecError, match="2:7: kind: found 'Profile', expected 'Experiment'"):
        load(lab)
