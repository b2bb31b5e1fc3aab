"""The loop on a game that a tiny Llama learns in seconds: what it learns, counts, refuses and survives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from sentinel.artifacts import read_jsonl
from sentinel.curriculum import Curriculum
from sentinel.descent import Drawn, Use
from sentinel.llm.transcript import Tokens
from sentinel.records import OriginKind, Trajectory
from sentinel.rollout.episode import Assignment, Played
from sentinel.solver.checkpoint import Checkpoints
from sentinel.solver.metrics import Skipped, StepMetrics
from sentinel.solver.trainer import DEV_TRIALS, Play, Trainer
from sentinel.solver.update import Updater
from sentinel.spec.models import Curriculum as CurriculumSettings
from sentinel.spec.trainer import Alarms
from sentinel.spec.trainer import Trainer as Settings
from tests.unit.solver_toys import Log, WordGame, task, tiny_llama

DEV = [task(f"d{n}") for n in range(12)]


def settings(steps: int = 4, kl: float = 0.001) -> Settings:
    """Steps far larger than a real policy's, so the thresholds of the alarms are, too."""
    quiet = Alarms(kl=1e3, dev_drop=1.0)
    return Settings(steps=steps, prompts_per_step=4, group_size=4, dev_every=2, learning_rate=0.01, kl=kl, alarms=quiet)


def trainer(folder: Path, model: LlamaForCausalLM, play: Play, chosen: Settings, log: Log | None = None) -> Trainer:
    log = log or Log()
    general = [task(f"g{n}") for n in range(10)]
    targeted = [task(f"t{n}", OriginKind.targeted, "hard") for n in range(6)]
    curriculum = Curriculum(general, targeted, CurriculumSettings())
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder, say=log.say)
    return Trainer(Updater(model, chosen), "start", play, curriculum, DEV, chosen, (7, 1), checkpoints, log)


