"""docs/cluster.md: every command in it is a make target that exists, or what the code itself says or does.

docs/training.md: its spec is one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sentinel.pipelines.server import talking
from sentinel.spec.load import load
from sentinel.spec.profile import ProfileSpec
from tests.kind import lane

DOC = Path("docs/cluster.md")
FIRST = ("make", "kubectl", "helm", "sentinel", "kfp")
COMMENT = re.compile(r"\s+#.*$|\s+\[not run\]$")


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def commands(first: str) -> list[str]:
    """The commands of the page that begin with a word."""
    lines = [
        COMMENT.sub("", line.strip()) for line in DOC.read_text(encoding="utf-8").splitlines() if line[:4] == "    "
    ]
    return [line for line in lines if line.split()[:1] == [first]]


def test_every_line_of_code_is_a_command_that_is_looked_at_here() -> None:
    lines = [
        line.strip() for line in DOC.read_text(encoding="utf-8").splitlines() if re.match(r"(    |       )\S", line)
    ]
    unknown = [line for line in lines if line.split()[0] not in (*FIRST, "trainer:")]
    assert len(lines) > 20 and unknown == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(commands("make")) >= 10
    assert [line for line in commands("make") if line.split()[1] not in targets] == []


def test_kubeflow_is_installed_as_the_kind_lane_does() -> None:
    applied = [line for line in commands("kubectl") if " apply " in line]
    parts = ("cluster-scoped-resources", "env/platform-agnostic")
    assert applied == [f'kubectl apply -k "{lane.MANIFESTS}{part}?ref={lane.KFP}"' for part in parts]
    source = Path(lane.__file__).read_text(encoding="utf-8")
    (wait,) = [line for line in commands("kubectl") if " wait " in line]
    assert all(f'"{word}"' in source for word in wait.split()[2:])


def test_the_secret_is_the_one_of_chart_and_profile() -> None:
    (line,) = [line for line in commands("kubectl") if " create secret " in line]
    values = YAML(typ="safe", pure=True).load(Path("charts/sentinel/values.yaml"))["s3"]
    cluster = YAML(typ="safe", pure=True).load(Path("experiments/profiles/gpu.yaml"))["spec"]["cluster"]
    (secret,) = cluster["secrets"]
    fields = [f"--from-literal={values[key]}=…" for key in ("accessKeyField", "secretKeyField")]
    assert line.split()[4:] == [values["existingSecret"], "-n", cluster["namespace"], *fields]
    assert secret["name"] == values["existingSecret"]


def test_the_port_is_forwarded_as_the_error_message_says() -> None:
    (line,) = [line for line in commands("kubectl") if "port-forward" in line]
    assert line in Path(sys.modules[talking.__module__].__file__ or "").read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", ["sentinel", "kfp"])
def test_commands_of_ours_name_files_and_options_that_exist(tool: str) -> None:
    found = commands(tool)
    assert len(found) >= 2
    for line in found:
        words = line.split()
        options = {word for word in words if word.startswith("--")}
        verb = words[1] if tool == "sentinel" else "submit"
        told = subprocess.run([sys.executable, "-m", "sentinel.cli", verb, "--help"], capture_output=True, text=True)
        assert told.returncode == 0 and all(option in told.stdout for option in options), line
        assert [word for word in words if word.endswith(".yaml") and not Path(word).is_file()] == []
        if "--profile" in words:
            assert Path(f"experiments/profiles/{words[words.index('--profile') + 1]}.yaml").is_file()


def test_helm_installs_what_is_there() -> None:
    install, check = commands("helm")
    words = install.split()
    assert words[:5] == ["helm", "upgrade", "--install", "sentinel", "charts/sentinel"]
    assert Path(words[words.index("-f") + 1]).is_file() and check.split()[:3] == ["helm", "test", "sentinel"]


def test_the_launcher_of_the_page_is_one() -> None:
    (line,) = re.findall(r"^    trainer: (.*)$", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    text = f'{{trainer: {line}, cluster: {{bucket: {{url: "s3://b"}}, state: {{claim: s}}}}}}'
    place = ProfileSpec.model_validate(YAML(typ="safe", pure=True).load(text))
    assert place.launches is not None


def test_the_spec_of_a_policy_of_your_own_is_one(tmp_path: Path) -> None:
    text = Path("docs/training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^    apiVersion: .*\n(?:    .*\n)+", text, re.MULTILINE)
    shutil.copytree("experiments", tmp_path / "experiments")
    (file := tmp_path / "experiments/mine.yaml").write_text(textwrap.dedent(block), encoding="utf-8")
    found = load(file).experiment
    assert (found.metadata.name, found.spec.policy.type, found.spec.trainer.steps) == ("mine", "pretrained", 24)
    assert all(f"runs/{found.metadata.name}/{end}" in text for end in ("01/train/policy/", "report/report.html"))
