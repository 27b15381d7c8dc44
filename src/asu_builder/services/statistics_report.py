"""What happened in some days, in numbers: for the page of statistics, its files and its document.

Nothing here names a request, a hash or an asker.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import TypeVar

from msgspec import Struct

from asu_builder.domain.errors import FailureReason, Side
from asu_builder.domain.job import JobState, Stage
from asu_builder.ports import DURATION_CLASSES, DurationTally, EventKind, Statistics
from asu_builder.services.shares import Share

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
