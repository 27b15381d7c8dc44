"""What the commands of a build printed, line by line."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from asu_builder.domain.job import Lease, Stage

MAX_LINES = 10_000
"""Lines that are kept of one job, over all its attempts."""
MAX_BYTES = 1 << 20
"""Bytes of their text (UTF-8) that are kept of one job."""
LEFT_OUT = "[The rest of this build's output is left out here; its end is in the outcome.]"
"""The last line of a log that came to one of these limits."""


class PrintedLine(Struct, frozen=True):
    """A line as it was heard: when, in which stage, and its text without control characters."""

    at: datetime
    stage: Stage
    text: str


class LogLine(Struct, frozen=True):
    """A line that is kept. `seq` is 1, 2, 3 … for each job, whatever attempt printed it."""

    seq: int
    at: datetime
    stage: Stage
    text: str


class BuildLog(Protocol):
    """Lines by job; they go when their job is forgotten."""

    def append(self, lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        """Keeps lines of the attempt that holds this lease, in one transaction.

        False when nothing more will be kept for it: the log is full, or the lease is somebody else's.
        """
        ...

    def read(self, job_id: int, *, after: int = 0, limit: int = MAX_LINES + 1) -> Sequence[LogLine]:
        """Lines with a higher `seq` than `after`, in order."""
        ...

    def last(self, job_id: int) -> int:
        """The highest `seq`; 0 when nothing was printed."""
        ...
