"""Charts are sound XML, stay within their frame, and say nothing that was not meant."""

import re
import xml.etree.ElementTree as ET
from datetime import date, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from asu_builder.http.pages import charts
from asu_builder.http.pages.charts import WIDTH, Row, Series, horizontal_bars, shares, stacked_bars

_SVG = "{http://www.w3.org/2000/svg}"
CSS = (Path(charts.__file__).parents[1] / "static" / "charts.css").read_text()
counts = st.integers(0, 10**7)
words = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=30
)


def days(number: int) -> list[date]:
    return [date(2026, 1, 1) + timedelta(days=day) for day in range(number)]


def sound(svg: str) -> ET.Element:
    """Parses a chart and looks whether it keeps what all charts promise."""
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    _, _, width, height = map(float, str(root.get("viewBox")).split())
    assert width == WIDTH
    for mark in root.iter():
        assert not {"style", "onload", "href", "id"} & set(mark.attrib)
        xs = [float(mark.get(name, 0)) for name in ("x", "cx", "x1", "x2")]
        ys = [float(mark.get(name, 0)) for name in ("y", "cy", "y1", "y2")]
        xs.append(float(mark.get("x", 0)) + float(mark.get("width", 0) if mark is not root else 0))
        ys.append(float(mark.get("y", 0)) + float(mark.get("height", 0) if mark is not root else 0))
        for point in str(mark.get("points", "")).split():
            xs.append(float(point.split(",")[0]))
            ys.append(float(point.split(",")[1]))
        assert min(xs) >= 0 and max(xs) <= width + 0.02, ET.tostring(mark)
        assert min(ys) >= 0 and max(ys) <= height + 0.02, ET.tostring(mark)
    for group in root.iter(f"{_SVG}g"):
        assert group[0].tag == f"{_SVG}title" and group[0].text
    for name in re.findall(r'class="([^"]*)"', svg):
        assert all(re.search(rf"\.{part}\b", CSS) for part in name.split()), name
    return root


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from((1, 7, 30, 90)),
    st.randoms(use_true_random=False),
    st.booleans(),
    words.map(lambda name: name[:10]),
)
def test_stacked_bars_are_as_high_as_their_numbers(
    number: int, random: object, none: bool, name: str
) -> None:
    pick = getattr(random, "randrange")  # noqa: B009 - hypothesis gives it no type
    values = [[0 if none else pick(10 ** pick(1, 8)) for _ in range(number)] for _ in range(3)]
    series = [
        Series(name, kind, line) for kind, line in zip(("built", "cached", "failed"), values, strict=True)
    ]
    root = sound(stacked_bars("Builds", days(number), series))
    groups = list(root.iter(f"{_SVG}g"))
    assert len(groups) == number
    heights: list[tuple[float, int]] = []
    for day, group in enumerate(groups):
        bars = [bar for bar in group.findall(f"{_SVG}rect") if bar.get("class") != "chart-hit"]
        drawn = {str(bar.get("class")): float(str(bar.get("height"))) for bar in bars}
        for kind, line in zip(("built", "cached", "failed"), values, strict=True):
            assert (line[day] > 0) == (f"chart-{kind}" in drawn)
            heights.append((drawn.get(f"chart-{kind}", 0.0), line[day]))
    largest, scale = max(heights, key=lambda pair: pair[1]), 0.0
    scale = largest[0] / largest[1] if largest[1] else 0.0
    assert all(abs(height - value * scale) <= 0.1 for height, value in heights)


@given(st.lists(st.tuples(words, counts, st.none() | counts), max_size=20))
def test_horizontal_bars_are_as_long_as_their_numbers(rows: list[tuple[str, int, int | None]]) -> None:
    root = sound(
        horizontal_bars(
            "Rows",
            [Row(name, value, f"{value}", f"row {name}", mark=mark) for name, value, mark in rows],
            [("requests", "mean"), ("mark", "p90")],
        )
    )
    bars = [bar for bar in root.iter(f"{_SVG}rect") if bar.get("height") == "9"]
    assert len(bars) == len(rows)
    longest = max((max(value, mark or 0) for _, value, mark in rows), default=0)
    for bar, (_, value, _) in zip(bars, rows, strict=True):
        assert bar.get("x") == "2"
        assert abs(float(str(bar.get("width"))) - (value * (WIDTH - 4) / longest if longest else 0)) <= 0.01


@given(st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=90))
def test_a_day_without_builds_is_a_gap_in_the_share_and_no_zero(percents: list[float | None]) -> None:
    root = sound(shares("Share", "chosen", days(len(percents)), percents))
    dots = list(root.iter(f"{_SVG}circle"))
    assert len(dots) == sum(percent is not None for percent in percents)
    drawn = sum(len(str(line.get("points")).split()) for line in root.iter(f"{_SVG}polyline"))
    runs = "".join("x" if percent is not None else " " for percent in percents).split()
    assert drawn == sum(len(run) for run in runs if len(run) > 1)


def test_markup_in_names_is_text() -> None:
    svg = horizontal_bars('"><script>', [Row("<script>alert(1)</script>", 1, "&", '" onload="x')])
    assert "<script" not in svg
    assert [text.text for text in sound(svg).iter(f"{_SVG}text")] == ["<script>alert(1)</script>", "&"]


def test_the_axis_has_round_ticks_and_reaches_the_largest_bar() -> None:
    for largest, top in (
        (0, "1"),
        (1, "1"),
        (3, "3"),
        (7, "8"),
        (4353, "5\u202f000"),
        (48_000, "50k"),
        (123_456, "150k"),
    ):
        svg = stacked_bars("Builds", days(30), [Series("Built", "built", [largest] * 30)])
        ticks = [
            text.text for text in sound(svg).iter(f"{_SVG}text") if "chart-end" in str(text.get("class"))
        ]
        assert (ticks[0], ticks[-1]) == ("0", top), ticks