def weights(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trajectories(run: Trainer) -> list[Trajectory]:
    return [each for path in run.trajectory_files() for each in read_jsonl(path, Trajectory)]


def groups(run: Trainer) -> list[Drawn]:
    return [each for path in run.drawn_files() for each in read_jsonl(path, Drawn)]


def test_it_learns_the_game(tmp_path: Path) -> None:
    model = tiny_llama()
    metrics = trainer(tmp_path, model, WordGame(model), settings(steps=8)).train()
    start, best = metrics[0].dev_start, max(each.dev for each in metrics if each.dev is not None)
    assert start is not None
    assert best > start + 0.3
    assert [each.dev is not None for each in metrics] == [False, True] * 4
    assert [each.dev for each in metrics if each.result] == [best]


def test_the_first_step_is_on_policy(tmp_path: Path) -> None:
    model = tiny_llama()
    first, second, *_ = trainer(tmp_path, model, WordGame(model), settings(steps=2)).train()
    assert first.ratio == pytest.approx(1.0, abs=1e-5)
    assert first.clipped == 0.0
    assert first.kl == pytest.approx(0.0, abs=1e-7)
    assert second.ratio == pytest.approx(1.0, abs=1e-5)
    assert second.kl is not None
    assert second.kl > 1e-4


def test_without_a_kl_weight_there_is_no_kl(tmp_path: Path) -> None:
    model = tiny_llama()
    metrics = trainer(tmp_path, model, WordGame(model), settings(steps=1, kl=0.0)).train()
    assert metrics[0].kl is None
    assert metrics[0].loss is not None


def test_every_episode_is_counted_kept_and_named_once(tmp_path: Path) -> None:
    model = tiny_llama()
    game = WordGame(model, void_every=5)
    run = trainer(tmp_path, model, game, settings(steps=3))
    metrics = run.train()
    played = trajectories(run)
    assert game.episodes == len(played) + 2 * len(DEV) * DEV_TRIALS + len(DEV) * DEV_TRIALS
    assert [each.episodes for each in metrics] == [16 + 4 * each.refill for each in metrics]
    assert any(each.refill for each in metrics)
    assert sum(each.episodes for each in metrics) == len(played)
    assert len({(each.task.id, each.trial) for each in played}) == len(played)
    assert sum(sum(each.void.values()) for each in metrics) == sum(each.reward is None for each in played) > 0
    assert {each.policy for each in played} == {"start", "start+1", "start+2"}


def test_every_group_is_linked_with_its_task_its_episodes_and_its_update(tmp_path: Path) -> None:
    model = tiny_llama()
    run = trainer(tmp_path, model, WordGame(model, void_every=5), settings(steps=4))
    metrics = run.train()
    drawn, played = groups(run), iter(trajectories(run))
    for group in drawn:
        episodes = [next(played) for _ in range(settings().group_size)]
        rewards = [each.reward.total for each in episodes if each.reward]
        assert {each.task.id for each in episodes} == {group.task}
        assert (group.successes, group.trials) == (sum(rewards), len(rewards))
        assert {each.policy for each in episodes} == {f"start+{group.step - 1}" if group.step > 1 else "start"}
        assert group.update == (group.step if len(set(rewards)) == 2 else None)
        assert group.pattern == ("p" if group.task.startswith("t") else None)
    assert next(played, None) is None
    assert [sum(group.step == each.step for group in drawn) for each in metrics] == [each.groups for each in metrics]
    assert sum(group.refill for group in drawn) == sum(each.refill for each in metrics) > 0
    assert {group.use for group in drawn} >= {Use.targeted, Use.general}


def test_a_run_that_died_at_any_step_ends_in_the_same_bits(tmp_path: Path) -> None:
    model = tiny_llama()
    whole = trainer(tmp_path / "whole", model, WordGame(model), settings())
    expected, played = whole.train(), trajectories(whole)

    class Killed(BaseException):
        pass

    for moment in range(1, 8):
        resumed = tiny_llama()
        game, calls = WordGame(resumed), 0

        def mortal(
            assignments: Sequence[Assignment], *, policy: str, game: WordGame = game, moment: int = moment
        ) -> list[Played]:
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Killed
            return game(assignments, policy=policy)

        folder = tmp_path / f"killed-{moment}"
        with pytest.raises(Killed):
            trainer(folder, resumed, mortal, settings()).train()
        again = tiny_llama()
        rest = trainer(folder, again, WordGame(again), settings())
        assert rest.train() == expected
        assert torch.equal(weights(again), weights(model))
        assert trajectories(rest) == played
        assert groups(rest) == groups(whole)
        assert rest.curriculum.memory() == whole.curriculum.memory()


def test_two_runs_are_equal(tmp_path: Path) -> None:
    first, second = tiny_llama(), tiny_llama()
    one = trainer(tmp_path / "one", first, WordGame(first), settings(steps=2)).train()
    other = trainer(tmp_path / "other", second, WordGame(second), settings(steps=2)).train()
    assert one == other
    assert torch.equal(weights(first), weights(second))


def flawed(model: LlamaForCausalLM, success: bool | None) -> Play:
    """The game, but its outcome is always the same."""

    class Same(WordGame):
        def _episode(self, assignment: Assignment, policy: str) -> Played:
            self.limit = 99 if success else -1
            self.void_every = 1 if success is None else 0
            return super()._episode(assignment, policy)

    return Same(model)


@pytest.mark.parametrize(("outcome", "rate", "void"), [(True, 1.0, 0), (False, 0.0, 0), (None, None, 32)])
def test_without_information_nothing_moves(tmp_path: Path, outcome: bool | None, rate: float | None, void: int) -> None:
    model, log = tiny_llama(), Log()
    metrics = trainer(tmp_path, model, flawed(model, outcome), settings(steps=2), log).train()
    assert torch.equal(weights(model), weights(tiny_llama()))
    for each in metrics:
        assert (each.skipped, each.informative, each.success_rate) == (Skipped.no_information, 0, rate)
        assert (sum(each.void.values()), each.episodes, each.loss) == (void, 32, None)
    assert any("nothing learnt" in text for text in log.said)


def broken_logprobs(model: LlamaForCausalLM) -> Play:
    """The game, but the engine reports logprobs that are not numbers."""

    class Broken(WordGame):
        def _episode(self, assignment: Assignment, policy: str) -> Played:
            played = super()._episode(assignment, policy)
            logprobs = np.where(played.tokens.sampled, np.nan, 0.0).astype(np.float32)
            return Played(played.trajectory, (Tokens(played.tokens.ids, played.tokens.sampled, logprobs),))

    return Broken(model)


def test_a_loss_that_is_not_finite_skips_its_step_and_three_end_the_run(tmp_path: Path) -> None:
    model, log = tiny_llama(), Log()
    metrics = trainer(tmp_path, model, broken_logprobs(model), settings(steps=6), log).train()
    assert [each.skipped for each in metrics] == [Skipped.not_finite] * 3
    assert torch.equal(weights(model), weights(tiny_llama()))
    assert "training ends" in log.said[-1]
    ended = trainer(tmp_path, tiny_llama(), broken_logprobs(model), settings(steps=6), log)
    assert ended.train() == metrics


def test_a_policy_that_got_worse_is_not_the_result(tmp_path: Path) -> None:
    """The training reward is turned round, so training harms; the dev tasks see it and the start stays."""
    model = tiny_llama()
    game = WordGame(model)

    def sabotaged(assignments: Sequence[Assignment], *, policy: str) -> list[Played]:
        played = game(assignments, policy=policy)
        if assignments[0].task in DEV:
            return played
        return [Played(turned_round(each.trajectory), each.samples) for each in played]

    metrics = trainer(tmp_path, model, sabotaged, settings(steps=4)).train()
    assert torch.equal(weights(model), weights(tiny_llama()))
    assert not any(each.result for each in metrics)
    assert all(each.dev < each.dev_start for each in metrics if each.dev is not None and each.dev_start is not None)


def turned_round(trajectory: Trajectory) -> Trajectory:
    assert trajectory.reward is not None
    reward = trajectory.reward.model_copy(update={"db": 1.0 - trajectory.reward.db})
    return trajectory.model_copy(update={"reward": reward})


def test_metrics_survive_json(tmp_path: Path) -> None:
    model = tiny_llama()
    for each in trainer(tmp_path, model, WordGame(model), settings(steps=2)).train():
        assert StepMetrics.model_validate_json(each.model_dump_json()) == each
