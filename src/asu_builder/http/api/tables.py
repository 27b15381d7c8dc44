"""The numbers of a report as tables, which stand under the charts, as CSV files and as a document."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from msgspec import Struct

from asu_builder.core.statistics import StatisticsReport
from asu_builder.http.api.statistics import (
    DayDocument,
    FailureDocument,
    Named,
    ShareDocument,
    StageDocument,
    StatisticsDocument,
    VersionDocument,
)

Cell = str | int | float
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With one of these at its beginning a spreadsheet takes a cell for a formula."""


class Table(Struct, frozen=True):
    """Columns with their names; a cell is a word or a number."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def _days(report: StatisticsReport) -> Table:
    return Table(
        "Builds per day",
        ("day", "requests", "built", "cache_hits", "failed"),
        [(str(day.day), day.requests, day.built, day.cache_hits, day.failed) for day in report.days],
    )


def _versions(report: StatisticsReport) -> Table:
    return Table(
        "Requests by version",
        ("version", "requests", "cache_hits"),
        [(row.version, row.requests, row.cache_hits) for row in report.versions],
    )


def _failures(report: StatisticsReport) -> Table:
    return Table(
        "Failures by reason",
        ("reason", "fault", "builds", "side"),
        [(row.reason, str(row.side.fault), row.count, str(row.side)) for row in report.failures],
    )


def _durations(report: StatisticsReport) -> Table:
    return Table(
        "Durations by stage",
        ("stage", "builds", "mean_seconds", "p90_seconds", "longest_seconds"),
        [(row.stage, row.count, *_seconds(row.mean, row.p90, row.longest)) for row in report.stages],
    )


def _packages(report: StatisticsReport) -> Table:
    return Table("Most wanted packages", ("package", "builds"), list(report.packages))


def _diff_packages(report: StatisticsReport) -> Table:
    return Table(
        "Share of diff_packages",
        ("day", "new_builds", "with_diff_packages", "percent"),
        [
            (
                str(day.day),
                day.share.total,
                day.share.with_diff_packages,
                round(100 * day.share.share, 1) if day.share.total else "",
            )
            for day in report.days
        ],
    )


TABLES: Mapping[str, Callable[[StatisticsReport], Table]] = {
    "builds-per-day": _days,
    "diff-packages": _diff_packages,
    "versions": _versions,
    "packages": _packages,
    "failures": _failures,
    "durations": _durations,
}
"""By the names of the charts in addresses."""


def render_csv(table: Table) -> str:
    """CSV (RFC 4180) with a row of names; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    writer.writerows([[_harmless(cell) for cell in row] for row in table.rows])
    return text.getvalue()


def _harmless(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def render_report(report: StatisticsReport) -> StatisticsDocument:
    """The same numbers as a document."""
    return StatisticsDocument(
        [
            DayDocument(
                str(day.day),
                requests=day.requests,
                built=day.built,
                cache_hits=day.cache_hits,
                failed=day.failed,
                diff_packages=ShareDocument(day.share.total, day.share.with_diff_packages, day.share.share),
            )
            for day in report.days
        ],
        [VersionDocument(row.version, row.requests, row.cache_hits) for row in report.versions],
        [
            FailureDocument(row.reason, str(row.side.fault), row.count, str(row.side))
            for row in report.failures
        ],
        [
            StageDocument(row.stage, row.count, *_seconds(row.mean, row.p90, row.longest))
            for row in report.stages
        ],
        [Named(name, count) for name, count in report.packages],
    )


def _seconds(*spans: timedelta) -> list[float]:
    return [round(span.total_seconds(), 3) for span in spans]
