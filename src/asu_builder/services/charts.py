"""What the statistics say, in the shapes of the predecessor's chart documents and some of our own.

Shapes: facts on clients, §1.3. Nothing here names a request hash or what one request held.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from asu_builder.ports import EventKind, RecordedFailure, Statistics, TallyBy
from asu_builder.services.shares import Share

if TYPE_CHECKING:
    from asu_builder.services.statistics_report import StatisticsReport

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
DAYS = 30
PERIODS = (7, 30, 90)
"""How many days a report may be asked for."""
WEEKS = 26
_BRANCH_LETTERS = 5
"""The predecessor groups versions by their first five characters: `24.10`, `SNAPS`."""

Interval = Literal["day", "week"]


class Dataset(Struct, frozen=True):
    """One line of a chart: a number for each of the chart's labels."""

    label: str
    data: tuple[float, ...]
    color: str | None = None


class Chart(Struct, frozen=True):
    """Lines over days or weeks; the last label is now."""

    labels: tuple[str, ...]
    datasets: tuple[Dataset, ...]


class Charts:
    """Counts on demand; each call is one or a few indexed queries. Days are whole and in UTC."""

    def __init__(self, statistics: Statistics, *, now: Callable[[], datetime]) -> None:
        self._statistics = statistics
        self._now = now

    def builds_24h(self) -> int:
        """Builds asked for in the last day, answered from memory or not."""
        since = self._now() - DAY
        return sum(
            tally.count for tally in self._statistics.tally(("request", "cache_hit"), since=since, width=DAY)
        )

    def builds_per_day(self) -> Chart:
        """Requests, cache hits and failures of the last 30 days."""
        lines: tuple[tuple[str, str, Sequence[EventKind]], ...] = (
            ("Requests", "green", ("request", "cache_hit")),
            ("Cache-Hits", "orange", ("cache_hit",)),
            ("Failures", "red", ("failed",)),
        )
        return Chart(
            self._labels(DAYS, DAY),
            tuple(Dataset(label, self._line(kinds, DAYS, DAY), color) for label, color, kinds in lines),
        )

    def builds_by_version(self, branch: str = "") -> Chart:
        """Requests of 26 weeks: by branch, or by the versions whose name begins with `branch`."""
        since = self._start(WEEKS, WEEK)
        counts: dict[str, Counter[int]] = {}
        for tally in self._statistics.tally(("request", "cache_hit"), since=since, width=WEEK, by="version"):
            if tally.label.startswith(branch):
                label = tally.label if branch else tally.label[:_BRANCH_LETTERS]
                counts.setdefault(label, Counter())[tally.slot] += tally.count
        datasets = (Dataset(label, _filled(counts[label], WEEKS)) for label in sorted(counts))
        return Chart(self._labels(WEEKS, WEEK), tuple(datasets))

    def top_packages(self, branch: str = "", limit: int = 30) -> Sequence[tuple[str, int]]:
        """The packages most asked for in 30 days, and by how many new builds."""
        return self._statistics.top_packages(since=self._start(DAYS, DAY), branch=branch, limit=limit)

    def failures(self, limit: int) -> Sequence[RecordedFailure]:
        """The latest failed builds, newest first."""
        return self._statistics.failures(limit)

    def counts(self, kind: EventKind, by: TallyBy, limit: int) -> Sequence[tuple[str, int]]:
        """The commonest labels of a kind of event in 30 days."""
        since = self._now() - DAYS * DAY
        tallies = self._statistics.tally((kind,), since=since, width=(DAYS + 1) * DAY, by=by)
        ranked = sorted(tallies, key=lambda tally: (-tally.count, tally.label))
        return [(tally.label, tally.count) for tally in ranked[:limit]]

    def diff_packages(self) -> Share:
        """The share of `diff_packages` in 30 days."""
        counts: Counter[bool] = Counter()
        since = self._start(DAYS, DAY)
        for tally in self._statistics.tally(("request",), since=since, width=DAYS * DAY, by="diff_packages"):
            counts[tally.label == "1"] += tally.count
        return Share(counts.total(), counts[True])

    def diff_packages_by_version(self) -> Mapping[str, Share]:
        """The share for each version built in 30 days."""
        since, width = self._start(DAYS, DAY), DAYS * DAY
        totals = self._statistics.tally(("request",), since=since, width=width, by="version")
        with_it = self._statistics.tally(
            ("request",), since=since, width=width, by="version_with_diff_packages"
        )
        chosen = {tally.label: tally.count for tally in with_it}
        return {tally.label: Share(tally.count, chosen.get(tally.label, 0)) for tally in totals}

    def diff_packages_trend(self, interval: Interval) -> Chart:
        """The share over 30 days or 26 weeks, in percent."""
        count, width = (DAYS, DAY) if interval == "day" else (WEEKS, WEEK)
        totals, chosen = Counter[int](), Counter[int]()
        since = self._start(count, width)
        for tally in self._statistics.tally(("request",), since=since, width=width, by="diff_packages"):
            totals[tally.slot] += tally.count
            chosen[tally.slot] += tally.count if tally.label == "1" else 0
        data = tuple(
            round(100 * chosen[slot] / totals[slot], 1) if totals[slot] else 0.0 for slot in range(count)
        )
        return Chart(self._labels(count, width), (Dataset("diff_packages", data),))

    def report(self, days: int) -> "StatisticsReport":
        """Everything that the page of statistics shows, of the last `days` days."""
        from asu_builder.services.statistics_report import report  # the start needs none of it

        return report(self._statistics, since=self._start(days, DAY), days=days)

    def _line(self, kinds: Sequence[EventKind], count: int, width: timedelta) -> tuple[float, ...]:
        tallies = self._statistics.tally(kinds, since=self._start(count, width), width=width)
        return _filled(Counter({tally.slot: tally.count for tally in tallies}), count)

    def _start(self, count: int, width: timedelta) -> datetime:
        """The beginning of the first slot; the last one ends with today, UTC."""
        tomorrow = self._now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        return tomorrow - count * width

    def _labels(self, count: int, width: timedelta) -> tuple[str, ...]:
        start = self._start(count, width)
        return tuple(f"{start + slot * width:%Y-%m-%d}Z" for slot in range(count))


def _filled(counts: Counter[int], slots: int) -> tuple[float, ...]:
    return tuple(counts[slot] for slot in range(slots))
