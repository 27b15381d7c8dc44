"""Charts as SVG, drawn here: no script, no style attribute, colours by the classes of `charts.css`.

Bars and areas begin at zero. Every mark stands in a group whose `<title>` says its numbers. Texts are
escaped; sizes are in the units of the viewBox, whose width is `WIDTH`.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import date
from html import escape
from itertools import groupby

from msgspec import Struct

from asu_builder.http.pages import words as wording
from asu_builder.http.texts import gettext

WIDTH = 480
_LEFT, _RIGHT = 52, 24
_TOP, _PLOT, _BOTTOM = 34, 170, 26
_ROW = 36
_LETTER = 8.2
"""The widest on a phone, where letters are larger in proportion."""
_WIDEST_BAR = 44.0
_ROOMY = 8.0
"""Wider days have room for large dots."""
_BARS_SHARE = 0.78
"""Of a day's width; the rest is between the bars."""
_MOST_TICKS = 5
_MOST_DATES = 6
_SHORTENED = 10_000
_LABELLED_DAYS = 7
"""Up to this many days have room for totals above their bars."""


class Series(Struct, frozen=True):
    """Numbers for each day, stacked in its bar. `kind` names the colour: `chart-<kind>`."""

    name: str
    kind: str
    values: Sequence[int]


class Row(Struct, frozen=True):
    """A horizontal bar: its name, its length, and the text at its end.

    `mark` is a second, thin mark on the same scale; `title` says both in words.
    """

    label: str
    value: float
    text: str
    title: str
    kind: str = "requests"
    mark: float | None = None


def stacked_bars(label: str, days: Sequence[date], series: Sequence[Series]) -> str:
    """A bar for each day, its parts stacked; the last day is not over and is drawn paler."""
    totals = [sum(line.values[number] for line in series) for number in range(len(days))]
    largest = max(totals, default=0)
    # Ticks are a round number apart, and at most five reach the largest value.
    wanted = max(largest, 1) / _MOST_TICKS
    power = 10 ** math.floor(math.log10(wanted)) if wanted > 1 else 1
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted)
    top = step * max(1, math.ceil(largest / step))
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(days))
    width = min(slot * _BARS_SHARE, _WIDEST_BAR)
    parts = [
        _legend([(line.kind, line.name) for line in series]),
        _value_axis(top, step),
        _dates(days),
    ]
    for number, day in enumerate(days):
        values = [(line, line.values[number]) for line in series]
        words = ", ".join(f"{line.name}: {wording.number(value)}" for line, value in values)
        left = _LEFT + slot * (number + 0.5) - width / 2
        bars, below = "", 0
        for line, value in values:
            if value:
                upper, lower = _height_of(below + value, top), _height_of(below, top)
                bars += (
                    f'<rect class="chart-{line.kind}" x="{_n(left)}" y="{_n(upper)}" width="{_n(width)}"'
                    f' height="{_n(lower - upper)}"/>'
                )
                below += value
        if len(days) <= _LABELLED_DAYS and totals[number]:
            y = _height_of(totals[number], top) - 5
            bars += _text(left + width / 2, y, wording.number(totals[number]), "chart-value chart-middle")
        parts.append(_day_group(day, words, bars, number, slot, last=number == len(days) - 1))
    return _svg(label, _TOP + _PLOT + _BOTTOM, parts)


def shares(label: str, name: str, days: Sequence[date], percents: Sequence[float | None]) -> str:
    """Percentages from 0 to 100 as a line over an area; a day without any is a gap, not a zero."""
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(days))
    points = [
        None if percent is None else (_LEFT + slot * (number + 0.5), _height_of(percent, 100))
        for number, percent in enumerate(percents)
    ]
    parts = [_legend([("share", name)]), _value_axis(100, 25, unit=" %"), _dates(days)]
    for drawn, run in groupby(points, key=bool):
        line = [point for point in run if point]
        if drawn and len(line) > 1:
            path, ground = " ".join(f"{_n(x)},{_n(y)}" for x, y in line), _n(_TOP + _PLOT)
            outline = f"{_n(line[0][0])},{ground} {path} {_n(line[-1][0])},{ground}"
            parts.append(f'<polygon class="chart-area" points="{outline}"/>')
            parts.append(f'<polyline class="chart-line" points="{path}"/>')
    radius = 2.6 if slot > _ROOMY else 1.6
    for number, (day, percent, point) in enumerate(zip(days, percents, points, strict=True)):
        words, dot = gettext("no new builds") if percent is None else wording.percent(percent), ""
        if point is not None:
            dot = f'<circle class="chart-dot" cx="{_n(point[0])}" cy="{_n(point[1])}" r="{radius}"/>'
        parts.append(_day_group(day, words, dot, number, slot, last=number == len(days) - 1))
    return _svg(label, _TOP + _PLOT + _BOTTOM, parts)


