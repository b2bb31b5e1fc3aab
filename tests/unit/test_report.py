"""The report stage on made-up artifacts: figures, page, and what happens to hostile or broken input."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sentinel.artifacts import read_json, read_jsonl, write_json, write_jsonl
from sentinel.errors import ArtifactError
from sentinel.evaluation.breakdown import breakdown
from sentinel.evaluation.charts import forest, nice_ticks, spread
from sentinel.evaluation.intervals import Interval
from sentinel.evaluation.page import cell, direction, percent, points, span
from sentinel.records import Contrast, Directive, Outcome, Pattern, PatternStatus, Review, Tally
from sentinel.spec.profile import ProfileSpec
from sentinel.stages import report
from sentinel.stages.context import Context
from sentinel.stages.progress import Progress
from tests.unit.evaluation_toys import CONDITIONS, SPEC, TASKS, trial, trials, write_experiment

HOSTILE = (
    '<script src="https://evil.example/x.js"></script><img src=x onerror=alert(1)> | `b`\n# heading {{ spec.seed }}'
)
VOID = {"meta", "link", "img", "br", "hr", "input", "col", "path", "line", "circle"}
"""Elements without an end tag in our page (those of SVG are closed in place)."""


def run(root: Path, inputs: dict[str, Path]) -> Path:
    output = root / "report"
    output.mkdir(parents=True)
    report.run(
        Context("toy-report", "report", 0, SPEC, inputs, output, root / "state", ProfileSpec(), Progress("report"))
    )
    return output


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    return run(root, write_experiment(root / "runs"))


@pytest.fixture(scope="module")
def metrics(output: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return loaded


class Page(HTMLParser):
    """Collects what a browser would fetch or run, and whether the tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "data", "action", "srcset"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    return page


def test_metrics_have_one_entry_per_iteration_with_intervals(metrics: dict[str, Any]) -> None:
    assert [entry["iteration"] for entry in metrics["iterations"]] == [0, 1, 2, 3]
    for entry in metrics["iterations"]:
        for k in (1, 2, 3, 4):
            figure = entry[f"pass_hat_{k}"]
            assert figure.keys() == {"value", "low", "high"}
            assert figure["low"] <= figure["value"] <= figure["high"]
        values = [entry[f"pass_hat_{k}"]["value"] for k in (1, 2, 3, 4)]
        assert values == sorted(values, reverse=True)
        assert sum(entry["voids_by_reason"].values()) == entry["voids"]


def test_metrics_compare_the_last_iteration_with_the_first(metrics: dict[str, Any]) -> None:
    first, last = metrics["iterations"][0], metrics["iterations"][-1]
    for k in (1, 2, 3, 4):
        delta = metrics["paired_delta"][f"pass_hat_{k}"]
        assert delta["low"] > 0
        gain = last[f"pass_hat_{k}"]["value"] - first[f"pass_hat_{k}"]["value"]
        assert delta["value"] == pytest.approx(gain, abs=0.02), "tasks scored on one side only make a small difference"
    assert metrics["pass_hat_1_gain"] == metrics["paired_delta"]["pass_hat_1"]["value"]


def test_scores_are_the_headline_in_one_row(output: Path, metrics: dict[str, Any]) -> None:
    scores = json.loads((output / "scores.json").read_text())
    last, delta = metrics["iterations"][-1], metrics["paired_delta"]["pass_hat_1"]
    assert scores == {
        "pass_hat_1_first": metrics["iterations"][0]["pass_hat_1"]["value"],
        "pass_hat_1_last": last["pass_hat_1"]["value"],
        "pass_hat_4_last": last["pass_hat_4"]["value"],
        **{f"pass_hat_1_gain_{end}": delta[end] for end in ("value", "low", "high")},
        "rollouts": metrics["rollouts"],
        "voids": metrics["voids"],
    }


def test_metrics_account_for_rollouts_candidates_and_patterns(metrics: dict[str, Any]) -> None:
    start, *rounds = metrics["iterations"]
    assert (start["rollouts"], start["patterns"], start["candidates"]["requested"]) == (0, [], 0)
    for entry in rounds:
        assert entry["rollouts_by_use"] == {"diagnosis": 232, "probing": 512, "training": 1536}
        assert entry["rollouts"] == 2280
        Tally.model_validate(entry["candidates"]).check()
        supports = [pattern["support"] for pattern in entry["patterns"]]
        assert supports == sorted(supports, reverse=True)
        assert min(supports) > 0
    assert metrics["rollouts"] == 3 * 2280
    assert metrics["floors"] == {"do_nothing": 0.0, "refuse_always": 2 / 15}


