"""`kfp run submit SPEC`, literally: the installed `kfp` command against a server that checks what it is sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.contract.kfp_server import Backend, Reply, serving
from tests.contract.listening import listening

RETAIL, CPU = "experiments/retail.yaml", "experiments/retail-cpu.yaml"
NOBODY = "http://127.0.0.1:9"
"""Where no server listens."""
HOOK = "the hook is not installed here: `pip install --no-deps -e .` (make does it)"


@pytest.fixture
def backend() -> Iterator[Backend]:
    with serving() as made:
        yield made


def kfp(backend: Backend, *arguments: str, root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    return typed("kfp", backend, *arguments, root=root, **variables)


def typed(
    program: str, backend: Backend, *arguments: str, root: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command, with the server's address in the environment."""
    environment = {**os.environ, "KF_PIPELINES_ENDPOINT": backend.url, "PYTHONWARNINGS": "ignore", **variables}
    environment.pop("SENTINEL_PROFILE", None) if "SENTINEL_PROFILE" not in variables else None
    command = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A checkout whose images were pushed."""
    shutil.copytree(root / "experiments", tmp_path / "experiments")
    for name in ("sentinel", ".dvcignore"):
        (tmp_path / name).symlink_to(root / name)
    names = ("controller", "proposer-cuda", "rollout-cuda", "trainer-cuda", "evaluator-cuda")
    lines = (f"{name}: registry.invalid/{name}@sha256:{'a' * 64}\n" for name in names)
    (tmp_path / "images.lock").write_text("".join(lines))
    return tmp_path


def test_the_hook_is_installed(root: Path) -> None:
    code = "import kfp.cli.run; print(type(kfp.cli.run.run.commands.get('submit')).__module__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "sentinel.pipelines.command", HOOK


def test_a_spec_becomes_a_run_with_all_its_parameters(backend: Backend, project: Path) -> None:
    done = kfp(backend, "run", "submit", RETAIL, root=project)
    assert done.returncode == 0, done.stderr
    (experiment,), (run,) = backend.experiments.values(), backend.runs.values()
    assert experiment["display_name"] == "retail"
    parameters = run["runtime_config"]["parameters"]
    assert run["display_name"] == f"retail {parameters['spec_hash'][:8]}"
    assert parameters["trainer_learning_rate"] == "1e-06" and parameters["part"] == "1 of 1"
    assert parameters["image_trainer"] == f"registry.invalid/trainer-cuda@sha256:{'a' * 64}"
    assert "deprecated" not in done.stderr and "/#/runs/details/run-1" in done.stderr
    assert done.stdout == "run-1\n"


def test_two_specs_show_the_same_parameters(backend: Backend, project: Path) -> None:
    for spec, profile in ((RETAIL, "gpu"), (CPU, "kind")):
        assert kfp(backend, "run", "submit", spec, "--profile", profile, root=project).returncode == 0
    first, second = (list(run["runtime_config"]["parameters"]) for run in backend.runs.values())
    assert sorted(first) == sorted(second)


def test_options_reach_the_run(backend: Backend, project: Path) -> None:
    options = ("--set", "trainer.steps=24", "--set", "iterations=1", "-r", "mine", "-e", "family")
    done = kfp(backend, "run", "submit", CPU, *options, root=project, SENTINEL_PROFILE="kind")
    assert done.returncode == 0, done.stderr
    (run,) = backend.runs.values()
    assert (run["display_name"], run["runtime_config"]["parameters"]["trainer_steps"]) == ("mine", "24")
    assert backend.experiments["experiment-1"]["display_name"] == "family"


@pytest.mark.parametrize("name", ["run", "runs"])
def test_help_is_ours_and_says_where_upstreams_is(name: str, backend: Backend, project: Path) -> None:
    done = kfp(backend, name, "submit", "--help", root=project, KF_PIPELINES_ENDPOINT=NOBODY)
    assert done.returncode == 0 and "kfp run create" in done.stdout
    assert done.stdout.startswith("Usage: kfp run submit [OPTIONS] SPEC") and not done.stderr


def test_a_profile_names_its_server(backend: Backend, project: Path) -> None:
    kind = project / "experiments/profiles/kind.yaml"
    text = kind.read_text()
    assert "endpoint: http://127.0.0.1:8888 " in text
    kind.write_text(text.replace("endpoint: http://127.0.0.1:8888 ", f"endpoint: {backend.url} "))
    variables = {"KF_PIPELINES_ENDPOINT": "", "PYTHONWARNINGS": "ignore,default::FutureWarning"}
    done = kfp(backend, "run", "submit", CPU, "--profile", "kind", root=project, **variables)
    assert done.returncode == 0 and len(backend.runs) == 1, done.stderr
    assert done.stderr.count("\n") == 3, "a new experiment, the run and its page; no warnings of libraries"


def test_what_kfp_is_told_goes_before_variable_and_profile(backend: Backend, project: Path) -> None:
    options = ("--endpoint", backend.url, "--namespace", "team")
    done = kfp(backend, *options, "run", "submit", CPU, "--profile", "kind", root=project, KF_PIPELINES_ENDPOINT=NOBODY)
    assert done.returncode == 0 and len(backend.runs) == 1, done.stderr
    assert backend.experiments["experiment-1"]["namespace"] == "team"


@pytest.mark.parametrize(
    "arguments",
    [("retail-cpu", "--profile", "kind"), ("-r", "-nightly", CPU, "--profile", "kind"), ("--profile=kind", CPU)],
)
def test_a_name_or_an_option_of_ours_makes_it_ours(arguments: tuple[str, ...], backend: Backend, project: Path) -> None:
    done = kfp(backend, "run", "submit", *arguments, root=project)
    assert done.returncode == 0 and done.stdout == "run-1\n", done.stderr


@pytest.mark.parametrize("program", ["kfp", "sentinel"])
def test_variables_of_kfp_name_the_server(program: str, backend: Backend, project: Path) -> None:
    verb = ("run", "submit") if program == "kfp" else ("submit",)
    variables = {"KF_PIPELINES_ENDPOINT": NOBODY, "KFP_ENDPOINT": backend.url}
    done = typed(program, backend, *verb, CPU, "--profile", "kind", root=project, **variables)
    assert done.returncode == 0 and done.stdout == "run-1\n", done.stderr


def test_json_is_all_that_is_printed(backend: Backend, project: Path) -> None:
    done = typed("sentinel", backend, "submit", CPU, "--profile", "kind", "--json", root=project)
    assert done.returncode == 0 and json.loads(done.stdout)["run"] == "run-1", done.stderr


class Portal(BaseHTTPRequestHandler):
    """A page for people, where the API was expected."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


