import io
import logging
import sys

import pytest

from asu_builder.cli.views import InPlace, LineByLine, View, choose_view, describe, printable, shown
from asu_builder.client.builds import LogLine, LogLines, Progress


class Screen(io.StringIO):
    """Text that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


LINES = LogLines(
    (LogLine(1, "2026-03-01T12:00:00Z", "init", "one\x1b[31m\x07"), LogLine(2, "", "init", "two"))
)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress("pending", position=3, eta_seconds=40), "queued, 3 ahead, about 40 s left"),
        (Progress("pending", position=0), "queued, next in turn"),
        (Progress("building", "building_image"), "building: image"),
        (Progress("building", "signing"), "building: signing"),
    ],
)
def test_progress_is_told_in_words(progress: Progress, words: str) -> None:
    assert describe(progress) == words


def test_each_thing_gets_one_line_and_the_time_left_none() -> None:
    stream = io.StringIO()
    view = LineByLine(stream)
    for eta in (9, 8, 7):
        view.show(Progress("building", "init", eta_seconds=eta))
    view.show(LINES)
    view.image("a.bin", 1, 3)
    view.image("a.bin", 3, 3)
    view.note("A note.")
    assert stream.getvalue().splitlines() == [
        "building: start, about 9 s left",
        "  one [31m ",
        "  two",
        "a.bin: 3 bytes",
        "A note.",
    ]
    assert view.keeps_output


def test_what_a_build_prints_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\u202ec\n") == "a ]0;title b c"


def test_a_terminal_shows_stages_and_the_last_lines_and_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    view = choose_view(screen)
    assert isinstance(view, InPlace)
    view.show(Progress("building", "validate_manifest", eta_seconds=5))
    view.show(LogLines(tuple(LogLine(n, "", "init", f"line {n}") for n in range(1, 30))))
    view.note("A note.")
    view.close()
    text = screen.getvalue()
    assert "● packages" in text and "✓ revision" in text and "○ image" in text
    assert "line 29" in text and "line 20" not in text
    assert "about 5 s left" in text and "A note." in text
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h"), "the cursor is there again"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    view = choose_view(Screen(), quiet=True)
    assert type(view) is View
    view.show(LINES)
    view.note("x")
    view.image("x", 1, 1)
    view.close()
    assert capsys.readouterr() == ("", "")


def test_warnings_of_the_services_are_notes_as_long_as_a_view_is_shown() -> None:
    stream = io.StringIO()
    before = list(logging.getLogger().handlers)
    with shown(stream):
        logging.getLogger("asu_builder.core").warning("It is tried again.")
    assert stream.getvalue() == "It is tried again.\n"
    assert logging.getLogger().handlers == before