def test_the_failure_mix_is_told_by_party_and_by_kind(output: Path, metrics: dict[str, Any]) -> None:
    _, *rounds = metrics["iterations"]
    for entry in rounds:
        assert sum(entry["failures_by_party"].values()) == sum(entry["failures_by_kind"].values())
        assert entry["failures_by_party"]["user_simulator"] == 1
        kind = max(entry["failures_by_kind"], key=lambda name: entry["failures_by_kind"][name])
        assert kind.replace("_", " ") in (output / "report.md").read_text()
    rows = [line for line in (output / "report.md").read_text().splitlines() if line.startswith("| agent |")]
    assert rows == ["| agent | " + " | ".join(str(e["failures_by_party"]["agent"]) for e in rounds) + " |"]


def test_the_life_of_a_pattern_is_told(output: Path, metrics: dict[str, Any]) -> None:
    first = metrics["iterations"][1]["patterns"]
    (entry,) = [pattern for pattern in first if pattern["id"] == "pattern0"]
    assert entry["tasks_solved"] == {
        "diagnosis": {"episodes": 31, "successes": 8},
        "probing": {"episodes": 56, "successes": 17},
        "training": {"episodes": 96, "successes": 41},
    }
    told = "diagnosed 8/31, probed 17/56, trained 41/96"
    assert (output / "report.html").read_text().count(told) == 3
    assert f"new, 14 tasks ({told})" in (output / "report.md").read_text()


def test_a_known_pattern_is_told_as_measured_and_its_row_has_no_counts(tmp_path: Path) -> None:
    """Rare, not to be told and absorbed are three things, and none of them is a dash."""
    inputs = write_experiment(tmp_path / "runs")
    path = inputs["control_03"] / "patterns.jsonl"
    first, second, third, *_ = read_jsonl(inputs["control_01"] / "patterns.jsonl", Pattern)
    host = first.model_copy(update={"id": "host", "condition": {"family": "items"}, "related": (first.id,)})
    host = host.model_copy(update={"merged": ("pattern3",)})
    fewer = Contrast(failures=2, episodes=20, failures_elsewhere=0, episodes_elsewhere=9)
    blocked = fewer.model_copy(update={"failures": 0, "episodes": 4, "otherwise": 4})
    measured = [
        host,
        first.model_copy(update={"status": PatternStatus.absorbed, "related": ("host",), "contrast": fewer}),
        second.model_copy(update={"status": PatternStatus.rare, "contrast": fewer, "error": "The agent errs"}),
        third.model_copy(update={"status": PatternStatus.unclear, "contrast": blocked}),
    ]
    write_jsonl(path, measured)
    folder = run(tmp_path, inputs)
    text = (folder / "report.md").read_text()
    for told in (
        "2 of 20, absorbed: now where family = items",
        "2 of 20, rare",
        "0 of 4, unclear: 4 failed otherwise",
        "merged: now where family = items",
        f"{host.contrast.failures} of {host.contrast.episodes}, new: before where condition = ",
    ):
        assert f"| {told}" in text and f">{told}" in (folder / "report.html").read_text()
    assert f"| The agent errs ({second.id}) | " in text, "the row is named without the counts of its last measurement"
    patterns = json.loads((folder / "metrics.json").read_text())["iterations"][3]["patterns"]
    assert [pattern["id"] for pattern in patterns] == ["host"], "figures are of what a diagnosis found"


def test_what_a_language_model_did_to_the_patterns_is_told(tmp_path: Path) -> None:
    inputs = write_experiment(tmp_path / "runs")
    dropped = Review(model="Qwen/Qwen3", stands=False, reason="no theme holds", skipped=3, dropped={"uncited": 2})
    for number, review in ((1, dropped), (2, Review(model=HOSTILE, stands=True, explained=9))):
        path = inputs[f"control_{number:02d}"] / "directive.json"
        write_json(path, read_json(path, Directive).model_copy(update={"review": review}))
    named = inputs["control_03"] / "patterns.jsonl"
    found = [p.model_copy(update={"name": HOSTILE, "explanation": HOSTILE}) for p in read_jsonl(named, Pattern)]
    write_jsonl(named, found)
    folder = run(tmp_path, inputs)
    html, text = ((folder / name).read_text() for name in ("report.html", "report.md"))
    told = "explained 0 failures, 3 were left out for the budget; claims dropped: 2 uncited; no theme holds."
    assert f"Iteration 1: Qwen/Qwen3 {told}" in html and f"Iteration 1: Qwen/Qwen3 {told}" in text
    assert "explained 9 failures; its names and mergers stand." in html
    page = Page()
    page.feed(html)
    assert not page.handlers and "script" not in page.tags and "<img" not in text


