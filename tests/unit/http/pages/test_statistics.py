"""The page of statistics, its files and its document: the same numbers, and nothing private."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jinja2
import msgspec
import pytest

from asgi_client import AsgiClient
from asu_builder.core.statistics import PERIODS, Charts, StatisticsReport
from asu_builder.database.connection import Database
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import FailureReason, Side
from asu_builder.http import openapi
from asu_builder.http.api.statistics import TABLES, render_csv
from asu_builder.http.pages import statistics
from asu_builder.http.pages.statistics import draw_statistics
from factories import NOON, Clock, a_request
from web_scene import Scene

NOW = datetime(2026, 3, 10, 18, 30, tzinfo=UTC)


@pytest.fixture
def charts(tmp_path: Path) -> Iterator[Charts]:
    database = Database(tmp_path / "a.db")
    clock = Clock(NOW)
    statistics = SqlStatistics(database, now=clock)
    secret = a_request(packages=("vim", "p+"), defaults="wifi password", diff_packages=True)
    for ago in (0, 1, 1):
        clock.at = NOW - timedelta(days=ago)
        statistics.record("request", secret, client="owut/1")
        statistics.record("completed", secret, client="owut/1")
        statistics.record("cache_hit", a_request(version="25.12.0"), client="owut/1")
        statistics.record("failed", secret, reason=FailureReason.SETUP_FAILED)
        statistics.record("cancelled", secret)
        statistics.record("refused", secret, reason=FailureReason.IMPOSSIBLE_SELECTION)
        statistics.record_duration("pending", timedelta(seconds=2))
    # What an older version has counted tells no side.
    statistics.record("failed", secret, reason=FailureReason.NO_IMAGES)
    statistics.record("failed", secret, reason=FailureReason.NO_IMAGES, side=Side.USER)
    statistics.record("failed", secret, reason=FailureReason.SETUP_FAILED, side=Side.INFRASTRUCTURE)
    clock.at = NOW - timedelta(days=7)
    statistics.record("completed", secret)
    clock.at = NOW
    statistics.flush()
    yield Charts(statistics, now=clock)
    database.close()


def test_a_report_counts_the_days_that_were_asked_for(charts: Charts) -> None:
    week, month = charts.report(7), charts.report(30)
    assert [len(charts.report(days).days) for days in PERIODS] == list(PERIODS)
    assert (week.requests, week.built, week.cache_hits, week.failed) == (6, 3, 3, 6)
    assert (month.built, month.diff_packages.share) == (4, 1.0)
    assert [(row.version, row.requests, row.cache_hits) for row in week.versions] == [
        ("24.10.5", 3, 0),
        ("25.12.0", 3, 3),
    ]
    assert [(row.reason, row.side, row.count) for row in week.failures] == [
        ("setup_failed", Side.INFRASTRUCTURE, 4),
        ("no_images", Side.INFRASTRUCTURE, 1),
        ("no_images", Side.USER, 1),
    ]
    assert [(row.stage, row.count, row.mean) for row in week.durations] == [("pending", 3, 2.0)]
    assert [(row.name, row.count) for row in week.packages] == [("p+", 3), ("vim", 3)]
    assert [(day.built, day.diff_packages.total) for day in week.days[-2:]] == [(2, 2), (1, 1)]


def test_files_and_document_have_the_same_numbers(charts: Charts) -> None:
    report = charts.report(30)
    document = msgspec.json.decode(msgspec.json.encode(report), type=StatisticsReport)
    files = {
        name: list(csv.reader(io.StringIO(render_csv(table.columns, table.rows(report)))))
        for name, table in TABLES.items()
    }
    assert [row[:5] for row in files["builds-per-day"][1:]] == [
        [str(day.day), str(day.requests), str(day.built), str(day.cache_hits), str(day.failed)]
        for day in document.days
    ]
    assert files["packages"] == [["package", "builds"], ["p+", "3"], ["vim", "3"]]
    assert files["failures"][1:] == [
        [row.reason, row.fault, str(row.count), row.side] for row in document.failures
    ]
    assert files["failures"][1] == ["setup_failed", "world", "4", "infrastructure"]
    assert files["durations"][1] == ["pending", "3", "2.0", "2.0", "2.0"]
    assert files["diff-packages"][-1] == ["2026-03-10", "1", "1", "100.0"]
    assert files["diff-packages"][1][3] == ""
    assert set(files) == set(openapi.PATH["chart"]["schema"]["enum"])


def test_no_cell_is_a_formula() -> None:
    for beginning in "=+-@\t\r":
        text = render_csv(("a",), [(f"{beginning}1+1",)])
        assert next(csv.reader(io.StringIO(text.split("\r\n", 1)[1], newline="")))[0].startswith("'")
    assert render_csv(("a", "b"), [("2,0", 3)]) == 'a,b\r\n"2,0",3\r\n'


def test_the_page_shows_each_chart_and_no_request(charts: Charts) -> None:
    folder = Path(statistics.__file__).parents[1] / "templates"
    base = "{% block title %}{% endblock %}{% block head %}{% endblock %}{% block content %}{% endblock %}"
    environment = jinja2.Environment(
        autoescape=True,
        extensions=["jinja2.ext.i18n"],
        undefined=jinja2.StrictUndefined,
        loader=jinja2.ChoiceLoader([jinja2.DictLoader({"base.html": base}), jinja2.FileSystemLoader(folder)]),
    )
    environment.install_null_translations(newstyle=True)  # type: ignore[attr-defined] # of the extension
    view = draw_statistics(charts, 7)
    page = environment.get_template("statistics.html").render(view=view, static=str)
    assert page.count("<svg") == len(TABLES) == page.count("<table>")
    assert "password" not in page and "style=" not in page and "<script" not in page
    assert all(f"/api/v1/statistics/{name}.csv?days=7" in page for name in TABLES)
    assert all(f"No image was made for the device ({side})" in page for side in ("user", "infrastructure"))
    assert dict(view.totals)["Failed builds"] == "66.7 %"
    assert dict(view.totals)["Refused before a build"] == "3"


def test_a_chart_of_nothing_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "b.db")
    charts = Charts(SqlStatistics(database, now=lambda: NOW), now=lambda: NOW)
    view = draw_statistics(charts, 90)
    assert not any(figure.svg for figure in view.figures)
    assert dict(view.totals)["Failed builds"] == "–"
    database.close()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Something was asked for, by versions that want to be more than text."""
    scene = Scene(tmp_path)
    statistics = SqlStatistics(Database(tmp_path / "statistics.db"), now=lambda: NOON)
    for _ in range(3):
        statistics.record("request", a_request())
    statistics.record("cache_hit", a_request())
    statistics.record("failed", a_request(), reason="<b>odd</b>")
    statistics.flush()
    scene.counted = statistics
    return scene


