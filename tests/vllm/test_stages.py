"""The real stages with a small real model on vLLM: brought, played, killed, evaluated and trained."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import pytest
from ruamel.yaml import YAML

from sentinel.artifacts import read_json, read_jsonl, write_jsonl
from sentinel.evaluation.metrics import EvaluationMetrics
from sentinel.llm.model_folder import policy_hash
from sentinel.llm.policy import load_policy
from sentinel.records import Intent, Outcome, Task, Trajectory, Trial
from sentinel.solver.metrics import StepMetrics
from sentinel.stages.rollout import Rates
from tests.vllm.conftest import SETTINGS, START_SECONDS, home

pytestmark = pytest.mark.timeout(2400)

BASE, RUN = "runs/bases/smol", "runs/smol"
BROKEN = "broken_prefix"
"""Why an episode is void whose tokens were not those that the engine read."""


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the experiment, a profile that starts the tier's vLLM, tasks and the policy."""
    folder, model = tmp_path_factory.mktemp("project"), home(root) / "smollm2"
    text = Path(__file__).with_name("experiment.yaml").read_text(encoding="utf-8")
    text = text.replace("MODEL", str(model)).replace("REVISION", f"'{policy_hash(model)}'")
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    engine = {
        "type": "vllm",
        "command": [str(home(root) / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model"],
        "arguments": ["--enforce-eager", "--max-num-seqs=32"],
        "environment": {**SETTINGS, "VLLM_CPU_KVCACHE_SPACE": "1"},
        "start_seconds": int(START_SECONDS),
    }
    head = {"apiVersion": "sentinel.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "tier"}}
    with (folder / "tier.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({**head, "spec": {"threads": 1, "engine": engine}}, file)
    for run in (BASE, RUN):
        finished(folder, "spec", run, "--spec", "experiment.yaml", "--iterations", "1")
    for kind in ("seed", "warmup"):
        finished(folder, kind, BASE)
    return folder


def start(project: Path, kind: str, run: str, *options: str) -> subprocess.Popen[str]:
    """A stage as DVC and Kubeflow start it."""
    command = ["sentinel", "stage", kind, "--run", run, *options, "--profile", "tier.yaml"]
    return subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finished(project: Path, kind: str, run: str, *options: str) -> str:
    """Run a stage; returns what it said."""
    _, said = (stage := start(project, kind, run, *options)).communicate()
    assert stage.returncode == 0, said
    return said


def servers(project: Path) -> list[str]:
    """Command lines of all processes whose working folder is the project: a stage's server, its keeper, its engine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = path.with_name("cwd").readlink()
        except OSError:
            continue
        if words and where == project:
            found.append(words)
    return found


def test_the_policy_is_the_published_model(project: Path, root: Path) -> None:
    policy = project / BASE / "policy"
    assert policy_hash(policy) == policy_hash(home(root) / "smollm2")
    assert {path.name for path in policy.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}


def test_a_killed_rollout_leaves_no_server_and_resumes_from_its_journal(project: Path) -> None:
    stage = start(project, "rollout", f"{RUN}/01")
    state = project / ".sentinel" / "state" / "smol-rollout-01"
    deadline = time.monotonic() + START_SECONDS
    while not (finished_chunks := list(state.glob("*/chunks/*.npz"))):
        assert stage.poll() is None and time.monotonic() < deadline, stage.stderr and stage.stderr.read()
        time.sleep(0.05)
    assert len(servers(project)) > 2, "the stage, its keeper, the server"
    stage.kill()
    stage.communicate()
    while left := servers(project):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    before = {path.name: path.read_bytes() for path in state.glob("*/chunks/*.npz")}
    assert 0 < len(before) < 4, f"{len(finished_chunks)} of 4 chunks at the kill"

    said = finished(project, "rollout", f"{RUN}/01")
    assert f"{6 * len(before)}/24 episodes" in said, "the finished chunks are not played again"
    trajectories = read_jsonl(project / RUN / "01/rollout/trajectories.jsonl", Trajectory)
    rates = read_json(project / RUN / "01/rollout/rates.json", Rates)
    assert rates.tally.requested == rates.tally.kept + sum(rates.tally.void.values()) == len(trajectories) == 24
    assert BROKEN not in rates.tally.void, "a prompt was tokenised anew"
    assert rates.tally.kept > 0
    assert set(Counter((t.task.id, t.trial) for t in trajectories).values()) == {1}
    assert {t.policy for t in trajectories} == {policy_hash(project / BASE / "policy")}
    assert max(t.counts.turns for t in trajectories if t.outcome is not Outcome.void) > 1
    assert servers(project) == []


def test_the_evaluation_counts_every_trial(project: Path) -> None:
    finished(project, "evaluate", BASE)
    trials = read_jsonl(project / BASE / "evaluate/trials.jsonl", Trial)
    metrics = read_json(project / BASE / "evaluate/metrics.json", EvaluationMetrics)
    void = Counter(str(trial.void_reason) for trial in trials if trial.outcome is Outcome.void)
    assert (len(trials), metrics.trials, metrics.voids) == (16, 16, dict(void))
    assert BROKEN not in void
    assert servers(project) == []


def watch(project: Path, name: str) -> TextIO:
    """The log of a stage's server, from the moment it is there; it can still be read when the stage has removed it."""
    deadline = time.monotonic() + START_SECONDS
    while not (logs := list((project / ".sentinel" / "state" / name).glob("*/server.log"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return logs[0].open(encoding="utf-8", errors="replace")


SMALL_TALK = (
    "Say goodbye in three words.", "Name a town. One word only.", "Say yes.", "Count from one to five.",
    "What is two plus two? Only the number.", "Name three colours.", "Greet me.", "Tell me a short joke.",
)  # fmt: skip
"""Some are answered within a turn's tokens nearly always, some nearly never: of so many groups one has both."""


def chat(task: Task, words: str) -> Task:
    """A task that wants nothing done: whoever keeps to short turns until the user gives up has solved it."""
    scenario = task.scenario.model_copy(update={"intents": (Intent(request=words),), "identity_volunteered": False})
    return task.model_copy(update={"id": words, "scenario": scenario, "gold": (), "communicate": ()})


def test_a_trained_policy_is_served_with_its_new_weights(project: Path) -> None:
    """On small talk: a small model succeeds at nothing else, and without successes there is no gradient."""
    pool = project / BASE / "tasks" / "general.jsonl"
    task = read_jsonl(pool, Task)[0]
    write_jsonl(pool, [chat(task, words) for words in SMALL_TALK])
    for kind in ("control", "propose"):
        finished(project, kind, f"{RUN}/01")
    stage = start(project, "train", f"{RUN}/01")
    with watch(project, "smol-train-01") as log:
        _, said = stage.communicate()
        served = log.read()
    assert stage.returncode == 0, said
    [step] = read_jsonl(project / RUN / "01/train/metrics.jsonl", StepMetrics)
    print(f"{step.trained_tokens} tokens trained, ratio {step.ratio}, void {step.void}")
    assert step.skipped is None, "no group had different rewards: nothing was trained"
    assert step.episodes == 32
    assert step.ratio == pytest.approx(1.0, abs=0.01), "what vLLM says of its samples is what the trainer computes"
    assert served.count('POST /collective_rpc HTTP/1.1" 200') == 1
    load_policy(project / RUN / "01/train/policy")
    assert servers(project) == []
