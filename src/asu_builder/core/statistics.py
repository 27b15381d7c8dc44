"""What happened in some days, in numbers: for the page of statistics, its files and its documents."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeVar

from msgspec import Struct

from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import JobState, Stage
from asu_builder.ports import DURATION_CLASSES, DurationTally, EventKind, RecordedFailure, Statistics, TallyBy


class Share(Struct, frozen=True):
    """How many of all new builds asked for `diff_packages`; `share` is from 0 to 1."""

    total: int
    with_diff_packages: int

    @property
    def share(self) -> float:
        """0 where nothing was built."""
        return round(self.with_diff_packages / self.total, 4) if self.total else 0.0


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
        # gone  # the start needs none of it

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


TOP_PACKAGES = 20
_Label = TypeVar("_Label", str, tuple[str, Side])
_DAY = timedelta(days=1)
_TENTHS = 9
"""Nine of ten: the percentile that is shown."""
_STAGES = (JobState.PENDING, *Stage, JobState.BUILDING)
"""In the order of a build; the last one is all of it."""


class DayReport(Struct, frozen=True):
    """One day, UTC. `requests` are new builds and cache hits; a build may end on a later day."""

    day: date
    requests: int
    built: int
    cache_hits: int
    failed: int
    share: Share
    """Of the new builds of this day, those with `diff_packages`."""


class VersionReport(Struct, frozen=True):
    """How often a version was asked for, and how many of these a kept result answered."""

    version: str
    requests: int
    cache_hits: int


class FailureReport(Struct, frozen=True):
    """How many builds failed for a reason on one side; a reason may be on several."""

    reason: str
    side: Side
    count: int


class StageReport(Struct, frozen=True):
    """How long a stage took: on average, at most in nine of ten builds, and at most.

    `p90` is estimated within the class of durations into which it falls.
    """

    stage: str
    count: int
    mean: timedelta
    p90: timedelta
    longest: timedelta


class StatisticsReport(Struct, frozen=True):
    """Whole days, the last of which is today and still goes on."""

    days: Sequence[DayReport]
    versions: Sequence[VersionReport]
    failures: Sequence[FailureReport]
    stages: Sequence[StageReport]
    packages: Sequence[tuple[str, int]]

    @property
    def requests(self) -> int:
        """New builds and cache hits together."""
        return sum(day.requests for day in self.days)

    @property
    def built(self) -> int:
        """Builds that ended well."""
        return sum(day.built for day in self.days)

    @property
    def cache_hits(self) -> int:
        """Requests that a kept result answered."""
        return sum(day.cache_hits for day in self.days)

    @property
    def failed(self) -> int:
        """Builds that ended without images."""
        return sum(day.failed for day in self.days)

    @property
    def share(self) -> Share:
        """Of all new builds, those with `diff_packages`."""
        shares = [day.share for day in self.days]
        return Share(sum(share.total for share in shares), sum(share.with_diff_packages for share in shares))


def report(statistics: Statistics, *, since: datetime, days: int) -> StatisticsReport:
    """Counts from the beginning of a day (UTC) on."""
    return StatisticsReport(
        _days(statistics, since, days),
        _versions(statistics, since, days),
        _failures(statistics, since, days),
        _stages(statistics.durations(since=since)),
        statistics.top_packages(since=since, branch="", limit=TOP_PACKAGES),
    )


def _days(statistics: Statistics, since: datetime, days: int) -> list[DayReport]:
    def count(kind: EventKind) -> Counter[int]:
        return Counter(
            {tally.slot: tally.count for tally in statistics.tally((kind,), since=since, width=_DAY)}
        )

    built, hits, failed = count("completed"), count("cache_hit"), count("failed")
    new, chosen = Counter[int](), Counter[int]()
    for tally in statistics.tally(("request",), since=since, width=_DAY, by="diff_packages"):
        new[tally.slot] += tally.count
        chosen[tally.slot] += tally.count if tally.label == "1" else 0
    return [
        DayReport(
            (since + slot * _DAY).date(),
            requests=new[slot] + hits[slot],
            built=built[slot],
            cache_hits=hits[slot],
            failed=failed[slot],
            share=Share(new[slot], chosen[slot]),
        )
        for slot in range(days)
    ]


def _versions(statistics: Statistics, since: datetime, days: int) -> list[VersionReport]:
    def count(kind: EventKind) -> Counter[str]:
        return _by_label(statistics, kind, since=since, days=days, by_version=True)

    new, hits = count("request"), count("cache_hit")
    return [VersionReport(version, requests, hits[version]) for version, requests in _ranked(new + hits)]


def _failures(statistics: Statistics, since: datetime, days: int) -> list[FailureReport]:
    counts = Counter[tuple[str, Side]]()
    for label, count in _by_label(statistics, "failed", since=since, days=days, by_version=False).items():
        reason, _, side = label.rpartition(" ")
        counts[reason, Side(side) if side in set(Side) else _usual_side(reason)] += count
    return [FailureReport(*found, count) for found, count in _ranked(counts)]


def _by_label(
    statistics: Statistics, kind: EventKind, *, since: datetime, days: int, by_version: bool
) -> Counter[str]:
    # Later slots hold what a clock that ran ahead has counted; it belongs to no day shown.
    tallies = statistics.tally(
        (kind,), since=since, width=days * _DAY, by="version" if by_version else "reason_and_side"
    )
    return Counter({tally.label: tally.count for tally in tallies if tally.slot == 0})


def _ranked(counts: Counter[_Label]) -> list[tuple[_Label, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _usual_side(reason: str) -> Side:
    """Ours for a reason that another version of this program has counted."""
    return FailureReason(reason).side if reason in set(FailureReason) else Side.INTERNAL


def _stages(tallies: Iterable[DurationTally]) -> list[StageReport]:
    classes: dict[str, list[DurationTally]] = {}
    for tally in tallies:
        classes.setdefault(tally.stage, []).append(tally)
    return [_stage(stage, classes[stage]) for stage in _STAGES if stage in classes]


def _stage(stage: str, classes: Sequence[DurationTally]) -> StageReport:
    count = sum(tally.count for tally in classes)
    total = sum((tally.total for tally in classes), timedelta(0))
    longest = max(tally.longest for tally in classes)
    return StageReport(stage, count, total / count, p90(classes), longest)


def p90(classes: Sequence[DurationTally]) -> timedelta:
    """How long nine of ten took at most; exact to the width of the class in which they end."""
    wanted = -(-sum(tally.count for tally in classes) * _TENTHS // 10)
    for tally in classes:
        if tally.count >= wanted:
            shortest = max((end for end in DURATION_CLASSES if end < tally.up_to), default=timedelta(0))
            return shortest + (tally.longest - shortest) * (wanted / tally.count)
        wanted -= tally.count
    return timedelta(0)
