"""How a line of the log is written: for people, or as JSON for programs.

Whatever is logged, no line shows a whole request hash, because that is the key to a build
(docs/decisions/logs-show-short-hashes.md).
"""

import functools
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from asu_builder.log_context import CURRENT_HASH, REQUEST_ID, SHOWN_DIGITS
from asu_builder.settings import Settings

_LONG_HEX = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")
_HASH_DIGITS = 64
# A line break inside a message could forge a line, another control character a whole terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), 127)} | {10: "\n  "}


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the log; what is not known is left out."""

    time: str
    level: str
    logger: str
    message: str
    request_id: str = ""
    request_hash: str = ""
    exception: str = ""


class _Lines(logging.Formatter, ABC):
    """Turns a record into a line, within the context in which it was logged."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line, without its end."""
        failure = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            failure.append(self.formatStack(record.stack_info))
        return self.render(
            Line(
                self.moment(record.created),
                record.levelname.lower(),
                record.name,
                _shortened(record.getMessage()),
                REQUEST_ID.get(),
                CURRENT_HASH.get()[:SHOWN_DIGITS],
                _shortened("\n".join(failure)),
            )
        )

    @abstractmethod
    def moment(self, seconds: float) -> str:
        """A time stamp, from seconds since 1970."""

    @abstractmethod
    def render(self, line: Line) -> str:
        """The line as text."""


class ConsoleLines(_Lines):
    """Lines for people: what belongs to a line is indented below it."""

    def moment(self, seconds: float) -> str:
        """UTC, as on the pages and in every other output."""
        return f"{_second(int(seconds))}Z"

    def render(self, line: Line) -> str:
        """Time, level, request id and short hash (or `-`), logger and message."""
        text = f"{line.message}\n{line.exception}" if line.exception else line.message
        return (
            f"{line.time} {line.level.upper():<7} {line.request_id or '-'} {line.request_hash or '-'} "
            f"{line.logger}: {text if text.isprintable() else text.translate(_CONTROLS)}"
        )


class JsonLines(_Lines):
    """Lines for programs: one JSON object each."""

    def moment(self, seconds: float) -> str:
        """UTC, to the millisecond."""
        return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"

    def render(self, line: Line) -> str:
        """The object on one line."""
        try:
            return msgspec.json.encode(line).decode()
        except UnicodeEncodeError:  # a file name or an output that was no UTF-8
            texts = (getattr(line, name) for name in Line.__struct_fields__)
            clean = Line(*(text.encode(errors="replace").decode() for text in texts))
            return msgspec.json.encode(clean).decode()


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """That of most lines is the one of the line before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Record(logging.LogRecord):
    """As much of a record as a line shows: where in the code it was made is not shown."""

    def __init__(
        self,
        name: str,
        level: int,
        _pathname: str,
        _lineno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        _func: str | None = None,
        sinfo: str | None = None,
    ) -> None:
        # Not the base class's, which does; what other formats may name is there all the same.
        self.name, self.msg = name, msg
        # As the standard library: a single mapping has the values by name.
        by_name = args and len(args) == 1 and isinstance(args[0], Mapping) and args[0]
        self.args = by_name or args
        self.levelno, self.levelname = level, logging.getLevelName(level)
        self.exc_info, self.exc_text, self.stack_info = exc_info, None, sinfo
        self.created = time.time()
        self.msecs, self.relativeCreated = int(self.created % 1 * 1000) + 0.0, 0.0
        self.pathname = self.filename = self.module = "(unknown file)"
        self.lineno, self.funcName = 0, ""
        self.thread = self.threadName = self.process = self.processName = None


def configure_logging(settings: Settings) -> None:
    """Sends everything from the chosen level on to standard error, in the chosen form."""
    lines = JsonLines() if settings.log_format == "json" else ConsoleLines()
    # No line shows where in the code it was written: that need not be found out for each.
    logging._srcfile = None  # as the HOWTO of the standard library says
    logging.setLogRecordFactory(Record)
    sink = logging.StreamHandler()
    sink.setFormatter(lines)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[sink])
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").setLevel(max(logging.INFO, logging.getLogger().level))


def _shortened(text: str) -> str:
    """The text with every 64 hexadecimal digits cut to as many as a log may show."""
    if len(text) < _HASH_DIGITS:
        return text
    return _LONG_HEX.sub(lambda found: f"{found[0][:SHOWN_DIGITS]}…", text)