def test_a_page_that_is_not_the_api_is_seen(backend: Backend, project: Path) -> None:
    with listening(Portal) as url:
        done = kfp(backend, "run", "submit", CPU, "--profile", "kind", root=project, KFP_ENDPOINT=url)
    assert done.returncode == 1 and "not the Kubeflow Pipelines API: it answers '<html>Please log in" in done.stderr


def test_answers_without_an_id_are_seen(backend: Backend, project: Path) -> None:
    backend.faults["POST /runs"] = Reply(200, {"ok": True})
    done = kfp(backend, "run", "submit", CPU, "--profile", "kind", root=project)
    assert done.returncode == 1 and "not the Kubeflow Pipelines API" in done.stderr and not done.stdout


def test_no_server_is_said_in_our_words(backend: Backend, project: Path) -> None:
    done = kfp(backend, "run", "submit", CPU, "--profile", "kind", root=project, KF_PIPELINES_ENDPOINT=NOBODY)
    assert done.returncode == 1 and done.stderr.startswith("could not connect: no Kubeflow Pipelines API answers")
    assert "kubectl port-forward" in done.stderr and "Retrying" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CPU, "--profile", "kind", "--set", "trainer.stepz=1"), "did you mean 'steps'?"),
        (("nowhere.yaml", "--profile", "kind"), "nowhere.yaml: no such file"),
        ((CPU, "--profile", "knd"), "did you mean 'kind'?"),
        ((CPU,), "make push VARIANT=cuda REGISTRY="),
        ((CPU, "--profile", "kind", "--profle", "kind"), "No such option"),
    ],
)
def test_what_is_wrong_is_said_before_a_server_is_asked(
    arguments: tuple[str, ...], message: str, backend: Backend, project: Path
) -> None:
    (project / "images.lock").unlink()
    done = kfp(backend, "run", "submit", *arguments, root=project, KF_PIPELINES_ENDPOINT=NOBODY)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_run_that_is_not_there_is_not_continued(backend: Backend, project: Path) -> None:
    done = kfp(backend, "run", "submit", CPU, "--profile", "kind", "--resume-from", "run-9", root=project)
    assert (done.returncode, backend.experiments, backend.runs) == (1, {}, {}), done.stderr
    assert "HTTP 404" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ("GET /healthz", 401, "log in"),
        ("GET /healthz", 502, "ml-pipeline"),
        ("POST /experiments", 401, "log in"),
        ("POST /experiments", 403, "kubeflow-edit"),
        ("POST /runs", 409, "--run-name"),
        ("POST /runs", 500, "ml-pipeline"),
    ],
)
def test_a_refusal_says_what_to_do(request_: str, status: int, message: str, backend: Backend, project: Path) -> None:
    backend.faults[request_] = Reply(status, {"message": "because"})
    done = kfp(backend, "run", "submit", CPU, "--profile", "kind", root=project)
    assert done.returncode == 1 and backend.runs == {}
    assert f"HTTP {status}: because" in done.stderr and message in done.stderr and "Traceback" not in done.stderr


def test_a_compiled_pipeline_goes_to_upstream(backend: Backend, project: Path) -> None:
    script = Path(__file__).with_name("plain_pipeline.py")
    subprocess.run([sys.executable, "-W", "ignore", str(script)], cwd=project, check=True)
    options = ("-f", "plain.yaml", "-e", "x", "number=3")
    ours = kfp(backend, "run", "submit", *options, root=project)
    upstream = kfp(backend, "run", "create", *options, root=project)
    assert (ours.returncode, upstream.returncode) == (0, 0), ours.stderr
    assert ours.stderr.startswith("Warning: 'submit' is deprecated, use 'create' instead.")
    assert ours.stdout.replace("run-1", "run-2") == upstream.stdout
    first, second = backend.runs.values()
    assert {**first, "run_id": ""} == {**second, "run_id": ""}
    without = kfp(backend, "run", "submit", "-e", "x", root=project)
    assert without.returncode == 1 and "You must provide one of" in without.stderr
