"""The addresses of the statistics, for the route table."""

from asu_builder.web.documents import Problem
from asu_builder.web.openapi import Operation
from asu_builder.web.statistics_documents import (
    ChartDocument,
    Counts,
    ShareByVersion,
    ShareDocument,
    StatisticsDocument,
    Summary,
    TopPackages,
)

_READ = ("GET", "HEAD")
_COUNTED = {200: ("The commonest of 30 days", Counts), 400: ("n is no number", Problem)}
_MANY = ("n",)
_BRANCH = ("branch",)

STATISTICS = (
    Operation(
        "/api/v1/stats/summary", _READ, "Jobs that wait, builds of the last day.", {200: ("Both", Summary)}
    ),
    Operation(
        "/api/v1/statistics",
        _READ,
        "What happened in the last days: builds by day and version, failures, durations, packages.",
        {200: ("The numbers", StatisticsDocument), 400: ("days is none of the choices", Problem)},
        query=("days",),
    ),
    Operation(
        "/api/v1/statistics/{chart}.csv",
        _READ,
        "The numbers of one chart as CSV.",
        {
            200: ("A row of names, then the numbers", None),
            400: ("days is none of the choices", Problem),
            404: ("There is no such chart", Problem),
        },
        query=("days",),
        content_type="text/csv",
    ),
    Operation(
        "/api/v1/builds-per-day",
        _READ,
        "Requests, cache hits and failures of 30 days.",
        {200: ("The chart", ChartDocument)},
    ),
    Operation(
        "/api/v1/builds-by-version",
        _READ,
        "Requests of 26 weeks, by branch or by the versions of one.",
        {200: ("The chart", ChartDocument)},
        query=_BRANCH,
    ),
    Operation(
        "/api/v1/top-packages",
        _READ,
        "The packages most asked for in 30 days.",
        {200: ("The packages", TopPackages), 400: ("n is no number", Problem)},
        query=(*_BRANCH, *_MANY),
    ),
    Operation(
        "/api/v1/build-errors",
        _READ,
        "The latest failed builds, one a line.",
        {200: ("Time, version, target, profile and reason", None), 400: ("n is no number", Problem)},
        query=_MANY,
        content_type="text/plain",
    ),
    *(
        Operation(
            f"/api/v1/{what}-by-{by}",
            _READ,
            f"Which {by}s had most {words} in 30 days.",
            _COUNTED,
            query=_MANY,
        )
        for what, words in (
            ("failures", "failed builds"),
            ("cache-hits", "requests answered by a kept result"),
        )
        for by in ("target", "profile")
    ),
    Operation(
        "/api/v1/diff-packages-stats",
        _READ,
        "The share of new builds that asked for diff_packages in 30 days.",
        {200: ("The share", ShareDocument)},
    ),
    Operation(
        "/api/v1/diff-packages-by-version",
        _READ,
        "The share of diff_packages for each version.",
        {200: ("The shares", ShareByVersion)},
    ),
    Operation(
        "/api/v1/diff-packages-trend",
        _READ,
        "The share of diff_packages in percent over 30 days or 26 weeks.",
        {200: ("The chart", ChartDocument)},
        query=("interval",),
    ),
)
