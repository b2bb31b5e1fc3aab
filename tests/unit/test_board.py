"""TensorBoard sees the figures of the steps, where a profile asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sentinel.spec.profile import ProfileSpec
from sentinel.stages.board import board, figures
from tests.unit import test_guards
from tests.unit.builders import small, stage_context


def test_numbers_are_figures_and_what_is_unknown_is_left_out() -> None:
    found = figures(test_guards.step(2, loss=0.5, kl=None, void={"infrastructure": 3}))
    assert (found["loss"], found["void/infrastructure"]) == (0.5, 3.0)
    assert not {"kl", "step", "skipped", "alarms"} & found.keys()


def test_the_steps_are_written_to_a_folder_of_the_stage(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra: tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    context = stage_context(small(root), "train", tmp_path, 1)
    with board(replace(context, profile=ProfileSpec(tensorboard=str(tmp_path / "board")))) as note:
        for step, loss in ((1, 0.5), (2, 0.25)):
            note(test_guards.step(step, loss=loss))
    events = EventAccumulator(str(tmp_path / "board" / context.name)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert "loss" in events.Tags()["scalars"]


def test_without_a_folder_nothing_is_written(root: Path, tmp_path: Path) -> None:
    context = stage_context(small(root), "train", tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    with board(context) as note:
        note(test_guards.step(1))
    assert sorted(tmp_path.rglob("*")) == before
