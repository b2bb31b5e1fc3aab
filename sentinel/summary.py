"""The result of an experiment as tables for a terminal, from the report's `metrics.json` and the noted durations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinel.artifacts import require
from sentinel.errors import ArtifactError
from sentinel.plan import Plan

if TYPE_CHECKING:
    from rich.console import RenderableType

TIMINGS = Path(".sentinel/timings")
TOP = 3
"""Patterns shown per iteration."""


def seconds(plan: Plan, project: Path) -> dict[int, float]:
    """Iteration -> seconds its stages took when they last ran here; 0 stands for the base."""
    spent: dict[int, float] = {}
    for stage in plan.stages:
        path = project / TIMINGS / f"{stage.name}.json"
        if path.is_file():
            spent[stage.iteration] = spent.get(stage.iteration, 0.0) + json.loads(path.read_text())["seconds"]
    return spent


def tables(path: Path, spent: Mapping[int, float]) -> Iterator[RenderableType]:
    """Pass^k per iteration, what each cost and made, the patterns behind it, and the gain; 80 columns suffice."""
    try:
        document = json.loads(require(path).read_text(encoding="utf-8"))
        yield _figures(document)
        yield ""
        yield _costs(document["iterations"], spent)
        yield ""
        for row in document["iterations"]:
            yield from _patterns(row)
        yield from _gain(document)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(path, f"not a report's metrics: {error!r}", hint="delete it and run again") from None


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "rejected" else "right", no_wrap=name != "rejected")
    for row in rows:
        table.add_row(*row)
    return table


def _figures(document: Mapping[str, Any]) -> RenderableType:
    rows = document["iterations"]
    ks = sorted({name for row in rows for name in row if name.startswith("pass_hat_")}, key=_k)
    level = f"{100 * document.get('confidence', 0.95):g}%"
    cells = ([str(row["iteration"]), *(_interval(row[name]) for name in ks)] for row in rows)
    title = f"{document['name']}: Pass^k in percent, with {level} intervals over tasks"
    return _table(title, ("i", *(f"Pass^{_k(name)}" for name in ks)), cells)


def _costs(rows: Iterable[Mapping[str, Any]], spent: Mapping[int, float]) -> RenderableType:
    def cells(row: Mapping[str, Any]) -> Iterator[str]:
        made, number = row["candidates"], row["iteration"]
        dropped = {**made["rejected"], **{f"void ({why})": count for why, count in made["void"].items()}}
        by_count = sorted(dropped.items(), key=lambda item: -item[1])
        reasons = (f"{why.partition(':')[2] or why} {count}" for why, count in by_count)
        yield from (str(number), str(row["voids"]), f"{row['rollouts']:,}")
        yield f"{spent[number]:.0f}" if number in spent else "–"
        yield f"{made['kept']}/{made['requested']}" if made["requested"] else "–"
        yield ", ".join(reasons) or "–"

    columns = ("i", "void", "rollouts", "seconds", "kept", "rejected")
    return _table("Spent and made", columns, map(cells, rows))


def _k(name: str) -> int:
    return int(name.removeprefix("pass_hat_"))


def _interval(figure: Mapping[str, float] | None, sign: str = "") -> str:
    if not figure:
        return "–"
    value, low, high = (f"{100 * figure[end]:{sign}.1f}" for end in ("value", "low", "high"))
    return rf"{value} \[{low}, {high}]"


def _patterns(row: Mapping[str, Any]) -> Iterator[str]:
    from rich.markup import escape

    top, others = row["patterns"][:TOP], row["patterns"][TOP:]
    if top:
        yield f"Top patterns of iteration {row['iteration']}, by failures that show them:"
    for pattern in top:
        yield escape(f"  {pattern['support']:>3}  {pattern['description']} ({pattern['status']}{_orders(pattern)})")
    if tasks := sum(pattern["tasks_ordered"] for pattern in others):
        count = sum(pattern["tasks_ordered"] > 0 for pattern in others)
        yield f"       and {tasks} tasks ordered for {count} rarer patterns"


def _orders(pattern: Mapping[str, Any]) -> str:
    """What is done about a pattern, or why nothing is."""
    if pattern["tasks_ordered"]:
        return f", {pattern['tasks_ordered']} tasks ordered"
    return f", no tasks: {pattern['no_tasks']}" if pattern["no_tasks"] else ""


def _gain(document: Mapping[str, Any]) -> Iterator[str]:
    for name, figure in sorted(document["paired_delta"].items(), key=lambda item: _k(item[0])):
        if figure:
            gain = _interval(figure, "+")
            yield f"\nPass^{_k(name)}, last iteration minus iteration 0, paired by task: {gain} points"
            return
