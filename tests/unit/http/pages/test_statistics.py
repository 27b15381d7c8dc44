"""The page of statistics: a period to choose, each chart with its table and its file."""

import re
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.database.connection import Database
from asu_builder.database.statistics import SqlStatistics
from factories import NOON, a_request
from web_scene import Scene


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
