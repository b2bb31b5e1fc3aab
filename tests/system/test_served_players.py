"""Stages whose policy plays on a server of their own: started, shared by workers, reloaded, and gone in any case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sentinel.artifacts import read_jsonl
from sentinel.errors import StageError
from sentinel.llm.policy import load_policy
from sentinel.records import Outcome, Task, Trajectory
from sentinel.rollout.pool import assign
from sentinel.spec.profile import ProfileSpec, VllmServer
from sentinel.stages import evaluate, rollout
from sentinel.stages.context import Context
from sentinel.stages.playing import opened
from tests.system.fake_vllm import logprob
from tests.unit.builders import contents, copy_base, small, stage_context, untrained_base

FAKE = str(Path(__file__).with_name("fake_vllm.py"))


@pytest.fixture(scope="module")
def base(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the tasks of the small experiment and a policy that learned nothing."""
    return untrained_base(root, tmp_path_factory.mktemp("base"))


def profile(project: Path, trouble: str, workers: int, start_seconds: int) -> ProfileSpec:
    server = VllmServer(
        type="vllm",
        command=(sys.executable, FAKE),
        arguments=("--enforce-eager",),
        environment={"FAKE_PROJECT": str(project), "FAKE_VLLM": trouble},
        concurrency=4,
        start_seconds=start_seconds,
    )
    return ProfileSpec(threads=1, engine=server, workers=workers)


def context(
    root: Path,
    project: Path,
    kind: str = "rollout",
    *,
    trouble: str = "",
    workers: int = 1,
    start_seconds: int = 120,
) -> Context:
    experiment = small(root, rollout={"chunk": 4}, evaluator={"chunk": 8})
    found = stage_context(experiment, kind, project, 0 if kind == "evaluate" else 1)
    return replace(found, profile=profile(project, trouble, workers, start_seconds))


def alive(project: Path) -> list[int]:
    """The processes of the project's server that still run, known by the environment they were given."""
    mark = f"FAKE_PROJECT={project}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile; of one that waits for its parent the environment is empty
            found += [int(process.name)] if mark in (process / "environ").read_bytes() else []
    return found


