"""What a killed DVC leaves behind is mended; what a living one holds is not touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.runner.recovery import discard_broken, release_dead


@pytest.fixture
def rwlock(tmp_path: Path) -> Path:
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    return path


def hold(path: Path, pid: int) -> None:
    holder = {"pid": pid, "cmd": "dvc repro"}
    path.write_text(json.dumps({"write": {"runs/a": holder}, "read": {"runs/b": [holder]}}))


def test_a_dead_holder_is_released(tmp_path: Path, rwlock: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    hold(rwlock, process.pid)
    release_dead(tmp_path)
    assert json.loads(rwlock.read_text()) == {}


def test_a_foreign_process_with_the_same_id_is_no_holder(tmp_path: Path, rwlock: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        hold(rwlock, sleeper.pid)
        release_dead(tmp_path)
        assert json.loads(rwlock.read_text()) == {}
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_living_dvc_keeps_its_lock(tmp_path: Path, rwlock: Path) -> None:
    program = "import time; print('ready', flush=True); time.sleep(60)"
    dvc = subprocess.Popen([sys.executable, "-c", program, "dvc"], stdout=subprocess.PIPE)
    assert dvc.stdout is not None
    dvc.stdout.readline()
    try:
        hold(rwlock, dvc.pid)
        before = rwlock.read_bytes()
        release_dead(tmp_path)
        assert rwlock.read_bytes() == before
    finally:
        dvc.kill()
        dvc.communicate()


def test_a_broken_rwlock_is_removed(tmp_path: Path, rwlock: Path) -> None:
    rwlock.write_text('{"wri')
    release_dead(tmp_path)
    assert not rwlock.exists()


def test_nothing_to_release(tmp_path: Path) -> None:
    release_dead(tmp_path)
    assert os.listdir(tmp_path) == []


WHOLE = """\
schema: '2.0'
stages:
  a:
    cmd: x
    outs:
    - path: runs/a
      md5: 7550397bc5a71acced6861978226c0ea
      size: 1
"""


@pytest.mark.parametrize(
    "text", ["", "schema: '2.0'\nstages:\n  a:\n    cm", WHOLE[:10], WHOLE + "  b:\n    outs: []\n"]
)
def test_a_lock_cut_short_is_discarded(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(text)
    assert discard_broken(lock)
    assert not lock.exists()


def test_a_whole_lock_stays(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(WHOLE)
    assert not discard_broken(lock)
    assert lock.read_text() == WHOLE
    assert not discard_broken(tmp_path / "none.lock")
