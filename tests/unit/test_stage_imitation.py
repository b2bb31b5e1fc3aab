"""The warm-up stage teaches stored conversations, ours and tau2's, to any policy; no held-out ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sentinel.artifacts import read_jsonl, write_json, write_jsonl
from sentinel.env.synthetic import atoms
from sentinel.env.tau2 import benchmark_tasks
from sentinel.errors import SentinelError
from sentinel.llm.model_folder import policy_hash
from sentinel.llm.policy import load_policy, new_policy, save_policy
from sentinel.llm.templates import END, render_call
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.proposer.leakage import Manifest, manifest
from sentinel.records import Outcome, Role, Task, Trajectory, VoidReason
from sentinel.rollout.arena import open_arena
from sentinel.rollout.demonstrator import expert
from sentinel.solver.phases import WarmupStep
from sentinel.spec.load import load
from sentinel.spec.models import Experiment, TinyPolicy
from sentinel.stages import warmup
from sentinel.stages.context import Context
from sentinel.stages.imitation import Stored
from sentinel.stages.progress import Progress
from tests.unit.builders import acted, contents, made, spelled, stage_context, world

SMALL = TinyPolicy(type="tiny", layers=2, hidden=32, heads=2, feed_forward=64, max_context=2048)
TALK = ("What is the reason?", "Which order?", "Your order is cancelled.")
"""What the assistant of a made tau2 file says."""


def trajectories() -> list[Trajectory]:
    """Six that succeeded, one that failed and a void one."""
    tasks = [made("cancel/no_reason", n) for n in range(6)]
    won = [acted(task, expert(task), spelled()).trajectory for task in tasks]
    lost = won[0].model_copy(update={"outcome": Outcome.failure})
    void = won[0].model_copy(update={"outcome": Outcome.void, "void_reason": VoidReason.user_simulator, "reward": None})
    return [*won, lost, void]


def simulation(task: Task, reward: float = 1.0) -> dict[str, object]:
    """An episode as tau2 stores it, of somebody who looks up nothing and talks."""
    said = [
        {"role": role, "content": words} for words in TALK for role, words in (("user", "hm"), ("assistant", words))
    ]
    actions = [{"action": {"id": "", "name": call.name, "arguments": call.arguments}} for call in task.gold]
    told = [{"info": text} for text in task.communicate]
    info = {"reward": reward, "db_check": {}, "action_checks": actions, "communicate_checks": told}
    return {"task_id": task.id, "termination_reason": "agent_stop", "messages": said, "reward_info": info}


def tau2_file(path: Path, held_out: set[str]) -> Path:
    """Two tasks that are held out, two that are not, and one that failed."""
    tasks = {task.id: task for task in benchmark_tasks("tau2-base")}
    others = [task for task in tasks.values() if task.id not in held_out and task.gold]
    simulations = [simulation(tasks[name]) for name in sorted(held_out)] + [simulation(each) for each in others[-2:]]
    path.write_text(json.dumps({"simulations": [*simulations, simulation(others[-3], 0.0)]}), encoding="utf-8")
    return path


def context_for(
    root: Path, project: Path, file: Path, policy: Mapping[str, object] | None = None, **imitation: object
) -> Context:
    """The stage's context in a project that holds nothing out, with the small experiment's tiny policy by default."""
    values = load(root / "tests/e2e/small.yaml").resolved()
    phases = {"clean_steps": 0, "weak_steps": 0} if policy else {"clean_steps": 4, "weak_steps": 2}
    stored = {"file": str(file), "steps": 6, "batch_size": 2, "learning_rate": 0.003, "micro_batch_tokens": 1024}
    values["spec"]["warmup"] |= {**phases, "imitation": stored | imitation}
    values["spec"]["policy"] = dict(policy) if policy else values["spec"]["policy"] | {"max_context": 320}
    experiment = Experiment.model_validate_json(json.dumps(values))
    context = stage_context(experiment, "warmup", project)
    tasks = context.inputs["tasks"]
    if not tasks.exists():
        tasks.mkdir(parents=True)
        (tasks / "world.json").write_text("{}", encoding="utf-8")
        write_json(tasks / "manifest.json", Manifest(entities=False, solutions=(), tasks=()))
        write_jsonl(tasks / "demonstrations.jsonl", [made("transfer/plain", n) for n in range(4)])
    return replace(context, inputs={**context.inputs, "stored": file})


def hold_out(context: Context, tasks: list[Task], *, entities: bool) -> None:
    """Let the evaluation be of these tasks."""
    where = world("tau2") if entities else world()
    write_json(context.inputs["tasks"] / "manifest.json", manifest(tasks, where, entities=entities))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A file of ours."""
    path = tmp_path / "trajectories.jsonl"
    write_jsonl(path, trajectories())
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real Llama that speaks every text, character by character."""
    folder = tmp_path_factory.mktemp("published") / "model"
    tokenizer = train_tokenizer([""], atoms(), max_context=SMALL.max_context)
    save_policy(folder, new_policy(SMALL, tokenizer, seed=0))
    return folder


def pretrained(folder: Path, dtype: str = "float32") -> dict[str, object]:
    found = {"type": "pretrained", "model": str(folder), "revision": policy_hash(folder)}
    return found | {"dtype": dtype, "max_context": SMALL.max_context}


def losses(context: Context) -> list[float]:
    """Of the imitation, as logged every tenth step."""
    log = read_jsonl(context.output / "warmup.jsonl", WarmupStep)
    return [step.loss for step in log if step.phase == "imitation"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([each.detach().float().flatten() for each in load_policy(folder).model.parameters()])


def test_a_tiny_policy_learns_what_succeeded_after_its_own_phases(
    root: Path, tmp_path: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_for(root, tmp_path, ours, steps=30)
    warmup.run(context)
    log = read_jsonl(context.output / "warmup.jsonl", WarmupStep)
    assert [(step.phase, step.step) for step in log] == [("imitation", 10), ("imitation", 20), ("imitation", 30)]
    assert log[2].loss < 0.7 * log[0].loss
    assert "6 of 8 episodes to imitate; left out: failed 1; 1 void" in said(capsys)
    policy = load_policy(context.output / "policy")
    (phrase,) = policy.tokenizer.encode("What is the reason?", add_special_tokens=False)
    assert policy.tokenizer.decode([phrase]) == "What is the reason?", "what was stored is in its language"


def test_only_the_agents_words_are_learnt(root: Path, tmp_path: Path, ours: Path, published: Path) -> None:
    """The loss of the first step is the mean over just these tokens, by transformers' own forward pass."""
    context = context_for(root, tmp_path, ours, pretrained(published), steps=10, batch_size=6, learning_rate=1e-12)
    warmup.run(context)
    policy = load_policy(published)
    arena = open_arena(context.spec, context.inputs["tasks"], policy.tokenizer)
    conversations = Stored(context).conversations(arena)
    likelihoods = []
    for (tokens,), trajectory in zip(conversations, trajectories()[:6], strict=True):
        agent = [m for m in trajectory.messages if m.role is Role.assistant]
        words = [END.join(map(render_call, m.tool_calls)) or m.content for m in agent]
        assert arena.decode(tokens.ids[tokens.sampled].tolist()) == "".join(each + END for each in words)
        with torch.no_grad():
            logprobs = policy.model(input_ids=torch.from_numpy(tokens.ids)[None]).logits[0].log_softmax(-1)
        chosen = logprobs[:-1].gather(1, torch.from_numpy(tokens.ids)[1:, None])[:, 0]
        likelihoods.append(chosen[torch.from_numpy(tokens.sampled)[1:]])
    assert losses(context)[0] == pytest.approx(-float(torch.cat(likelihoods).mean()), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pretrained_policy_learns_tau2s_results_but_not_the_held_out_ones(
    dtype: str, root: Path, tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = [task for task in benchmark_tasks("tau2-test") if task.id in ("5", "9")]
    file = tau2_file(tmp_path / "results.json", {task.id for task in held_out})
    context = context_for(root, tmp_path, file, pretrained(published, dtype), steps=20)
    hold_out(context, held_out, entities=True)
    warmup.run(context)
    first, last = losses(context)
    assert last < first
    assert "2 of 5 episodes to imitate; left out: held_out 2, failed 1; 0 void" in said(capsys)
    trained = load_policy(context.output / "policy", dtype=dtype)  # type: ignore[arg-type]
    assert str(trained.model.dtype) == f"torch.{dtype}"
    assert not torch.equal(weights(context.output / "policy"), weights(published))


def test_whoever_is_held_out_is_not_imitated_under_another_name(root: Path, tmp_path: Path, ours: Path) -> None:
    context = context_for(root, tmp_path, ours)
    hold_out(context, [each.task.model_copy(update={"id": "other"}) for each in trajectories()], entities=False)
    with pytest.raises(SentinelError, match=r"trajectories.jsonl: 0 of 8 episodes to imitate; left out: held_out 6, "):
        warmup.run(context)


def test_tau2s_published_results_warm_a_policy(root: Path, tmp_path: Path, published: Path) -> None:
    file = root.parent / "shared" / "data" / "tau2-retail-toolorchestra.json"
    if not file.exists():
        pytest.skip("needs ../shared/data")
    context = context_for(root, tmp_path, file, pretrained(published), steps=10, batch_size=1)
    hold_out(context, benchmark_tasks("tau2-test"), entities=True)
    warmup.run(context)
    assert losses(context)[0] < 6.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither JSON nor JSONL"),
        ('{"a": 1}', "no `simulations` in it"),
        ('{"simulations": [{"messages": []}]}', r"simulations\[0\]"),
        ('{"simulations": [{"task_id": "x", "termination_reason": "user_stop", "messages": [{"role": "user"}]}]}',
         "0 of 1 episodes to imitate; left out: unknown_task 1; 0 void"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_imitated_is_refused(text: str, words: str, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(text, encoding="utf-8")
    context = context_for(root, tmp_path, file)
    with pytest.raises(SentinelError, match=rf"file\.json: .*{words}"):
        warmup.run(context)
    assert contents(context.output.parent / "policy") == {}


def test_a_loss_that_is_not_finite_ends_it_with_a_remedy(root: Path, tmp_path: Path, ours: Path) -> None:
    with pytest.raises(SentinelError, match=r"step \d of the imitation: .*\s+lower warmup\.imitation\.learning_rate"):
        warmup.run(context_for(root, tmp_path, ours, learning_rate=1e30))


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.parametrize("moment", [1, 4])
def test_a_killed_imitation_goes_on_with_the_next_step_to_the_same_bytes(
    moment: int, root: Path, tmp_path: Path, ours: Path, published: Path
) -> None:
    whole = context_for(root, tmp_path / "whole", ours, pretrained(published))
    warmup.run(whole)
    context = context_for(root, tmp_path / "killed", ours, pretrained(published))
    progress, left = Progress("dying"), [moment]

    def advance(n: int = 1, **figures: float | str) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    progress.advance = advance  # type: ignore[method-assign]
    with pytest.raises(Killed):
        warmup.run(replace(context, progress=progress))
    resumed, begun = Progress("resumed"), []
    resumed.start = lambda total, unit="", done=0: begun.append(done)  # type: ignore[method-assign]
    warmup.run(replace(context, progress=resumed))
    assert begun == [moment - 1]
    assert contents(context.output / "policy") == contents(whole.output / "policy")


def test_a_model_without_padding_token_and_chat_template_is_taught_like_any(
    root: Path, tmp_path: Path, ours: Path
) -> None:
    """Padding stands where no real token sees it, and conversations are rendered by templates of our own."""
    folder = tmp_path / "bare"
    tokenizer = train_tokenizer([""], atoms(), max_context=SMALL.max_context)
    policy = new_policy(SMALL, tokenizer, seed=0)
    policy.model.config.pad_token_id = None
    save_policy(folder, policy)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    bare = load_policy(folder)
    assert (bare.tokenizer.pad_token, bare.tokenizer.chat_template, bare.model.config.pad_token_id) == (None,) * 3
    context = context_for(root, tmp_path, ours, pretrained(folder), steps=20)
    warmup.run(context)
    first, last = losses(context)
    assert last < first
