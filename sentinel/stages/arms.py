"""Finished experiments, found by name or by file and compared: what `sentinel compare` and the end of a study show."""

from __future__ import annotations

from pathlib import Path

from sentinel.errors import SentinelError
from sentinel.evaluation.compare import Arm, Comparison, compare, read_arm
from sentinel.evaluation.study import StudyScores, score
from sentinel.plan import RUNS
from sentinel.spec.expand import arms
from sentinel.spec.load import load
from sentinel.spec.source import did_you_mean
from sentinel.stages.context import read_run


def compare_runs(first: str, second: str, runs: Path, iteration: int | None = None) -> Comparison:
    """Compare two experiments, each given by its name or its file, as they were run."""
    return compare(*(_arm(_name(given), runs, iteration) for given in (first, second)))


def study_scores(study: Path, runs: Path, iteration: int | None = None) -> StudyScores:
    """Compare all arms of a study, as they were run."""
    found = arms(study)
    if len(found) < 2:
        raise SentinelError(f"{study}: holds one arm, {next(iter(found))}: name another experiment to compare it with")
    names = {arm: [one.experiment.metadata.name for one in members] for arm, members in found.items()}
    return score({arm: [_arm(name, runs, iteration) for name in members] for arm, members in names.items()})


def _name(given: str) -> str:
    return load(given).experiment.metadata.name if given.endswith((".yaml", ".yml")) else given


def _arm(name: str, runs: Path, iteration: int | None) -> Arm:
    if not (runs / name).is_dir():
        there = sorted(folder.name for folder in runs.glob("*/") if folder.name != "bases")
        raise SentinelError(f"{name}: no experiment of this name was run here{did_you_mean(name, there)}")
    return read_arm(read_run(f"{RUNS}/{name}")[0], runs, iteration)
