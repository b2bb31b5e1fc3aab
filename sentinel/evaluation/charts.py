"""Geometry of the report's charts: data in, coordinates out; the templates draw them as inline SVG and boxes.

    chart = learning_curve({1: intervals_by_iteration, 4: ...}, levels={"do nothing": 0.02})

Pure functions over numbers, without styling (that is CSS) and without a plotting library: the page must be one small
file that needs no script and no network, with the same bytes each time. Pixels are rounded to a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from sentinel.evaluation.intervals import Interval


class Tick(NamedTuple):
    """A labelled position on an axis."""

    at: float
    value: float


class Dot(NamedTuple):
    """A figure in the plane."""

    x: float
    y: float
    interval: Interval


class Series(NamedTuple):
    """One line, with the band of its intervals."""

    name: str
    dots: list[Dot]
    path: str
    """SVG path data through the dots."""
    band: str
    """SVG path data around the intervals."""
    label: float
    """Height of the label at its end, moved apart from those of other lines."""


class Frame(NamedTuple):
    """The plot area inside a drawing, in pixels from the upper left."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


class Chart(NamedTuple):
    """A line chart."""

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    levels: dict[str, Tick]
    """Horizontal lines to compare with."""


class Segment(NamedTuple):
    """A piece of a stacked bar, in percent of the longest bar."""

    name: str
    size: int
    length: float


class Whisker(NamedTuple):
    """A difference and its interval, in percent of the width of the forest."""

    at: float
    low: float
    high: float


class Forest(NamedTuple):
    """Differences on one common axis, in percent of its width."""

    zero: float
    ticks: list[Tick]
    whiskers: list[Whisker | None]


class Scale(NamedTuple):
    """A linear map of values onto drawing coordinates."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where the value lies, rounded for drawing."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose [low, high], about so many: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    rough = span / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move labels down, in their order from the top, until none is closer than `gap` to the one above."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=lambda index: (moved[index], index))
    for above, below in pairwise(order):
        moved[below] = round(max(moved[below], moved[above] + gap), 1)
    return moved


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x} {y}" for x, y in points)


def _line(name: str, values: Sequence[tuple[float, Interval]], x: Scale, y: Scale) -> Series:
    dots = [Dot(x.at(step), y.at(interval.value), interval) for step, interval in values]
    around = [(dot.x, y.at(dot.interval.high)) for dot in dots]
    around += [(dot.x, y.at(dot.interval.low)) for dot in reversed(dots)]
    return Series(name, dots, _path((dot.x, dot.y) for dot in dots), _path(around) + " Z", dots[-1].y)


def learning_curve(curves: Mapping[str, Sequence[Interval | None]], levels: Mapping[str, float]) -> Chart:
    """Pass^k with its intervals over the iterations; an iteration without a figure is left out of its line."""
    frame = Frame(width=720, height=330, left=44, right=600, top=14, bottom=292)
    steps = max((len(curve) for curve in curves.values()), default=1)
    x = Scale(0, max(1, steps - 1), frame.left + 14, frame.right)
    shown = {name: [(i, found) for i, found in enumerate(curve) if found] for name, curve in curves.items()}
    top = max([found.high for points in shown.values() for _, found in points] + [*levels.values(), 0.1])
    ticks = [tick for tick in nice_ticks(0.0, top) if tick <= 1.0]
    y = Scale(0.0, ticks[-1], frame.bottom, frame.top)
    series = [_line(name, points, x, y) for name, points in shown.items() if points]
    heights = spread([one.label for one in series] + [y.at(level) for level in levels.values()], 15)
    return Chart(
        frame,
        [Tick(x.at(step), step) for step in range(steps)],
        [Tick(y.at(tick), tick) for tick in ticks],
        [one._replace(label=height) for one, height in zip(series, heights, strict=False)],
        {
            name: Tick(y.at(level), height)
            for (name, level), height in zip(levels.items(), heights[len(series) :], strict=True)
        },
    )


def panel(values: Sequence[Sequence[float | None]]) -> Chart:
    """One curve of the training log over the steps of all iterations; x ticks mark where an iteration starts."""
    frame = Frame(width=300, height=132, left=46, right=292, top=10, bottom=108)
    flat = [value for iteration in values for value in iteration if value is not None]
    ticks = nice_ticks(min(flat), max(flat), 3)
    starts = [sum(len(before) for before in values[:index]) for index in range(len(values) + 1)]
    x = Scale(0, max(1, starts[-1] - 1), frame.left + 4, frame.right - 4)
    y = Scale(ticks[0], ticks[-1], frame.bottom, frame.top)
    curves = [
        [(start + i, Interval(value, value, value)) for i, value in enumerate(iteration) if value is not None]
        for start, iteration in zip(starts, values, strict=False)
    ]
    lines = [_line(str(number), curve, x, y) for number, curve in enumerate(curves, 1) if curve]
    x_ticks = [Tick(x.at(start), number) for number, start in enumerate(starts[:-1], 1)]
    return Chart(frame, x_ticks, [Tick(y.at(tick), tick) for tick in ticks], lines, {})


def forest(intervals: Sequence[Interval | None]) -> Forest:
    """Lay differences out on one axis that contains zero."""
    ends = [end for interval in intervals if interval for end in (interval.low, interval.high)]
    ticks = nice_ticks(min([*ends, -0.1]), max([*ends, 0.1]), 6)
    x = Scale(ticks[0], ticks[-1], 0.0, 100.0)
    whiskers = [Whisker(x.at(one.value), x.at(one.low), x.at(one.high)) if one else None for one in intervals]
    return Forest(x.at(0.0), [Tick(x.at(tick), tick) for tick in ticks], whiskers)


def stacks(bars: Sequence[Mapping[str, int]], names: Sequence[str]) -> list[list[Segment]]:
    """Stacked bars on one scale, their pieces in the order of `names`; the longest bar is 100 percent."""
    longest = max([sum(bar.values()) for bar in bars] + [1])
    return [
        [Segment(name, bar[name], round(100.0 * bar[name] / longest, 2)) for name in names if bar.get(name)]
        for bar in bars
    ]
