"""Which address leads to which endpoint, for the groups of addresses that need no more than that."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from asu_builder.web.metadata import Metadata
from asu_builder.web.operator import OperatorEndpoints
from asu_builder.web.search import SearchEndpoints
from asu_builder.web.statistics import StatisticsPages


def operator_routes(operator: OperatorEndpoints) -> dict[str, Callable[[Request], Any]]:
    """What needs an operator's token."""
    return {
        "/api/v1/jobs": operator.jobs,
        "/api/v1/jobs/{request_hash}/requeue": operator.requeue,
        "/api/v1/results/{request_hash}": operator.purge,
        "/api/v1/workers": operator.workers,
        "/api/v1/workers/pause": operator.pause,
        "/api/v1/workers/resume": operator.resume,
        "/api/v1/acts": operator.acts,
        "/api/v1/configuration": operator.configuration,
    }


def metadata_routes(metadata: Metadata) -> dict[str, Callable[[Request], Any]]:
    """What can be built."""
    overviews = ("/json/v1/overview.json", "/api/v1/overview", "/api/overview", "/overview")
    latest = ("/json/v1/latest.json", "/api/v1/latest")
    return {
        **dict.fromkeys(overviews, metadata.overview),
        **dict.fromkeys(latest, metadata.latest),
        "/json/v1/branches.json": metadata.branches,
        "/json/v1/{path:path}/packages/{architecture}-index.json": metadata.architecture_index,
        "/json/v1/{path:path}/targets/{target}/{subtarget}/index.json": metadata.target_index,
        "/json/v1/{path:path}/targets/{target}/{subtarget}/{profile}.json": metadata.profile,
        "/api/v1/revision/{version}/{target}/{subtarget}": metadata.revision,
    }


def statistics_routes(pages: StatisticsPages) -> dict[str, Callable[[Request], Any]]:
    """What happened, counted."""
    return {
        "/api/v1/statistics": pages.report,
        "/api/v1/statistics/{chart}.csv": pages.chart_csv,
        "/api/v1/stats/summary": pages.summary,
        "/api/v1/builds-per-day": pages.builds_per_day,
        "/api/v1/builds-by-version": pages.builds_by_version,
        "/api/v1/top-packages": pages.top_packages,
        "/api/v1/build-errors": pages.build_errors,
        "/api/v1/failures-by-target": pages.counts("failed", "target"),
        "/api/v1/failures-by-profile": pages.counts("failed", "profile"),
        "/api/v1/cache-hits-by-target": pages.counts("cache_hit", "target"),
        "/api/v1/cache-hits-by-profile": pages.counts("cache_hit", "profile"),
        "/api/v1/diff-packages-stats": pages.diff_packages,
        "/api/v1/diff-packages-by-version": pages.diff_packages_by_version,
        "/api/v1/diff-packages-trend": pages.diff_packages_trend,
    }


def search_routes(search: SearchEndpoints) -> dict[str, Callable[[Request], Any]]:
    """Devices and packages."""
    return {
        "/api/v1/devices": search.devices,
        "/api/v1/devices/{version}/{target}/{subtarget}/{profile}": search.device,
        "/api/v1/packages": search.packages,
    }
