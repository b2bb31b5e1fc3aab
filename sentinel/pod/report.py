"""What Kubeflow's UI shows of a run: the report's page, its tables, and one set of figures with fixed names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentinel.artifacts import read_json
from sentinel.pod.baton import Baton
from sentinel.pod.bus import Bus
from sentinel.pod.main import Artifact, perform, planned, reporting, working_folder

ABSENT = "not measured"
K = 4
"""Figures stand for Pass^1 to Pass^K, measured or not: the compare page lines up equal names."""


def report(
    run: str, job: str, evaluated: Artifact, output: Artifact, metrics: Artifact, page: Artifact, text: Artifact
) -> None:
    """Run the stage `report`, and show its files."""
    with reporting():
        baton = read_json(Path(evaluated.path), Baton)
        with working_folder(baton) as folder:
            stage = planned(baton, folder).find("report", run)
            perform(stage, baton, Bus(folder, job), folder, output)
            written = folder / stage.output
            shutil.copyfile(written / "report.html", page.path)
            shutil.copyfile(written / "report.md", text.path)
            metrics.metadata.update(summary(json.loads((written / "metrics.json").read_text(encoding="utf-8"))))


def summary(document: Mapping[str, Any]) -> dict[str, float | str]:
    """The figures of a report under names that are the same for every spec; what was not measured says so."""
    rows, delta = document["iterations"], document["paired_delta"]
    figures: dict[str, float | str | None] = {}
    for k in range(1, K + 1):
        name = f"pass_hat_{k}"
        figures[f"{name}_first"] = _value(rows[0].get(name))
        figures[f"{name}_last"] = _value(rows[-1].get(name))
        figures[f"{name}_gain"] = _value(delta.get(name))
    gain = delta.get("pass_hat_1") or {}
    figures |= {"pass_hat_1_gain_low": gain.get("low"), "pass_hat_1_gain_high": gain.get("high")}
    figures |= {"iterations": len(rows) - 1, "rollouts": document["rollouts"], "voids": document["voids"]}
    return {name: ABSENT if value is None else value for name, value in figures.items()}


def _value(figure: Mapping[str, float] | None) -> float | None:
    return figure["value"] if figure else None
