"""Migrations: the registered steps are followed in order, and comments stay."""

from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import SpecError
from sentinel.spec.migrate import check_version, migrate
from sentinel.spec.source import Reader, read_source

OLD = """\
# the first experiment
apiVersion: sentinel.dev/v0
kind: Experiment
spec:
  rate: 1e-6    # as the paper
  name: 'quoted'
"""


def rename(document: dict[str, Any]) -> dict[str, Any]:
    document["spec"]["learning_rate"] = document["spec"].pop("rate")
    return document


def add(document: dict[str, Any]) -> dict[str, Any]:
    document["spec"]["learning_rate"] *= 10
    return document


STEPS = {("sentinel.dev/v0", "sentinel.dev/v0a"): rename, ("sentinel.dev/v0a", "sentinel.dev/v1alpha1"): add}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    return path


def test_an_old_file_goes_through_every_step_and_keeps_its_comments(old: Path) -> None:
    text = migrate(old, STEPS)
    assert text.startswith("# the first experiment\napiVersion: sentinel.dev/v1alpha1\nkind: Experiment\n")
    assert "name: 'quoted'" in text
    (old.parent / "new.yaml").write_text(text)
    new = Reader(read_source(old.parent / "new.yaml")).read().plain()
    assert new["spec"] == {"learning_rate": pytest.approx(1e-5), "name": "quoted"}
    assert old.read_text() == OLD


def test_a_current_file_stays_as_it_is(old: Path) -> None:
    old.write_text(OLD.replace("v0", "v1alpha1"))
    assert migrate(old, STEPS) == old.read_text()


def test_an_old_file_says_which_command_mends_it(old: Path) -> None:
    with pytest.raises(SpecError, match=rf"old.yaml:2:13: apiVersion: .*; `sentinel migrate --write {old}` brings"):
        check_version(Reader(read_source(old)).read(), STEPS)


def test_an_unknown_version_is_refused(old: Path) -> None:
    with pytest.raises(SpecError, match=r"found 'sentinel.dev/v0', expected 'sentinel.dev/v1alpha1'"):
        migrate(old)