def page(client: AsgiClient, address: str = "/statistics") -> str:
    answer = client.get(address)
    assert answer.status == 200, answer.body
    return answer.body.decode()


@pytest.mark.parametrize(("query", "days"), [("", 30), ("?days=7", 7), ("?days=30", 30), ("?days=90", 90)])
def test_a_period_is_chosen_by_a_link(client: AsgiClient, query: str, days: int) -> None:
    shown = page(client, f"/statistics{query}")
    assert re.findall(r'<a href="\?days=(\d+)"', shown) == ["7", "30", "90"]
    assert re.findall(r'<a href="\?days=(\d+)" aria-current="true"', shown) == [str(days)]


@pytest.mark.parametrize("days", ["1", "365", "x"])
def test_another_period_is_refused_in_words(client: AsgiClient, days: str) -> None:
    answer = client.get(f"/statistics?days={days}")
    assert answer.status == 400 and b"expected one of 7, 30, 90" in answer.body


def test_each_chart_that_has_something_to_show_has_a_table_and_a_file(client: AsgiClient) -> None:
    figures = re.findall(r"<figure.*?</figure>", page(client), re.DOTALL)
    drawn = [figure for figure in figures if "<svg" in figure]
    assert len(figures) == 6 and len(drawn) >= 3
    for figure in drawn:
        assert "<figcaption" in figure and "<table>" in figure
        address = re.search(r'href="(/api/v1/[^"]+\.csv\?days=30)"', figure)
        assert address is not None and client.get(address[1]).status == 200


def test_totals_stand_on_top(client: AsgiClient) -> None:
    assert "<dt>Requests</dt><dd>4</dd>" in page(client)


def test_what_was_counted_is_text_and_nothing_is_inline(client: AsgiClient) -> None:
    shown = page(client)
    assert "<b>odd" not in shown and "odd" in shown
    assert (
        "style=" not in shown
        and "onclick" not in shown
        and not re.search("<script(?! type=.module. src)", shown)
    )


def test_it_answers_head(client: AsgiClient) -> None:
    assert client.request("HEAD", "/statistics").status == 200


def test_the_predecessors_address_leads_here(client: AsgiClient) -> None:
    answer = client.get("/stats")
    assert (answer.status, dict(answer.headers)["location"]) == (301, "/statistics")