def horizontal_bars(label: str, rows: Sequence[Row], legend: Sequence[tuple[str, str]] = ()) -> str:
    """A bar for each row under its name, from zero, with its number beside the name.

    `legend` has a kind and its meaning for each colour; the kind `mark` is the thin mark.
    """
    longest = max((max(row.value, row.mark or 0.0) for row in rows), default=0.0)
    scale = (WIDTH - 4) / longest if longest else 0.0
    head = _TOP if legend else 4
    parts = [_legend(legend, left=2)] if legend else []
    for number, row in enumerate(rows):
        y = head + number * _ROW
        bar = (
            f'<rect class="chart-{row.kind}" x="2" y="{y + 20}" width="{_n(row.value * scale)}" height="9"/>'
        )
        if row.mark is not None:
            x = _n(2 + row.mark * scale - 0.75)
            bar += f'<rect class="chart-mark" x="{x}" y="{y + 18}" width="1.5" height="13"/>'
        parts.append(
            f"<g><title>{escape(row.title)}</title>"
            f'<rect class="chart-hit" x="0" y="{y}" width="{WIDTH}" height="{_ROW}"/>'
            + _text(2, y + 14, row.label, "chart-name")
            + _text(WIDTH - 2, y + 14, row.text, "chart-value chart-end")
            + bar
            + "</g>"
        )
    return _svg(label, head + len(rows) * _ROW + 2, parts)


def _svg(label: str, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {_n(height)}"'
        f' xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _day_group(day: date, words: str, marks: str, number: int, slot: float, *, last: bool) -> str:
    when = wording.day(day)
    if last:
        when = gettext("%(day)s, today so far", day=when)
    hit = (
        f'<rect class="chart-hit" x="{_n(_LEFT + slot * number)}" y="{_TOP}" width="{_n(slot)}"'
        f' height="{_PLOT}"/>'
    )
    name = ' class="chart-today"' if last else ""
    return f"<g{name}><title>{escape(when)}: {escape(words)}</title>{hit}{marks}</g>"


def _legend(entries: Sequence[tuple[str, str]], left: float = _LEFT) -> str:
    """One line above the plot; an entry is as wide as its name."""
    parts, x = "", left
    for kind, name in entries:
        width, height, y = ("1.5", "14", "6") if kind == "mark" else ("10", "10", "8")
        parts += f'<rect class="chart-{kind}" x="{_n(x)}" y="{y}" width="{width}" height="{height}"/>'
        parts += _text(x + 15, 17, name, "chart-key")
        x += 15 + _LETTER * len(name) + 14
    return parts


def _value_axis(top: int, step: int, *, unit: str = "") -> str:
    """Its ticks are round, so that nothing is lost where they are shortened."""
    parts = ""
    for value in range(0, top + 1, step):
        y = _n(_height_of(value, top))
        name = "chart-grid" if value else "chart-base"
        parts += f'<line class="{name}" x1="{_LEFT}" y1="{y}" x2="{WIDTH - _RIGHT}" y2="{y}"/>'
        words = f"{wording.number(value)}{unit}"
        if value >= _SHORTENED:
            words = f"{wording.decimal(value / 1000, 0 if value % 1000 == 0 else 1)}k"
        parts += _text(_LEFT - 6, _height_of(value, top) + 4, words, "chart-tick chart-end")
    return parts


def _dates(days: Sequence[date]) -> str:
    """Some days by name, counted back from the last one, so that today always has its name."""
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(days))
    step = next(step for step in (1, 5, 15, 30) if len(days) / step <= _MOST_DATES + 1 or step == 30)
    return "".join(
        _text(
            _LEFT + slot * (number + 0.5),
            _TOP + _PLOT + 18,
            wording.day_of_month(days[number]),
            "chart-tick chart-middle",
        )
        for number in range(len(days) - 1, -1, -step)
    )


def _height_of(value: float, top: float) -> float:
    return _TOP + _PLOT * (1 - value / top)


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>'


def _n(number: float) -> str:
    """A coordinate, without digits too small to see."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
