"""Statistics that tests can look at."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from asu_builder.domain.errors import Side
from asu_builder.domain.job import DurationTally, EventKind, RecordedFailure, Tally, TallyBy
from asu_builder.domain.request import BuildRequest


class NotedStatistics:
    """Notes each event as (kind, client, reason); counts nothing."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.sides: list[Side | None] = []
        self.durations_noted: list[tuple[str, timedelta]] = []

    def record(
        self,
        kind: EventKind,
        request: BuildRequest,
        *,
        client: str = "",
        reason: str = "",
        side: Side | None = None,
    ) -> None:
        """Notes the event."""
        self.events.append((kind, client, reason))
        self.sides.append(side)

    def record_duration(self, stage: str, span: timedelta) -> None:
        """Notes the duration."""
        self.durations_noted.append((stage, span))

    def waiting(self) -> int:
        """Nothing waits."""
        return 0

    def flush(self) -> int:
        """There is nothing to write."""
        return 0

    def tally(
        self, kinds: Sequence[EventKind], *, since: datetime, width: timedelta, by: TallyBy = "nothing"
    ) -> Sequence[Tally]:
        """Nothing was counted."""
        return []

    def durations(self, *, since: datetime) -> Sequence[DurationTally]:
        """None are counted."""
        return []

    def failures(self, limit: int) -> Sequence[RecordedFailure]:
        """None are kept."""
        return []

    def top_packages(self, *, since: datetime, branch: str, limit: int) -> Sequence[tuple[str, int]]:
        """None are counted."""
        return []
