"""The command line: exit codes, what goes to which stream, what stays unwritten, and how fast it answers."""

import json
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sentinel.cli import main
from sentinel.errors import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
RETAIL_CPU = "experiments/retail-cpu.yaml"


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository as the working folder."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """An experiment with two faults."""
    path = tmp_path / "bad.yaml"
    text = Path(RETAIL_CPU).read_text(encoding="utf-8")
    path.write_text(text.replace("iterations: 3", "iterations: 0").replace("group_size", "groupsize"), encoding="utf-8")
    return path


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_valid_files_are_said_to_be_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("validate", RETAIL_CPU, "experiments/profiles/local.yaml") == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{RETAIL_CPU}: ok\nexperiments/profiles/local.yaml: ok\n", "")


@pytest.mark.parametrize("verb", ["render", "plan", "run"])
def test_a_bad_spec_ends_with_2_and_one_message_per_fault(
    verb: str, bad: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad.parent)
    assert exit_code(verb, bad.name) == 2
    out, err = capsys.readouterr()
    assert out == ""
    heads = [line for line in err.splitlines() if line.startswith("bad.yaml:")]
    assert [head.split(": ")[1] for head in heads] == ["spec.iterations", "spec.trainer.groupsize"]
    assert heads[1].endswith("unknown key; did you mean 'group_size'?")
    assert list(bad.parent.iterdir()) == [bad], "nothing is written"


def test_what_a_verb_is_asked_for_goes_to_stdout(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("validate", str(bad)) == 2
    out, err = capsys.readouterr()
    assert (out.count(f"{bad}:"), err) == (2, "")
    assert exit_code("plan", RETAIL_CPU) == 0
    out, err = capsys.readouterr()
    assert "retail-cpu-train-03" in out and "21 stages" in out and err == ""


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert re.fullmatch(r"sentinel \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_compile_where_there_is_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("compile") == 2
    assert "no experiments here: expected experiments/*.yaml in " in capsys.readouterr().err


def test_validate_reports_every_file_and_gives_one_json_document(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("validate", "--json", str(bad), RETAIL_CPU, "nowhere.yaml") == 2
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["valid"] is False
    assert {name: len(problems) for name, problems in report["files"].items()} == {
        str(bad): 2,
        RETAIL_CPU: 0,
        "nowhere.yaml": 1,
    }
    first = report["files"][str(bad)][0]
    assert first.keys() == {"file", "line", "column", "path", "message"}
    assert (first["file"], first["path"]) == (str(bad), "spec.iterations")
    assert bad.read_text(encoding="utf-8").splitlines()[first["line"] - 1][first["column"] - 1 :].startswith("0")
    nowhere = {"file": "nowhere.yaml", "line": None, "column": None, "path": "", "message": "no such file"}
    assert report["files"]["nowhere.yaml"] == [nowhere]
    assert "nowhere.yaml: no such file" in err, "the same for people"


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from sentinel.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("dvc", "dvc", ["run", RETAIL_CPU]),
        ("tau2", "env", ["check-env", "experiments/retail.yaml"]),
        ("torch", "train", ["stage", "warmup", "--run", "runs/bases/retail-cpu"]),
        ("scipy", "evaluation", ["stage", "report", "--run", "runs/retail-cpu"]),
    ],
)
def test_a_missing_extra_is_named(module: str, extra: str, arguments: list[str], tmp_path: Path) -> None:
    shutil.copytree("experiments", tmp_path / "experiments")
    command = [sys.executable, "-c", WITHOUT, module, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"this needs '{module}', which is not installed: it comes with the extra '{extra}'")
    assert f"-e '.[{extra}]'" in done.stderr and "Traceback" not in done.stderr


def test_every_extra_that_a_message_names_exists() -> None:
    declared = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(declared)
    for module, extra in EXTRAS.items():
        assert any(module in re.split(r"[^\w]", requirement) for requirement in declared[extra]), (module, extra)


def test_render_prints_a_spec_or_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("render", "experiments/retail-cpu-general.yaml") == 0
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(capsys.readouterr().out, encoding="utf-8")
    assert exit_code("render", "--json", "experiments/retail-cpu-general.yaml") == 0
    one = json.loads(capsys.readouterr().out)
    assert exit_code("render", "--json", str(rendered)) == 0
    other = json.loads(capsys.readouterr().out)
    assert (one["resolved"], one["hash"]) == (other["resolved"], other["hash"])
    assert one["sources"] == ["experiments/retail-cpu-general.yaml", RETAIL_CPU]
    assert one["origins"]["spec.seed"].startswith(f"{RETAIL_CPU}:")


def test_schema_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("schema", "profile") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "SENTINEL profile"
    assert exit_code("schema", "--write", str(tmp_path)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment.json", "profile.json", "study.json"]
    assert exit_code("schema", "pipeline") == 2


def test_migrate_leaves_a_current_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(RETAIL_CPU).read_bytes()
    assert exit_code("migrate", RETAIL_CPU) == 0
    assert capsys.readouterr().out.encode() == before
    assert exit_code("migrate", "--write", RETAIL_CPU) == 0
    assert Path(RETAIL_CPU).read_bytes() == before
    assert capsys.readouterr().err == f"{RETAIL_CPU}: already current\n"


@pytest.mark.parametrize("arguments", [["validate"], ["validat", RETAIL_CPU], ["render", "--jsn", RETAIL_CPU]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    assert "Usage: sentinel" in capsys.readouterr().err


HEAVY = """
import sys
from sentinel.cli import main
try:
    main(["--help"])
except SystemExit as end:
    loaded = {name.partition(".")[0] for name in sys.modules}
    print("HEAVY", sorted(loaded & {"pydantic", "ruamel", "numpy", "torch", "dvc", "kfp", "transformers", "tau2"}))
    raise
"""


def test_help_lists_the_verbs_and_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    verbs = ("validate", "render", "plan", "compile", "run", "compare", "stage", "check-env", "schema", "migrate")
    assert [verb for verb in verbs if f" {verb} " not in done.stdout] == []


def test_help_answers_in_half_a_second() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "sentinel.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_an_experiment_goes_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("plan", "retail-cpu") == 0
    by_name = capsys.readouterr().out
    assert exit_code("plan", RETAIL_CPU) == 0
    assert by_name == capsys.readouterr().out
    assert exit_code("plan", "retail-gpu") == 2
    assert "retail-gpu: no such file" in capsys.readouterr().err


def test_validate_notes_what_cannot_be_run_from_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(Path(RETAIL_CPU).read_bytes())
    assert exit_code("validate", str(copy)) == 0
    found = capsys.readouterr()
    assert found.out == f"{copy}: ok\n"
    assert found.err.startswith(f"note: {copy} lies outside of the project")