def test_metrics_break_down_by_tool_and_knobs(metrics: dict[str, Any]) -> None:
    assert metrics["breakdown"].keys() == {"tool", "family", "skill", "condition"}
    assert metrics["breakdown"]["condition"].keys() == CONDITIONS.keys()
    assert "no write" in metrics["breakdown"]["tool"]
    assert metrics["breakdown"]["condition"]["refuse/return_pending"]["delta"]["low"] > 0


def test_the_environment_is_named(metrics: dict[str, Any]) -> None:
    for words in ("Synthetic", "120 held-out tasks × 4 trials", "atomic", "scripted user"):
        assert words in metrics["environment"]


def test_the_task_set_and_its_reward_are_named(output: Path, metrics: dict[str, Any]) -> None:
    assert metrics["task_set"] == TASKS.model_dump(mode="json")
    for page in ("report.html", "report.md"):
        assert TASKS.label in (output / page).read_text(encoding="utf-8")


def test_the_curve_has_a_row_per_iteration(output: Path, metrics: dict[str, Any]) -> None:
    rows = json.loads((output / "curve.json").read_text())
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert [row["pass_hat_1"] for row in rows] == [entry["pass_hat_1"]["value"] for entry in metrics["iterations"]]


def test_the_page_shows_the_headline_the_floors_and_the_caveats(output: Path, metrics: dict[str, Any]) -> None:
    delta = Interval(**metrics["paired_delta"]["pass_hat_1"])
    for name in ("report.html", "report.md"):
        text = (output / name).read_text()
        assert f"{points(delta.value)} points" in text
        assert span(delta, signed=True) in text
        for words in ("refuse always", "13.3%", "one training run (seed 7", "toy", "do not compare with published"):
            assert words in text


