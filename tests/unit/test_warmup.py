"""The warm start: it learns, repeats to the bit, plants the weaknesses it is told to, and survives a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from sentinel.artifacts import read_jsonl, write_jsonl
from sentinel.env.synthetic import atoms
from sentinel.errors import SentinelError
from sentinel.llm.model_folder import policy_hash
from sentinel.llm.policy import Policy, load_policy, new_policy, save_policy
from sentinel.llm.templates import render_call
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.llm.transcript import Tokens
from sentinel.proposer.conditions import conditions
from sentinel.proposer.seed import natural_mix
from sentinel.rollout.demonstrator import expert
from sentinel.solver.demonstrations import Codebook, actions, demonstrate
from sentinel.solver.phases import WarmupStep
from sentinel.solver.warmup import Teaching, decay
from sentinel.spec.models import PretrainedPolicy, TinyPolicy, Warmup
from sentinel.stages import warmup
from sentinel.stages.context import Context
from sentinel.stages.progress import Progress
from tests.unit.builders import CONDITIONS, arena, contents, made, mixed, small, stage_context

TINY = TinyPolicy(type="tiny", layers=1, hidden=32, heads=2, feed_forward=48, max_context=320)


@cache
def tokenizer_and_texts() -> tuple[Policy, tuple[str, ...]]:
    where, book = arena(), Codebook()
    where.tokenizer = book
    list(demonstrate(mixed(29), where, {}, 0, lambda: None))
    tokenizer = train_tokenizer(book.texts, atoms(), max_context=320)
    return new_policy(TINY, tokenizer, seed=0), tuple(book.texts)


def tuned(steps: int = 30, seed: int = 0) -> tuple[LlamaForCausalLM, list[float]]:
    tokenizer = tokenizer_and_texts()[0].tokenizer
    where = arena()
    where.tokenizer = tokenizer
    demonstrations = list(demonstrate(mixed(29), where, {}, 0, lambda: None))
    model = new_policy(TINY, tokenizer, seed=0).model
    return model, learn(model, demonstrations, steps, 8, seed)


def learn(model: LlamaForCausalLM, demonstrations: Sequence[Tokens], steps: int, batch: int, seed: int) -> list[float]:
    """Losses of a whole lesson."""
    rng = np.random.default_rng(seed)
    lesson = Teaching(model, demonstrations, steps=steps, batch_size=batch, learning_rate=0.01, rng=rng, pad=0)
    return [lesson.step(number) for number in range(1, steps + 1)]


def weights(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_fine_tuning_lowers_the_loss_and_repeats_to_the_last_bit() -> None:
    model, log = tuned()
    assert len(log) == 30
    assert np.mean(log[-3:]) < 0.75 * log[0]
    assert not model.training
    again, same = tuned()
    assert same == log
    assert torch.equal(weights(again), weights(model))
    other, _ = tuned(seed=1)
    assert not torch.equal(weights(other), weights(model))


def test_no_steps_change_nothing() -> None:
    model, log = tuned(steps=0)
    assert torch.equal(weights(model), weights(new_policy(TINY, tokenizer_and_texts()[0].tokenizer, seed=0).model))
    assert log == []


def test_padding_and_batching_do_not_change_what_is_learned_from_one_demonstration() -> None:
    """The padding has no weight: the first loss of a batch of equals is that of one of them."""
    tokenizer = tokenizer_and_texts()[0].tokenizer
    where = arena()
    where.tokenizer = tokenizer
    short, long = (
        next(demonstrate([made(name)], where, {}, 0, lambda: None)) for name in ("transfer/plain", "two/return_cancel")
    )
    assert len(short.ids) < len(long.ids)
    losses = []
    for batch in ([short], [long], [short, long]):
        losses += learn(new_policy(TINY, tokenizer, seed=0).model, batch, 1, 2, 0)
    written = [int(tokens.sampled.sum()) for tokens in (short, long)]
    assert losses[2] == pytest.approx(np.average(losses[:2], weights=written), rel=1e-5)


def test_the_learning_rate_is_constant_and_then_falls_to_a_tenth() -> None:
    assert [decay(step, 100) for step in (1, 50, 75, 99, 100)] == pytest.approx([1.0, 1.0, 0.5, 0.1, 0.1])


def test_every_demonstration_is_an_experts_without_weaknesses() -> None:
    for name in CONDITIONS:
        assert actions(made(name), arena(), {}, seed=3) == expert(made(name))


def test_weak_demonstrations_have_their_share() -> None:
    asked = {"refuse": 0.25, "transfer": 0.5, "variant": 0.9, "two_items": 0.0}
    for skill, share in asked.items():
        names = [name for name, condition in CONDITIONS.items() if condition.skill == skill]
        tasks = [made(name, number) for name in names for number in range(240 // len(names))]
        correct = sum(actions(task, arena(), asked, seed=1) == expert(task) for task in tasks) / len(tasks)
        assert correct == pytest.approx(share, abs=0.1), skill
    for name, condition in CONDITIONS.items():
        if condition.skill not in asked:
            assert actions(made(name), arena(), asked, seed=1) == expert(made(name))


def test_which_demonstrations_are_weak_depends_on_seed_and_task_alone() -> None:
    tasks = [made("refuse/bad_reason", n) for n in range(40)]
    weak = [actions(task, arena(), {"refuse": 0.5}, seed=1) == expert(task) for task in tasks]
    assert [
        actions(task, arena(), {"refuse": 0.5, "ask": 0.1}, seed=1) == expert(task) for task in reversed(tasks)
    ] == weak[::-1]
    assert [actions(task, arena(), {"refuse": 0.5}, seed=2) == expert(task) for task in tasks] != weak


def test_a_demonstration_has_what_its_agent_says_as_sampled_tokens() -> None:
    where = arena()
    ticks: list[int] = []
    (tokens,) = demonstrate([made("cancel/no_reason")], where, {}, 0, lambda: ticks.append(1))
    said = where.decode(tokens.ids[tokens.sampled].tolist())
    assert "What is the reason?" in said
    assert render_call(made("cancel/no_reason").gold[-1]) in said
    assert ticks == [1]


def test_the_codebook_is_exact() -> None:
    book = Codebook()
    assert book.encode("a") == book.encode("a") != book.encode("b")
    assert book.decode([*book.encode("b"), *book.encode("a")]) == "ba"
    assert book.texts == ["a", "b"]


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tasks are there, and whose policy an undisturbed warm start has made."""
    folder = tmp_path_factory.mktemp("warmup")
    context = context_in(root, folder)
    warmup.run(context)
    return folder


