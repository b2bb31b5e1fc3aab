"""DVC's output turned into what a person follows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sentinel.runner.narrator import Narrator
from sentinel.runner.repro import _failure

REPRO = """\
Stage 'retail-cpu-base' didn't change, skipping
Stage 'experiments/arm/dvc.yaml:arm-spec' is cached - skipping run, checking out outputs
Running stage 'experiments/arm/dvc.yaml:arm-train-01':
> sentinel stage train --run runs/arm/01
[train 01] 3/12 steps, reward 0.41
WARNING: 'runs/arm/01/propose/rejected.jsonl' is empty.
Generating lock file 'experiments/arm/dvc.lock'
Updating lock file 'experiments/arm/dvc.lock'

Use `dvc push` to send your updates to remote storage.
"""


def told(text: str) -> tuple[Narrator, list[str]]:
    file = io.StringIO()
    narrator = Narrator(Console(file=file, width=200), 4)
    for line in text.splitlines():
        narrator.hear(line)
    return narrator, file.getvalue().splitlines()


def test_what_ran_what_was_restored_and_nothing_else() -> None:
    narrator, lines = told(REPRO)
    assert lines == [
        " 2/4 arm-spec: restored from the cache",
        " 3/4 arm-train-01",
        "[train 01] 3/12 steps, reward 0.41",
    ]
    assert narrator.outcome() == "1 ran, 1 came from the cache, 1 were up to date of 4 stages"
    assert narrator.current == "arm-train-01"


def test_nothing_had_to_run() -> None:
    narrator, lines = told("Stage 'a' didn't change, skipping\nData and pipelines are up to date.\n")
    assert lines == []
    assert narrator.outcome() == "nothing had to run: all 4 stages are up to date"


def test_the_holder_of_the_lock_is_named() -> None:
    narrator, _ = told(
        "ERROR: failed to reproduce 'a': 'runs/a' is busy, it is being blocked by:\n  (PID 25532): dvc repro\n"
    )
    assert narrator.busy == "dvc repro (PID 25532)"


def test_the_code_of_a_failed_stage_is_kept() -> None:
    narrator, lines = told("ERROR: failed to reproduce 'a': failed to run: sentinel stage a --run r, exited with 2\n")
    assert (narrator.code, lines) == (2, [])
    assert _failure(1, narrator).exit_code == 2
    narrator.code = 1
    assert _failure(1, narrator).exit_code == 1


def test_a_stage_that_complains_is_heard() -> None:
    assert told("runs/x: missing artifact\n")[1] == ["runs/x: missing artifact"]


@pytest.mark.parametrize(
    ("code", "words", "exit_code"),
    [
        (2, "its message above says what to mend. Then run the same command again.", 2),
        (1, "its message stands above. Run the same command again", 1),
        (-9, "it was ended by SIGKILL; for want of memory, perhaps. Run the same command again", 1),
        (143, "it was ended by SIGTERM. Run the same command again", 1),
    ],
)
def test_a_failed_stage_is_told_with_what_to_do(code: int, words: str, exit_code: int) -> None:
    failed = f"ERROR: failed to reproduce 'small-seed': failed to run: sentinel stage seed --run r, exited with {code}"
    narrator, _ = told(f"Running stage 'small-seed':\n{failed}\n")
    error = _failure(1, narrator)
    assert words in str(error) and "stage small-seed failed" in str(error)
    assert error.exit_code == exit_code
