"""What happened, counted."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import Struct

from asu_builder.domain.errors import Side
from asu_builder.domain.request import BuildRequest

EventKind = Literal["request", "cache_hit", "completed", "failed", "cancelled"]
TallyBy = Literal[
    "nothing",
    "version",
    "target",
    "profile",
    "reason_and_side",
    "diff_packages",
    "version_with_diff_packages",
]
"""`reason_and_side` are two words, the second "" where it was not told. With the last one only events with
`diff_packages` count."""


class Tally(Struct, frozen=True):
    """How many events of one label fell into one slot of time, counted from the start asked for."""

    slot: int
    label: str
    count: int


DURATION_CLASSES = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600, 7200
    )
)  # fmt: skip
"""Upper ends of the classes in which durations are counted; the last also holds what took longer."""


class DurationTally(Struct, frozen=True):
    """How many times a stage took up to `up_to` (and longer than the class before), and how long in all."""

    stage: str
    up_to: timedelta
    count: int
    total: timedelta
    longest: timedelta


class RecordedFailure(Struct, frozen=True):
    """One failed build, without anything that only its asker may know."""

    at: datetime
    version: str
    target: str
    profile: str
    reason: str


class Statistics(Protocol):
    """Events, appended in batches off the request path; none are lost on a clean stop."""

    def record(
        self,
        kind: EventKind,
        request: BuildRequest,
        *,
        client: str = "",
        reason: str = "",
        side: Side | None = None,
    ) -> None:
        """Notes one event; a failure with its reason, and the side where it is known. Never waits."""
        ...

    def record_duration(self, stage: str, span: timedelta) -> None:
        """Notes how long a stage of one build took, by a clock that nobody sets. Never waits."""
        ...

    def waiting(self) -> int:
        """How many events are recorded and not written yet."""
        ...

    def flush(self) -> int:
        """Writes what was recorded so far; how many events."""
        ...

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> Sequence[Tally]:
        """Counts events since a moment in slots of `width`, apart by a column; empty slots are left out."""
        ...

    def durations(self, *, since: datetime) -> Sequence[DurationTally]:
        """How long stages took since the beginning of a day (UTC), class by class, shortest first."""
        ...

    def failures(self, limit: int) -> Sequence[RecordedFailure]:
        """The latest failed builds, newest first."""
        ...

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> Sequence[tuple[str, int]]:
        """Packages most asked for, and by how many new builds, since the beginning of a day (UTC).

        `branch` is how the versions' names begin. A name that few want is not counted for days gone by.
        """
        ...
