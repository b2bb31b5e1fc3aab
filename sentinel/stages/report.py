"""The report stage: every iteration's artifacts -> metrics.json, scores.json, curve.json, report.md and report.html."""

from __future__ import annotations

from sentinel.artifacts import write_json, write_text
from sentinel.evaluation.collect import collect
from sentinel.evaluation.page import html, markdown
from sentinel.evaluation.report import Report
from sentinel.stages.context import Context


def run(context: Context) -> None:
    """Compare the last policy with the first, and write the figures for machines and the page for people."""
    history = collect(context.inputs, context.spec.iterations)
    report = Report(context.name.removesuffix("-report"), context.spec, history)
    write_json(context.output / "metrics.json", report.metrics())
    write_json(context.output / "scores.json", report.scores())
    write_json(context.output / "curve.json", report.curve())
    write_text(context.output / "report.md", markdown(report))
    write_text(context.output / "report.html", html(report))