@pytest.fixture(scope="module")
def undisturbed(root: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A finished rollout."""
    here = context(root, copy_base(base, tmp_path_factory.mktemp("undisturbed")))
    rollout.run(here)
    return here


def test_a_stage_plays_on_its_own_server_and_leaves_nothing_of_it(undisturbed: Context) -> None:
    trajectories = read_jsonl(undisturbed.output / "trajectories.jsonl", Trajectory)
    assert len(trajectories) == 24
    assert Outcome.void not in {trajectory.outcome for trajectory in trajectories}
    assert max(trajectory.counts.turns for trajectory in trajectories) > 1
    project = undisturbed.output.parents[3]
    assert alive(project) == []
    log = (undisturbed.state / "server.log").read_text(encoding="utf-8")
    for option in ("'--dtype', 'float32'", "'--max-model-len', '128'", "'processed_logprobs'", "'--enforce-eager'"):
        assert option in log


def test_a_stage_that_only_plays_does_not_even_import_torch(root: Path, base: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from sentinel.stages import evaluate, propose, rollout
from sentinel.stages.playing import opened
from tests.system.test_served_players import context
sys.modules.pop("torch"), sys.modules.pop("transformers")
with opened(context(Path.cwd(), Path({str(copy_base(base, tmp_path))!r}))):
    sys.exit(bool({{"torch", "transformers"}} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_workers_share_one_server_and_play_the_same(
    root: Path, base: Path, undisturbed: Context, tmp_path: Path
) -> None:
    here = context(root, copy_base(base, tmp_path), workers=2)
    rollout.run(here)
    assert contents(here.output) == contents(undisturbed.output)
    assert alive(tmp_path) == []


def test_the_evaluation_is_played_there_too(root: Path, base: Path, tmp_path: Path) -> None:
    here = context(root, copy_base(base, tmp_path), "evaluate")
    evaluate.run(here)
    assert len((here.output / "trials.jsonl").read_text().splitlines()) == 58


@pytest.mark.parametrize(
    ("trouble", "start_seconds", "words"),
    [
        ("crash", 120, r"ended with exit code 1(?s:.*)server.log:(?s:.*)no memory for the KV cache"),
        ("sleep", 2, r"not ready after \d s(?s:.*)server.log:"),
    ],
)
def test_a_server_that_does_not_start_shows_its_log(
    trouble: str, start_seconds: int, words: str, root: Path, base: Path, tmp_path: Path
) -> None:
    here = context(root, copy_base(base, tmp_path), trouble=trouble, start_seconds=start_seconds)
    with pytest.raises(StageError, match=words):
        rollout.run(here)
    assert contents(here.output) == {}
    assert alive(tmp_path) == []


def test_a_command_that_is_not_there_is_named(root: Path, base: Path, tmp_path: Path) -> None:
    here = context(root, copy_base(base, tmp_path))
    missing = VllmServer(type="vllm", command=("no-such-vllm", "serve"))
    with pytest.raises(StageError, match=r"exit code 127(?s:.*)no-such-vllm: No such file or directory"):
        rollout.run(replace(here, profile=ProfileSpec(engine=missing)))


def test_a_server_that_dies_ends_the_stage_and_costs_no_episode(
    root: Path, base: Path, undisturbed: Context, tmp_path: Path
) -> None:
    dying = context(root, copy_base(base, tmp_path), trouble="die:30")
    with pytest.raises(StageError, match=r"not ready after(?s:.*)server.log:"):
        rollout.run(dying)
    assert contents(dying.output) == {}
    assert 0 < len(list((dying.state / "chunks").iterdir())) < 6
    rollout.run(context(root, tmp_path))
    assert contents(dying.output) == contents(undisturbed.output)


STAGE = """
import sys
from pathlib import Path
from sentinel.stages import rollout
from tests.system.test_served_players import context
rollout.run(context(Path.cwd(), Path(sys.argv[1]), workers=int(sys.argv[2])))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_stage_leaves_no_server_behind_and_resumes(
    workers: int, root: Path, base: Path, undisturbed: Context, tmp_path: Path
) -> None:
    copy_base(base, tmp_path)
    command = [sys.executable, "-c", STAGE, str(tmp_path), str(workers)]
    stage = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = context(root, tmp_path).state / "chunks"
    deadline = time.monotonic() + 300
    while not (journal.exists() and any(journal.glob("*.npz"))):
        assert stage.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    assert len(alive(tmp_path)) >= 2, "the server and its engine"
    os.killpg(stage.pid, signal.SIGKILL)
    stage.wait()
    while alive(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    here = context(root, tmp_path, workers=workers)
    rollout.run(here)
    assert contents(here.output) == contents(undisturbed.output)


def test_the_server_takes_over_the_weights_of_whoever_signs(root: Path, base: Path, tmp_path: Path) -> None:
    here = context(root, copy_base(base, tmp_path))
    tasks = read_jsonl(here.inputs["pool"], Task)[:2]
    live, original, said = load_policy(here.inputs["policy"]), logprob(here.inputs["policy"]), []
    with opened(here, live=live) as players:
        for signature in ("", players.name, "trained+1", "trained+1", "trained+2"):
            played = players.play(assign(tasks, 1, 7), here.spec.rollout, chunk=2, policy=signature)
            assert {each.trajectory.policy for each in played} == {signature or players.name}
            [found] = {float(number) for each in played for number in each.tokens.logprobs[each.tokens.sampled]}
            said.append(found)
            with torch.no_grad():
                live.model.lm_head.weight.mul_(1.5)
    first, same, one, again, two = said
    assert first == same == pytest.approx(original)
    assert one == again
    assert len({first, one, two}) == 3
    assert two == pytest.approx(logprob(here.state / "served"))
    assert logprob(here.inputs["policy"]) == original, "the stage's input is not touched"
    log = (here.state / "server.log").read_text(encoding="utf-8").splitlines()
    posted = [line.split()[1] for line in log if line.startswith("POST")]
    assert (
        posted
        == [
            "/collective_rpc",
            "/reset_prefix_cache",
        ]
        * 2
    )
