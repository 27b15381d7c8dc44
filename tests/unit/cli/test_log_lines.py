"""The log: one line each, about whom it is, and never the key to a build."""

import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from asu_builder.cli.log_lines import ConsoleLines, JsonLines, Record, configure_logging
from asu_builder.log_context import CURRENT_HASH, REQUEST_ID
from asu_builder.settings import Settings

HASH = "0123456789abcdef" * 4
SHORT = HASH[:12]

Log = Callable[..., str]


@pytest.fixture(autouse=True)
def nothing_else_is_known() -> Iterator[None]:
    """Context variables as a thread finds them."""
    tokens = [REQUEST_ID.set(""), CURRENT_HASH.set("")]
    yield
    REQUEST_ID.reset(tokens[0])
    CURRENT_HASH.reset(tokens[1])


def written(lines: logging.Formatter, say: Callable[[logging.Logger], None]) -> str:
    """What a logger of that form writes."""
    out = io.StringIO()
    sink = logging.StreamHandler(out)
    sink.setFormatter(lines)
    logger = logging.Logger("asu_builder.test")
    logger.addHandler(sink)
    say(logger)
    return out.getvalue()


def as_json(say: Callable[[logging.Logger], None]) -> dict[str, str]:
    """The one object that is written."""
    text = written(JsonLines(), say)
    assert text.endswith("\n") and text.count("\n") == 1
    document: dict[str, str] = json.loads(text)
    return document


def fail(logger: logging.Logger) -> None:
    """Logs an error with its traceback."""
    try:
        raise ValueError(f"lost {HASH}")
    except ValueError:
        logger.exception("it broke")


def test_a_line_of_json_says_when_how_bad_who_and_what() -> None:
    before = datetime.now(UTC)
    line = as_json(lambda logger: logger.warning("%d jobs", 3))
    assert set(line) == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("warning", "asu_builder.test", "3 jobs")
    assert line["time"].endswith("Z") and len(line["time"]) == len("2026-01-01T00:00:00.000Z")
    assert before - timedelta(seconds=1) <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC)


def test_a_line_says_which_request_and_which_build_it_is_about() -> None:
    REQUEST_ID.set("abc-1")
    CURRENT_HASH.set(HASH)
    line = as_json(lambda logger: logger.info("x"))
    assert (line["request_id"], line["request_hash"]) == ("abc-1", SHORT)
    text = written(ConsoleLines(), lambda logger: logger.info("x"))
    assert text.endswith(f" INFO    abc-1 {SHORT} asu_builder.test: x\n")
    assert HASH not in text


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York", "UTC"])
def test_people_read_the_time_in_the_zone_of_the_pages(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert ConsoleLines().moment(0) == "1970-01-01T00:00:00Z"
        assert JsonLines().moment(0) == "1970-01-01T00:00:00.000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_line_about_nobody_has_dashes_in_their_place() -> None:
    assert written(ConsoleLines(), lambda logger: logger.error("x")).endswith(
        " ERROR   - - asu_builder.test: x\n"
    )


def test_an_exception_is_one_field() -> None:
    line = as_json(fail)
    assert line["message"] == "it broke"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: lost" in line["exception"]


@pytest.mark.parametrize("lines", [ConsoleLines(), JsonLines()], ids=["console", "json"])
def test_no_line_holds_a_whole_hash_whoever_logs_it(lines: logging.Formatter) -> None:
    for say in (fail, lambda logger: logger.info("at /store/%s/x", HASH), lambda logger: logger.info(HASH)):
        text = written(lines, say)
        assert HASH not in text
        assert f"{SHORT}…" in text


def test_what_is_longer_than_a_hash_is_not_cut() -> None:
    assert f"a{HASH}" in written(ConsoleLines(), lambda logger: logger.info("a%s", HASH))


@pytest.mark.parametrize("lines", [ConsoleLines(), JsonLines()], ids=["console", "json"])
def test_a_message_cannot_forge_another_line_or_move_the_cursor(lines: logging.Formatter) -> None:
    text = written(lines, lambda logger: logger.info("a\n2026 CRITICAL b\r\x1b[2Jc\x00"))
    assert not any(line.startswith("2026 CRITICAL") for line in text.splitlines())
    assert not set("\r\x1b\x00") & set(text)


def test_text_that_is_no_utf_8_is_written_all_the_same() -> None:
    assert as_json(lambda logger: logger.info("file \udcff"))["message"] == "file ?"


@pytest.mark.parametrize(("form", "kind"), [("json", JsonLines), ("console", ConsoleLines)])
def test_the_settings_choose_form_and_level(
    monkeypatch: pytest.MonkeyPatch, form: str, kind: type[logging.Formatter]
) -> None:
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())  # is put back
    configure_logging(Settings(log_format=form, log_level="info"))  # type: ignore[arg-type]
    (sink,) = root.handlers
    assert isinstance(sink, logging.StreamHandler)
    assert type(sink.formatter) is kind
    assert sink.stream is sys.stderr
    assert root.level == logging.INFO


@pytest.mark.parametrize(
    "arguments",
    [("%d of %s", 3, "jobs"), ("%(count)d jobs", {"count": 3}), ("%s", {}), ("100 %",), ("%s", (1, 2))],
    ids=["several", "by name", "an empty mapping", "none", "a tuple"],
)
def test_a_record_says_the_same_as_one_of_the_standard_library(arguments: tuple[object, ...]) -> None:
    given = ("asu_builder.test", logging.WARNING, "file.py", 1, arguments[0], arguments[1:], None)
    ours, theirs = Record(*given), logging.LogRecord(*given)
    assert ours.getMessage() == theirs.getMessage()
    assert (ours.name, ours.levelno, ours.levelname) == (theirs.name, theirs.levelno, theirs.levelname)
    assert set(vars(theirs)) <= set(vars(ours)), "what another format may name is there"
    assert abs(ours.created - theirs.created) < 60
