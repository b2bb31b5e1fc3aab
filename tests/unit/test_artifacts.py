"""Artifacts that are missing, empty or cut short: the message names the file and what was expected there."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from sentinel.artifacts import read_jsonl, replacing, replacing_folder, write_jsonl
from sentinel.errors import ArtifactError
from sentinel.records import Failure, Task
from tests.unit.builders import made


def test_an_empty_file_is_no_list_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "tasks.jsonl"
    write_jsonl(path, [])
    with pytest.raises(ArtifactError, match=r"tasks\.jsonl: an empty file, expected one Task or more") as caught:
        read_jsonl(path, Task)
    assert "run again to rebuild it" in str(caught.value)


def test_no_failures_are_an_answer(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "failures.jsonl", [])
    assert read_jsonl(tmp_path / "failures.jsonl", Failure, may_be_empty=True) == []


def test_a_line_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    write_jsonl(path, [made("cancel/plain"), made("cancel/plain", 1)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"tasks\.jsonl:2: not a valid Task") as caught:
        read_jsonl(path, Task)
    assert "rebuild" not in str(caught.value), "a file of the user's own is not to be deleted"


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tasks\.jsonl: missing artifact\n.*sentinel run SPEC"):
        read_jsonl(tmp_path / "tasks.jsonl", Task)


def test_a_foreign_version_is_told_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"schema_version": 9, "something": "else"}\n')
    with pytest.raises(ArtifactError, match=r"not a valid Task: schema_version: found 9, this release reads 1$"):
        read_jsonl(path, Task)


def test_a_file_of_the_users_choice_is_not_to_be_deleted(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "tasks.jsonl"
    path.parent.mkdir()
    path.write_text("{}\n")
    with pytest.raises(ArtifactError, match="delete the artifact's folder"):
        read_jsonl(path, Task)
    with pytest.raises(ArtifactError, match=r"missing .*\n    choose another$"):
        read_jsonl(path, Task, hint="choose another")


@pytest.mark.parametrize("folder", [False, True])
def test_a_full_disk_is_told_with_the_path_and_the_artifact_before_it_stays(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write(text: str) -> None:
        with replacing_folder(path) if folder else replacing(path) as temporary:
            (temporary / "part" if folder else temporary).write_text(text)

    write("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ArtifactError, match=f"^{path}: cannot be written: File too large\n"):
            write("new" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path / "part" if folder else path).read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
