"""The code fingerprints: an edit reruns the stages whose code it is, and no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sentinel.fingerprint import closure, fingerprint, sources
from sentinel.plan import KINDS


@pytest.fixture
def package(tmp_path: Path, root: Path) -> Path:
    copy = tmp_path / "sentinel"
    shutil.copytree(root / "sentinel", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def reruns(package: Path, edited: str, added: str = "\n# edited\n") -> set[str]:
    before = {kind: fingerprint(kind, package) for kind in KINDS}
    with (package / edited).open("a") as file:
        file.write(added)
    return {kind for kind in KINDS if fingerprint(kind, package) != before[kind]}


def test_the_evaluation_reruns_evaluations_and_report(package: Path) -> None:
    assert reruns(package, "evaluation/passk.py") <= {"evaluate", "report"}
    assert reruns(package, "evaluation/report.py") == {"report"}


def test_the_solver_reruns_the_training(package: Path) -> None:
    assert reruns(package, "solver/loss.py") == {"train", "warmup"}


def test_the_contract_reruns_everything(package: Path) -> None:
    assert reruns(package, "records.py") == set(KINDS)


def test_the_harness_reruns_nothing(package: Path) -> None:
    for edited in ("cli.py", "plan.py", "runner/repro.py", "spec/models.py", "stages/context.py", "__init__.py"):
        assert reruns(package, edited) == set(), edited


def test_a_template_beside_the_code_counts(package: Path) -> None:
    template = next((package / "evaluation").rglob("*.j2")).relative_to(package)
    assert "report" in reruns(package, str(template), "more")


def test_line_endings_do_not_count(package: Path) -> None:
    before = fingerprint("train", package)
    file = package / "solver" / "loss.py"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert fingerprint("train", package) == before


def test_every_kind_has_a_module() -> None:
    for kind in KINDS:
        assert Path(f"stages/{kind}.py") in sources(kind)


def write_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "sentinel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "sentinel"


def test_imports_of_every_form_are_followed(tmp_path: Path) -> None:
    text = "import sentinel.a\nfrom sentinel import b\nfrom sentinel.c import name\ndef run():\n  from .d import x\n"
    files = {"stages/train.py": text, "c/__init__.py": "from . import inner"}
    files |= dict.fromkeys(("a.py", "b.py", "c/inner.py", "stages/d.py", "unused.py"), "")
    package = write_package(tmp_path, files)
    names = {"stages.train", "a", "b", "c", "c.inner", "stages.d"}
    assert set(closure("sentinel.stages.train", package)) == {f"sentinel.{name}" for name in names}


def test_imports_for_the_type_checker_are_not_followed(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import sentinel.a\nelse:\n  import sentinel.b\n"
    package = write_package(tmp_path, {"stages/train.py": text, "a.py": "", "b.py": ""})
    assert set(closure("sentinel.stages.train", package)) == {"sentinel.stages.train", "sentinel.b"}
