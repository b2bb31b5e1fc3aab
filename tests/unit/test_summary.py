"""The tables at the end of `sentinel run`, from the report's own metrics."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sentinel import summary
from sentinel.errors import ArtifactError
from sentinel.plan import plan
from sentinel.spec.load import load


def row(number: int, value: float) -> dict[str, Any]:
    interval = {"value": value, "low": value - 0.05, "high": value + 0.05}
    made = {
        "requested": 128,
        "kept": 90,
        "rejected": {"always_solved": 31, "duplicate": 4},
        "void": {"infrastructure": 3},
    }
    pattern = {
        "description": "asks for no [order]",
        "status": "new",
        "support": 41,
        "tasks_ordered": 12,
        "no_tasks": "",
    }
    hopeless = {**pattern, "description": "never", "support": 30, "tasks_ordered": 0, "no_tasks": "why not"}
    rare = [{**pattern, "description": f"rare {n}", "support": 1, "tasks_ordered": n} for n in (0, 0, 4, 5)]
    none = {"requested": 0, "kept": 0, "rejected": {}, "void": {}}
    return {
        "iteration": number, "pass_hat_1": interval, "pass_hat_4": interval, "voids": number, "rollouts": 2512 * number,
        "candidates": made if number else none, "patterns": [pattern, hopeless, *rare] if number else [],
    }  # fmt: skip


def shown(tmp_path: Path, document: dict[str, Any]) -> str:
    (tmp_path / "metrics.json").write_text(json.dumps(document))
    console = Console(width=80, file=io.StringIO())
    for part in summary.tables(tmp_path / "metrics.json", {1: 93.4}):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def document() -> dict[str, Any]:
    delta = {"pass_hat_1": {"value": 0.21, "low": 0.15, "high": 0.27}}
    return {"name": "retail-cpu", "confidence": 0.95, "iterations": [row(0, 0.45), row(1, 0.66)], "paired_delta": delta}


def test_everything_a_run_owes_its_reader_is_there(tmp_path: Path) -> None:
    text = shown(tmp_path, document())
    text = " ".join(text.split())
    for expected in ("45.0 [40.0, 50.0]", "66.0 [61.0, 71.0]", "Pass^4", "2,512", "93", "90/128", "always_solved 31"):
        assert expected in text
    assert "41 asks for no [order] (new, 12 tasks ordered)" in text
    assert "+21.0 [+15.0, +27.0] points" in text
    assert "30 never (new, no tasks: why not)" in text
    assert "and 9 tasks ordered for 2 rarer patterns" in text
    assert "…" not in text, "nothing is cut off at 80 columns"


def test_where_nothing_is_targeted_no_reason_is_owed(tmp_path: Path) -> None:
    untargeted = document()
    for pattern in untargeted["iterations"][1]["patterns"]:
        pattern |= {"tasks_ordered": 0, "no_tasks": ""}
    text = shown(tmp_path, untargeted)
    assert "30  never (new)" in text and "no tasks" not in text


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"metrics\.json: not a report's metrics"):
        shown(tmp_path, {"name": "x"})


def test_seconds_are_added_up_per_iteration(tmp_path: Path, root: Path) -> None:
    planned = plan(load(root / "experiments" / "retail-cpu.yaml").experiment)
    folder = tmp_path / summary.TIMINGS
    folder.mkdir(parents=True)
    for name in ("retail-cpu-train-01", "retail-cpu-evaluate-01", "retail-cpu-seed", "unrelated"):
        (folder / f"{name}.json").write_text('{"seconds": 2.5}')
    assert summary.seconds(planned, tmp_path) == {0: 2.5, 1: 5.0}