class Wide(HTMLParser):
    """Notes the tables and charts that could push a narrow screen wider: those that lie in nothing that scrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.above: list[str] = []
        self.seen = 0
        self.stuck: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = dict(attrs).get("class") or ""
        if tag == "table" or "curve" in classes.split():
            self.seen += 1
            self.stuck += [] if any("scroll" in outer.split() for outer in self.above) else [f"{tag}.{classes}"]
        if tag not in VOID:
            self.above.append(classes)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.above.pop()


def test_what_is_wide_scrolls_on_a_narrow_screen(output: Path) -> None:
    page = Wide()
    page.feed((output / "report.html").read_text(encoding="utf-8"))
    assert (page.stuck, page.seen) == ([], 10), "the curve, three legends and six tables"


def test_the_page_is_one_small_file_that_fetches_and_runs_nothing(output: Path) -> None:
    text = (output / "report.html").read_text()
    page = parse(text)
    assert page.open == []
    assert (page.references, page.handlers) == ([], [])
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    assert not re.search(r"https?:|@import|url\(", text)
    assert len(text.encode()) < 1_000_000
    assert "prefers-color-scheme: dark" in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = run(tmp_path, write_experiment(tmp_path / "runs", description=HOSTILE))
    page = parse((folder / "report.html").read_text())
    assert page.tags.isdisjoint({"script", "img"})
    assert page.handlers == []
    markdown = (folder / "report.md").read_text()
    assert "<script" not in markdown
    assert "{{ spec.seed }}" in markdown, "a template in foreign text is not rendered"
    rows = [line for line in markdown.splitlines() if "evil.example" in line]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows), "the table keeps its four columns"


def test_equal_input_gives_equal_bytes(output: Path, tmp_path: Path) -> None:
    again = run(tmp_path, write_experiment(tmp_path / "elsewhere"))
    names = {"report.html", "report.md", "metrics.json", "scores.json", "curve.json"}
    assert {path.name for path in again.iterdir()} == names
    for name in names:
        assert (again / name).read_bytes() == (output / name).read_bytes(), name


@pytest.mark.parametrize(
    ("artifact", "text", "where"),
    [
        ("00/evaluate/trials.jsonl", None, "trials.jsonl: missing"),
        ("00/evaluate/metrics.json", "{", "metrics.json: not a valid EvaluationMetrics"),
        ("02/control/patterns.jsonl", '{"id": 3}\n', "patterns.jsonl:1: not a valid Pattern"),
        ("02/propose/yield.json", '{"schema_version": 2, "requested": 1, "kept": 1}', "yield.json: not a valid Tally"),
        ("03/train/metrics.jsonl", '{"step": 0}\nnonsense\n', "metrics.jsonl:2: not JSON"),
        ("03/train/metrics.jsonl", "[]\n", "metrics.jsonl:1: expected a JSON object, found list"),
        ("01/rollout/trajectories.jsonl", None, "trajectories.jsonl: missing"),
        ("01/rollout/trajectories.jsonl", "{}\n", "trajectories.jsonl:1: not an episode"),
        ("02/train/trajectories.jsonl", '{"outcome": "won", "task": 5}\n', "trajectories.jsonl:1: not an episode"),
    ],
)
def test_a_missing_or_foreign_artifact_is_named(tmp_path: Path, artifact: str, text: str | None, where: str) -> None:
    inputs = write_experiment(tmp_path / "runs")
    path = tmp_path / "runs" / artifact
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ArtifactError) as caught:
        run(tmp_path, inputs)
    assert f"{path.parent}/{where}" in str(caught.value)
    assert list((tmp_path / "report").iterdir()) == []


def test_an_iteration_that_was_not_given_is_named(tmp_path: Path) -> None:
    inputs = write_experiment(tmp_path / "runs")
    del inputs["control_02"]
    with pytest.raises(ArtifactError, match="control_02"):
        run(tmp_path, inputs)


def test_empty_rounds_are_reported_too(tmp_path: Path) -> None:
    """No pattern, no failure, no candidate, no training step: still a report."""
    inputs = write_experiment(tmp_path / "runs")
    for number in (1, 2, 3):
        for empty in ("control/patterns.jsonl", "control/failures.jsonl", "train/metrics.jsonl"):
            (tmp_path / f"runs/{number:02d}/{empty}").write_text("")
        write_json(tmp_path / f"runs/{number:02d}/propose/yield.json", Tally(requested=0, kept=0))
    folder = run(tmp_path, inputs)
    assert "No pattern was found." in (folder / "report.md").read_text()
    assert "<h2>Training</h2>" not in (folder / "report.html").read_text()


def test_a_task_with_two_tools_counts_in_both_groups_and_one_without_in_no_write() -> None:
    conditions = {"two": "two/cancel_and_return", "refuse": "refuse/return_pending"}
    played = [trial(task, 0, Outcome.success, condition) for task, condition in conditions.items()]
    lost = [trial(task, 0, Outcome.failure, condition) for task, condition in conditions.items()]
    rows = {row.group: row for row in breakdown(played, lost)["tool"]}
    assert rows.keys() == {"cancel_pending_order", "return_delivered_order_items", "no write"}
    assert all(row.delta and row.delta.value == 1.0 for row in rows.values())


def test_a_group_that_is_all_void_has_no_row_and_voids_are_counted_elsewhere() -> None:
    played = [trial("a", 0, Outcome.void, "cancel/plain"), trial("b", 0, Outcome.void, "refuse/return_pending")]
    played += [trial("b", 1, Outcome.success, "refuse/return_pending")]
    (row,) = breakdown(played)["condition"]
    assert (row.group, row.tasks, row.voids, row.delta) == ("refuse/return_pending", 1, 1, None)


def test_trials_without_knobs_are_broken_down_by_tool_only() -> None:
    bare = [each.model_copy(update={"knobs": {}}) for each in trials(0.0)]
    tables = breakdown(bare)
    assert tables["tool"]
    assert (tables["condition"], tables["family"], tables["skill"]) == ([], [], [])


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.714), (-0.31, 0.96), (0.0, 0.0), (3.0, 3.0), (1e-5, 4e-5), (-7, 250)]
)
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}


def test_labels_are_moved_apart_in_their_order() -> None:
    assert spread([100.0, 101.0, 50.0], 15) == [100.0, 115.0, 50.0]


def test_a_forest_contains_zero_and_keeps_gaps() -> None:
    drawn = forest([Interval(0.5, 0.4, 0.6), None])
    assert 0.0 <= drawn.zero < 50.0
    assert drawn.whiskers[1] is None
    assert drawn.whiskers[0] is not None
    assert drawn.zero < drawn.whiskers[0].low < drawn.whiskers[0].at < drawn.whiskers[0].high <= 100.0


def test_figures_are_written_one_way() -> None:
    assert [percent(0.6644), percent(1.0), points(0.209), points(-0.031), points(-0.0001)] == [
        "66.4%",
        "100.0%",
        "+20.9",
        "−3.1",
        "0.0",
    ]
    assert span(Interval(0.5, 0.4567, 0.5)) == "[45.7, 50.0]"
    assert span(Interval(0.0, -0.1, 0.1), signed=True) == "[−10.0, +10.0]"
    assert [direction(Interval(0.1, low, high)) for low, high in ((0.01, 0.2), (-0.1, 0.2), (-0.3, -0.1))] == [
        "up",
        "flat",
        "down",
    ]
    assert cell("a|b\n<i>") == r"a\|b &lt;i&gt;"
