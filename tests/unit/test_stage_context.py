"""The harness of a stage: what it gets, what is removed before and after, and what its progress says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from sentinel.errors import ArtifactError, SentinelError, StageError
from sentinel.plan import plan
from sentinel.spec.load import load
from sentinel.spec.profile import ProfileSpec
from sentinel.stages.context import Context, execute, read_run, stage_context
from sentinel.stages.progress import Progress
from sentinel.stages.spec import write

RUN = "runs/bases/retail-cpu"
PLACE = ProfileSpec()


@pytest.fixture
def project(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose base has its spec.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    spec = tmp_path / "experiments" / "retail-cpu.yaml"
    spec.write_text((root / "experiments" / "retail-cpu.yaml").read_text())
    write(RUN, Path("experiments/retail-cpu.yaml"), load(spec).experiment.spec.iterations, Path())
    return tmp_path


def finish(context: Context, names: tuple[str, ...]) -> None:
    for name in names:
        (context.output / name).write_text("{}")


def seed_files() -> tuple[str, ...]:
    return ("world.json", "general.jsonl", "dev.jsonl", "evaluate.jsonl", "demonstrations.jsonl", "manifest.json")


def test_the_resolved_spec_loads_to_the_same_experiment(project: Path) -> None:
    experiment, values = read_run(RUN)
    assert experiment == load(project / "experiments" / "retail-cpu.yaml").experiment
    assert set(values["code"]) == {"seed", "warmup", "evaluate", "rollout", "control", "propose", "train", "report"}


def test_writing_the_spec_again_gives_the_same_bytes(project: Path) -> None:
    before = (project / RUN / "spec.yaml").read_bytes()
    experiment = load(project / "experiments" / "retail-cpu.yaml").experiment
    write(RUN, Path("experiments/retail-cpu.yaml"), experiment.spec.iterations, Path())
    assert (project / RUN / "spec.yaml").read_bytes() == before


def test_a_spec_compiled_for_other_iterations_is_refused(project: Path) -> None:
    with pytest.raises(StageError, match="compiled from another version"):
        write(RUN, Path("experiments/retail-cpu.yaml"), 99, Path())


def test_a_foreign_spec_file_is_named(project: Path) -> None:
    (project / RUN / "spec.yaml").write_text("spec: [1, 2")
    with pytest.raises(ArtifactError, match=r"runs/bases/retail-cpu/spec\.yaml: not a resolved spec"):
        read_run(RUN)


def test_a_stage_sees_its_sections_and_no_others(project: Path) -> None:
    with stage_context("seed", RUN, PLACE) as context:
        assert context.spec.seed_tasks.general > 0
        assert context.name == "retail-cpu-seed"
        with pytest.raises(AttributeError):
            _ = context.spec.trainer
        finish(context, seed_files())


def test_state_survives_a_failure_and_goes_with_success(project: Path) -> None:
    with pytest.raises(KeyError), stage_context("seed", RUN, PLACE) as context:
        (context.state / "journal").write_text("half")
        raise KeyError
    with stage_context("seed", RUN, PLACE) as context:
        assert (context.state / "journal").read_text() == "half"
        finish(context, seed_files())
    assert not context.state.exists()
    assert json.loads(Path(".sentinel/timings/retail-cpu-seed.json").read_text())["resumed"] is True


def test_state_of_other_params_is_not_seen(project: Path) -> None:
    with pytest.raises(KeyError), stage_context("seed", RUN, PLACE) as context:
        (context.state / "journal").write_text("half")
        raise KeyError
    spec = project / RUN / "spec.yaml"
    spec.write_text(spec.read_text().replace("general: 512", "general: 256"))
    with stage_context("seed", RUN, PLACE) as context:
        assert list(context.state.iterdir()) == []
        finish(context, seed_files())


def test_what_a_killed_attempt_left_is_removed(project: Path) -> None:
    tasks = project / RUN / "tasks"
    tasks.mkdir()
    for name in ("world.json", ".world.json.123.tmp"):
        (tasks / name).write_text("old")
    with stage_context("seed", RUN, PLACE) as context:
        assert list(context.output.iterdir()) == []
        finish(context, seed_files())


def test_a_stage_that_forgets_an_output_is_a_defect(project: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"without writing .*manifest\.json"),
        stage_context("seed", RUN, PLACE) as context,
    ):
        finish(context, seed_files()[:-1])


def test_one_process_per_stage(project: Path) -> None:
    with stage_context("seed", RUN, PLACE) as context:
        with pytest.raises(StageError, match="another process runs this stage"), stage_context("seed", RUN, PLACE):
            pass
        finish(context, seed_files())


def test_missing_inputs_are_named(project: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"tasks/world\.json: missing artifact"),
        stage_context("warmup", RUN, PLACE),
    ):
        pass


def test_an_unknown_kind_is_refused(project: Path) -> None:
    with pytest.raises(SentinelError, match="no stage 'os'"):
        execute("os", RUN, None, 0, None)


def test_the_context_follows_the_plan(project: Path) -> None:
    stage = plan(read_run(RUN)[0]).find("seed", RUN)
    with stage_context("seed", RUN, PLACE) as context:
        assert (context.output, context.kind, context.iteration) == (Path(stage.output), "seed", 0)
        finish(context, seed_files())


def test_progress_prints_the_first_and_the_last_line() -> None:
    text = io.StringIO()
    progress = Progress("train 02", text)
    progress.start(3, "steps")
    for reward in (0.1, 0.2, 0.41):
        progress.advance(reward=reward)
    lines = text.getvalue().splitlines()
    assert lines[0] == "[train 02] 0/3 steps"
    assert lines[-1].startswith("[train 02] 3/3 steps, reward 0.41, ")
    assert len(lines) == 2


@pytest.mark.parametrize(("seconds", "pace"), [(0.5, "6 steps/s"), (6.0, "2 s/step")])
def test_progress_tells_the_pace_in_the_unit_that_can_be_read(
    seconds: float, pace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((100.0, 100.0, 100.0 + seconds))
    monkeypatch.setattr("sentinel.stages.progress.time.monotonic", lambda: next(clock))
    progress = Progress("train 02", text := io.StringIO())
    progress.start(3, "steps")
    progress.advance(3)
    assert text.getvalue().splitlines()[-1] == f"[train 02] 3/3 steps, {pace}"
