"""The documents of the statistics, as types."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from asu_builder.web.fields import says

_Days = Annotated[int, says("How many days were counted", 30)]
_NAMED = {"name": "luci", "count": 42}


class Summary(msgspec.Struct):
    """How many jobs wait, and how many builds were asked for in the last day."""

    queue_length: Annotated[int, says("Jobs that wait", 3, minimum=0)]
    builds_24h: Annotated[int, says("New builds of the last day", 250, minimum=0)]


class DatasetDocument(msgspec.Struct):
    """One line of a chart, a number for each label."""

    label: Annotated[str, says("What is counted", "Requests", "24.10")]
    data: Annotated[tuple[float, ...], says("A number for each label", [12, 0, 7])]
    color: Annotated[str | msgspec.UnsetType, says("How it is drawn", "green")] = msgspec.UNSET


class ChartDocument(msgspec.Struct):
    """Lines over days or weeks; a label is the first day of its slot, UTC."""

    labels: Annotated[tuple[str, ...], says("First days, oldest first", ["2026-11-22Z", "2026-11-23Z"])]
    datasets: Annotated[list[DatasetDocument], says("The lines", [])]


class Named(msgspec.Struct):
    """A name and how often."""

    name: Annotated[str, says("What was counted", "luci", "ath79/generic")]
    count: Annotated[int, says("How often", 42, minimum=0)]


class TopPackages(msgspec.Struct):
    """The packages most asked for, by how many different requests."""

    packages: Annotated[list[Named], says("Most wanted first", [_NAMED])]
    branch: Annotated[str | None, says("The prefix asked for", "24.10", None)]
    days: _Days


class Counts(msgspec.Struct):
    """How often something happened, the commonest names first."""

    counts: Annotated[list[Named], says("Commonest first", [_NAMED])]
    days: _Days


class ShareDocument(msgspec.Struct):
    """Of `total` new builds, how many asked for diff_packages; `share` is from 0 to 1."""

    total: Annotated[int, says("New builds", 200, minimum=0)]
    with_diff_packages: Annotated[int, says("Those with diff_packages", 150, minimum=0)]
    share: Annotated[float, says("The one divided by the other", 0.75, minimum=0, maximum=1)]


class ShareByVersion(msgspec.Struct):
    """The share of diff_packages for each version."""

    versions: Annotated[Mapping[str, ShareDocument], says("Version to its share", {})]
    days: _Days


class DayDocument(msgspec.Struct):
    """One day, UTC; the last one still goes on. A build may end on a later day than it was asked for."""

    day: Annotated[str, says("The day", "2026-11-22")]
    requests: Annotated[int, says("New builds and cache hits", 120, minimum=0)]
    built: Annotated[int, says("Builds that ended well", 50, minimum=0)]
    cache_hits: Annotated[int, says("Requests that a kept result answered", 60, minimum=0)]
    failed: Annotated[int, says("Builds that failed", 5, minimum=0)]
    diff_packages: Annotated[ShareDocument, says("Of the day's new builds")]


class VersionDocument(msgspec.Struct):
    """How often a version was asked for."""

    version: Annotated[str, says("The version", "24.10.4")]
    requests: Annotated[int, says("New builds and cache hits", 120, minimum=0)]
    cache_hits: Annotated[int, says("Requests that a kept result answered", 60, minimum=0)]


class FailureDocument(msgspec.Struct):
    """How many builds failed for a reason on one side; a reason may be on several."""

    reason: Annotated[str, says("The reason", "impossible_selection")]
    fault: Annotated[str, says("Whose side it is on", "user", "world", "ours")]
    count: Annotated[int, says("Builds", 5, minimum=0)]
    side: Annotated[str, says("The same in the words of errors", "user", "infrastructure", "internal")]


class StageDocument(msgspec.Struct):
    """How long a stage of builds that ended took, in seconds."""

    stage: Annotated[str, says("The stage, pending, or building for all of it", "building_image", "pending")]
    count: Annotated[int, says("Builds that were measured", 50, minimum=0)]
    mean: Annotated[float, says("On average", 21.5, minimum=0)]
    p90: Annotated[float, says("Nine of ten took at most, estimated", 40.0, minimum=0)]
    longest: Annotated[float, says("The longest", 90.0, minimum=0)]


class StatisticsDocument(msgspec.Struct):
    """Everything that the page of statistics shows, without any request or hash."""

    days: Annotated[list[DayDocument], says("Each day, oldest first", [])]
    versions: Annotated[list[VersionDocument], says("Most asked for first", [])]
    failures: Annotated[list[FailureDocument], says("Commonest first", [])]
    durations: Annotated[list[StageDocument], says("In the order of a build", [])]
    packages: Annotated[list[Named], says("Most wanted first", [_NAMED])]