def context_in(root: Path, folder: Path) -> Context:
    context = stage_context(small(root), "warmup", folder)
    tasks = context.inputs["tasks"]
    if not tasks.exists():
        tasks.mkdir(parents=True)
        (tasks / "world.json").write_text("{}", encoding="utf-8")
        write_jsonl(
            tasks / "demonstrations.jsonl", [made(c.condition, n) for n, c in enumerate(natural_mix(29, conditions()))]
        )
    return context


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder / "runs").items() if "/tasks/" not in name}


def test_the_stage_leaves_a_policy_that_loads_and_a_log_of_both_phases(project: Path, root: Path) -> None:
    context = context_in(root, project)
    policy = load_policy(context.output / "policy")
    assert policy.model.config.hidden_size == 32
    log = read_jsonl(context.output / "warmup.jsonl", WarmupStep)
    assert [(step.phase, step.step) for step in log] == [("clean", 10), ("clean", 20)]
    assert log[1].loss < log[0].loss


def test_the_weak_phase_moves_the_weights(project: Path, root: Path) -> None:
    context = context_in(root, project)
    clean, weak = (
        load_policy(folder / name) for folder, name in ((context.state, "clean"), (context.output, "policy"))
    )
    assert not torch.equal(weights(clean.model), weights(weak.model))


def test_two_runs_are_equal(project: Path, root: Path, tmp_path: Path) -> None:
    warmup.run(context_in(root, tmp_path))
    assert outputs(tmp_path) == outputs(project)


class Killed(BaseException):
    """As sudden as a signal."""


def dying(moment: int) -> Callable[..., None]:
    left = [moment]

    def advance(n: int = 1, **figures: float | str) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    return advance


# 29 tasks: two passes for the texts, one for the clean phase with 20 steps, one for the weak phase with 5.
@pytest.mark.parametrize(
    ("moment", "begun"),
    [(30, [20, 5]), (29 * 3 + 3, [20, 5]), (29 * 3 + 11, [20 - 8, 5]), (29 * 3 + 21, [5]), (29 * 4 + 20 + 5, [5 - 4])],
)
def test_a_killed_warm_start_goes_on_from_its_last_checkpoint_to_the_same_bytes(
    moment: int, begun: list[int], project: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "KEEP_EVERY", 4)
    context = context_in(root, tmp_path)
    progress = Progress("dying")
    progress.advance = dying(moment)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        warmup.run(replace(context, progress=progress))
    assert outputs(tmp_path) == {}
    resumed = Progress("resumed")
    left: list[int] = []

    def start(total: int, unit: str = "", done: int = 0) -> None:
        left.extend([total - done] if unit.endswith(" steps") else [])

    resumed.start = start  # type: ignore[method-assign]
    warmup.run(replace(context, progress=resumed))
    assert outputs(tmp_path) == outputs(project)
    assert left == begun


def pretrained(root: Path, project: Path, **changes: object) -> Context:
    """The stage's context for a policy in the folder `published` of the project."""
    context = context_in(root, project)
    model = str(project / "published")
    settings = {"type": "pretrained", "model": model, "revision": policy_hash(project / "published")}
    policy = PretrainedPolicy.model_validate(settings | {"dtype": "float32", "max_context": 320} | changes)
    return replace(context, spec=context.spec.model_copy(update={"policy": policy, "warmup": Warmup()}))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A project with a published model, which holds more than a policy needs."""
    folder = tmp_path / "published"
    save_policy(folder, tokenizer_and_texts()[0])
    for name in ("modeling_evil.py", "pytorch_model.bin", "README.md"):
        (folder / name).write_bytes(b"not wanted")
    return tmp_path


def test_a_pretrained_policy_is_taken_as_it_is_and_nothing_else_with_it(published: Path, root: Path) -> None:
    context = pretrained(root, published)
    warmup.run(context)
    brought, source = contents(context.output / "policy"), contents(published / "published")
    assert set(source) - set(brought) == {"modeling_evil.py", "pytorch_model.bin", "README.md"}
    assert all(source[name] == data for name, data in brought.items())
    load_policy(context.output / "policy")
    assert (context.output / "warmup.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revision": "main"}, "published: its weights are '[0-9a-f]{16}', and policy.revision says 'main'"),
        ({"model": "nobody/nothing"}, "policy.model: 'nobody/nothing' at revision '[0-9a-f]{16}' could not be brought"),
        ({"model": "not a name"}, "policy.model: 'not a name' at revision"),
        ({"max_context": 4096}, "policy.max_context: 4096, but '.*published' has room for 320"),
    ],
)
def test_a_pretrained_policy_that_cannot_be_is_refused(
    changes: dict[str, object], words: str, published: Path, root: Path
) -> None:
    with pytest.raises(SentinelError, match=words):
        warmup.run(pretrained(root, published, **changes))
