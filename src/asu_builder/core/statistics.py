"""What happened in some days, in numbers: as the API sends them, the pages draw them and CSV files list them.

A report, its page and its files are one set of structs; their fields carry the words of the API's schema.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import (
    DURATION_CLASSES,
    DurationTally,
    EventKind,
    JobState,
    RecordedFailure,
    Stage,
    TallyBy,
)
from asu_builder.ports import Statistics

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
DAYS = 30
PERIODS = (7, 30, 90)
"""How many days a report may be asked for."""
WEEKS = 26
TOP_PACKAGES = 20
_BRANCH_LETTERS = 5
"""The predecessor groups versions by their first five characters: `24.10`, `SNAPS`."""
_STAGES = (JobState.PENDING, *Stage, JobState.BUILDING)
"""In the order of a build; the last one is all of it."""

Interval = Literal["day", "week"]
_Label = TypeVar("_Label", str, tuple[str, Side])


def _says(text: str, *examples: object, **bounds: Any) -> Meta:
    return Meta(description=text, examples=list(examples), **bounds)


_Requests = Annotated[int, _says("New builds and cache hits", 120, ge=0)]
_CacheHits = Annotated[int, _says("Requests that a stored result answered", 60, ge=0)]


class Dataset(Struct, frozen=True):
    """One line of a chart, a number for each label."""

    label: Annotated[str, _says("What is counted", "Requests", "24.10")]
    data: Annotated[tuple[float, ...], _says("A number for each label", [12, 0, 7])]
    color: Annotated[str | UnsetType, _says("How it is drawn", "green")] = UNSET


class Chart(Struct, frozen=True):
    """Lines over days or weeks; a label is the first day of its slot, UTC. The last slot is now."""

    labels: Annotated[tuple[str, ...], _says("First days, oldest first", ["2026-11-22Z", "2026-11-23Z"])]
    datasets: Annotated[tuple[Dataset, ...], _says("The lines", [])]


class Named(Struct, frozen=True):
    """A name and how often."""

    name: Annotated[str, _says("What was counted", "luci", "ath79/generic")]
    count: Annotated[int, _says("How often", 42, ge=0)]


class Share(Struct, frozen=True):
    """Of `total` new builds, how many asked for diff_packages; `share` is from 0 to 1."""

    total: Annotated[int, _says("New builds", 200, ge=0)]
    with_diff_packages: Annotated[int, _says("Those with diff_packages", 150, ge=0)]
    share: Annotated[float, _says("The share, from 0 to 1", 0.75, ge=0, le=1)]

    @classmethod
    def of(cls, total: int, chosen: int) -> "Share":
        """0 where nothing was built."""
        return cls(total, chosen, round(chosen / total, 4) if total else 0.0)

    @property
    def percent(self) -> float | None:
        """The share in percent, to one digit; None where nothing was built."""
        return round(100 * self.with_diff_packages / self.total, 1) if self.total else None


class DayReport(Struct, frozen=True):
    """One day, UTC; the last one still goes on. A build may end on a later day than it was asked for."""

    day: Annotated[date, _says("The day", "2026-11-22")]
    requests: _Requests
    built: Annotated[int, _says("Builds that completed", 50, ge=0)]
    cache_hits: _CacheHits
    failed: Annotated[int, _says("Builds that failed", 5, ge=0)]
    refused: Annotated[int, _says("New requests that were refused before a build", 3, ge=0)]
    diff_packages: Annotated[Share, _says("Failed share of the day's new builds")]


class VersionReport(Struct, frozen=True):
    """How often a version was asked for."""

    version: Annotated[str, _says("The version", "24.10.4")]
    requests: _Requests
    cache_hits: _CacheHits


class FailureReport(Struct, frozen=True):
    """How many builds failed for a reason on one side; a reason may be on several."""

    reason: Annotated[str, _says("The reason", "impossible_selection")]
    fault: Annotated[str, _says("Who can fix it", "user", "world", "ours")]
    count: Annotated[int, _says("Builds", 5, ge=0)]
    side: Annotated[str, _says("The same in the words of `fault`", "user", "infrastructure", "internal")]


class StageReport(Struct, frozen=True):
    """How long a stage of builds that ended took, in seconds."""

    stage: Annotated[
        str, _says("The stage, `pending`, or `building` for the whole build", "building_image", "pending")
    ]
    count: Annotated[int, _says("Builds that were measured", 50, ge=0)]
    mean: Annotated[float, _says("On average", 21.5, ge=0)]
    p90: Annotated[float, _says("The 90th percentile, estimated", 40.0, ge=0)]
    longest: Annotated[float, _says("The longest", 90.0, ge=0)]


class StatisticsReport(Struct, frozen=True):
    """Everything that the page of statistics shows, without any request or hash."""

    days: Annotated[Sequence[DayReport], _says("Each day, oldest first", [])]
    versions: Annotated[Sequence[VersionReport], _says("Most requested first", [])]
    failures: Annotated[Sequence[FailureReport], _says("Most frequent first", [])]
    durations: Annotated[Sequence[StageReport], _says("In the order of a build", [])]
    packages: Annotated[Sequence[Named], _says("Most requested first", [{"name": "luci", "count": 42}])]

    @property
    def requests(self) -> int:
        """New builds and cache hits together."""
        return sum(day.requests for day in self.days)

    @property
    def built(self) -> int:
        """Builds that completed."""
        return sum(day.built for day in self.days)

    @property
    def cache_hits(self) -> int:
        """Requests that a stored result answered."""
        return sum(day.cache_hits for day in self.days)

    @property
    def failed(self) -> int:
        """Builds that ended without images."""
        return sum(day.failed for day in self.days)

    @property
    def refused(self) -> int:
        """New requests that were answered as a failed build without one."""
        return sum(day.refused for day in self.days)

    @property
    def diff_packages(self) -> Share:
        """Of all new builds, those with `diff_packages`."""
        shares = [day.diff_packages for day in self.days]
        return Share.of(
            sum(share.total for share in shares), sum(share.with_diff_packages for share in shares)
        )


class Charts:
    """Counts on demand; each call is one or a few indexed queries. Days are whole and in UTC."""

    def __init__(self, statistics: Statistics, *, now: Callable[[], datetime]) -> None:
        self._statistics = statistics
        self._now = now

    def builds_24h(self) -> int:
        """Builds asked for in the last day, answered by a stored result or not."""
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
        datasets = []
        for label, color, kinds in lines:
            counts = self._by_day(kinds, DAYS)
            datasets.append(Dataset(label, tuple(counts[slot] for slot in range(DAYS)), color))
        return Chart(self._labels(DAYS, DAY), tuple(datasets))

    def builds_by_version(self, branch: str = "") -> Chart:
        """Requests of 26 weeks: by branch, or by the versions whose name begins with `branch`."""
        since = self._start(WEEKS, WEEK)
        counts: dict[str, Counter[int]] = {}
        for tally in self._statistics.tally(("request", "cache_hit"), since=since, width=WEEK, by="version"):
            if tally.label.startswith(branch):
                label = tally.label if branch else tally.label[:_BRANCH_LETTERS]
                counts.setdefault(label, Counter())[tally.slot] += tally.count
        datasets = (
            Dataset(label, tuple(line[slot] for slot in range(WEEKS)))
            for label, line in sorted(counts.items())
        )
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
        return _ranked({tally.label: tally.count for tally in tallies})[:limit]

    def diff_packages(self) -> Share:
        """The share of `diff_packages` in 30 days."""
        return self._shares(1, DAYS * DAY)[0]

    def diff_packages_by_version(self) -> Mapping[str, Share]:
        """The share for each version built in 30 days."""
        totals = self._by_label("request", "version", DAYS)
        chosen = self._by_label("request", "version_with_diff_packages", DAYS)
        return {version: Share.of(total, chosen[version]) for version, total in totals.items()}

    def diff_packages_trend(self, interval: Interval) -> Chart:
        """The share over 30 days or 26 weeks, in percent."""
        count, width = (DAYS, DAY) if interval == "day" else (WEEKS, WEEK)
        data = tuple(share.percent or 0.0 for share in self._shares(count, width))
        return Chart(self._labels(count, width), (Dataset("diff_packages", data),))

    def days(self, count: int) -> list[DayReport]:
        """The last `count` days, today last."""
        start = self._start(count, DAY)
        kinds: tuple[EventKind, ...] = ("completed", "cache_hit", "failed", "refused")
        built, hits, failed, refused = (self._by_day((kind,), count) for kind in kinds)
        return [
            DayReport(
                (start + slot * DAY).date(),
                requests=share.total + hits[slot],
                built=built[slot],
                cache_hits=hits[slot],
                failed=failed[slot],
                refused=refused[slot],
                diff_packages=share,
            )
            for slot, share in enumerate(self._shares(count, DAY))
        ]

    def report(self, days: int) -> StatisticsReport:
        """Everything that the page of statistics shows, of the last `days` days."""
        start = self._start(days, DAY)
        requested = self._by_label("request", "version", days)
        answered = self._by_label("cache_hit", "version", days)
        failures = Counter[tuple[str, Side]]()
        for label, count in self._by_label("failed", "reason_and_side", days).items():
            reason, _, side = label.rpartition(" ")
            # An older version of this program has counted no side, a newer one perhaps another reason.
            usual = FailureReason(reason).side if reason in set(FailureReason) else Side.INTERNAL
            failures[reason, Side(side) if side in set(Side) else usual] += count
        classes: dict[str, list[DurationTally]] = {}
        for tally in self._statistics.durations(since=start):
            classes.setdefault(tally.stage, []).append(tally)
        durations = []
        for stage in _STAGES:
            if found := classes.get(stage):
                count = sum(tally.count for tally in found)
                mean = sum((tally.total for tally in found), timedelta(0)) / count
                spans = (mean, p90(found), max(tally.longest for tally in found))
                seconds = (round(span.total_seconds(), 3) for span in spans)
                durations.append(StageReport(stage, count, *seconds))
        packages = self._statistics.top_packages(since=start, branch="", limit=TOP_PACKAGES)
        return StatisticsReport(
            self.days(days),
            [
                VersionReport(version, count, answered[version])
                for version, count in _ranked(requested + answered)
            ],
            [FailureReport(reason, side.fault, count, side) for (reason, side), count in _ranked(failures)],
            durations,
            [Named(name, count) for name, count in packages],
        )

    def _by_day(self, kinds: Sequence[EventKind], days: int) -> Counter[int]:
        tallies = self._statistics.tally(kinds, since=self._start(days, DAY), width=DAY)
        return Counter({tally.slot: tally.count for tally in tallies})

    def _by_label(self, kind: EventKind, by: TallyBy, days: int) -> Counter[str]:
        tallies = self._statistics.tally((kind,), since=self._start(days, DAY), width=days * DAY, by=by)
        # Later slots hold what a clock that ran ahead has counted; it belongs to no day shown.
        return Counter({tally.label: tally.count for tally in tallies if tally.slot == 0})

    def _shares(self, count: int, width: timedelta) -> list[Share]:
        totals, chosen = Counter[int](), Counter[int]()
        since = self._start(count, width)
        for tally in self._statistics.tally(("request",), since=since, width=width, by="diff_packages"):
            totals[tally.slot] += tally.count
            chosen[tally.slot] += tally.count if tally.label == "1" else 0
        return [Share.of(totals[slot], chosen[slot]) for slot in range(count)]

    def _start(self, count: int, width: timedelta) -> datetime:
        """The beginning of the first slot; the last one ends with today, UTC."""
        tomorrow = self._now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + DAY
        return tomorrow - count * width

    def _labels(self, count: int, width: timedelta) -> tuple[str, ...]:
        start = self._start(count, width)
        return tuple(f"{start + slot * width:%Y-%m-%d}Z" for slot in range(count))


def _ranked(counts: Mapping[_Label, int]) -> list[tuple[_Label, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def p90(classes: Sequence[DurationTally]) -> timedelta:
    """How long nine of ten took at most; exact to the width of the class in which they end."""
    wanted = -(-sum(tally.count for tally in classes) * 9 // 10)
    for tally in classes:
        if tally.count >= wanted:
            shortest = max((end for end in DURATION_CLASSES if end < tally.up_to), default=timedelta(0))
            return shortest + (tally.longest - shortest) * (wanted / tally.count)
        wanted -= tally.count
    return timedelta(0)
