"""Numbers, sizes and times as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from asu_builder.http.pages import words


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (9_856_000, "9.4 MiB"), (150 << 20, "150 MiB")],
)
def test_a_size_has_the_unit_that_reads_best(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "0.0 s"),
        (2.34, "2.3 s"),
        (timedelta(seconds=200), "3 min 20 s"),
        (timedelta(hours=2), "2 h"),
        (timedelta(days=3, hours=5, minutes=59), "3 d 5 h"),
        (-4, "0.0 s"),
    ],
)
def test_a_span_has_at_most_two_units(length: timedelta | float, text: str) -> None:
    assert words.span(length) == text


def test_a_moment_carries_its_time_for_the_browser() -> None:
    at = datetime(2026, 11, 25, 9, 5, tzinfo=UTC)
    assert str(words.moment(at)) == '<time datetime="2026-11-25T09:05:00+00:00">2026-11-25 09:05 UTC</time>'


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("the noc", "the noc"),
        (
            "noc@asu.example.org",
            '<a href="mailto:noc@asu.example.org" rel="noreferrer">noc@asu.example.org</a>',
        ),
        (
            "Ann & Bob, https://asu.example.org/about.",
            'Ann &amp; Bob, <a href="https://asu.example.org/about" rel="noreferrer">'
            "https://asu.example.org/about</a>.",
        ),
        ("<b>me</b>", "&lt;b&gt;me&lt;/b&gt;"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ('https://x"onclick=1', '<a href="https://x" rel="noreferrer">https://x</a>&#34;onclick=1'),
    ],
)
def test_who_runs_the_server_can_be_reached(text: str, html: str) -> None:
    assert str(words.contact(text)) == html


def test_thousands_are_kept_apart() -> None:
    assert words.number(1234567) == "1\u202f234\u202f567"


def test_a_sentence_marks_code_and_escapes_everything() -> None:
    assert str(words.sentence("Type `a <b>` & wait")) == "Type <code>a &lt;b&gt;</code> &amp; wait"
