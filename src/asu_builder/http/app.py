"""The web application: which address leads where."""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asu_builder.core.catalog import Catalog
from asu_builder.core.health import STATES, Health
from asu_builder.core.live import LiveBuilds
from asu_builder.core.operator import Crowds, Operator
from asu_builder.core.preflight import Preview
from asu_builder.core.search import Search
from asu_builder.core.statistics import Charts
from asu_builder.core.submit import Builds
from asu_builder.domain.errors import AsuError
from asu_builder.http.api.builds import BuildAnswers
from asu_builder.http.api.documents import HealthDocument, Part, QueueLength
from asu_builder.http.api.metadata import Announcement, Metadata
from asu_builder.http.api.metrics import MetricsCollector, Requests, metrics_endpoint
from asu_builder.http.api.operator import ConfigurationDocument, OperatorActs, OperatorEndpoints
from asu_builder.http.api.preview import PreviewEndpoint
from asu_builder.http.api.routes import OPERATIONS
from asu_builder.http.api.search import SearchEndpoints
from asu_builder.http.api.statistics import StatisticsPages
from asu_builder.http.api.store import Downloads
from asu_builder.http.api.watchers import WatchLimits
from asu_builder.http.api.wire import Answer, render_json
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.door import DoorLimits
from asu_builder.http.errors import make_error_hook, on_bug, on_http_error, respond
from asu_builder.http.fast_path import FastPath, standing_headers
from asu_builder.http.late import Endpoint, LatePages, LateStreams
from asu_builder.http.openapi import Operation, describe
from asu_builder.http.threads import Threads
from asu_builder.http.waiting import AdmitFetch, Waiting
from asu_builder.loading import LOADING
from asu_builder.ports import Statistics, Store

if TYPE_CHECKING:
    from asu_builder.http.api.live import LiveStreams


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


_READING_THREADS = 4
"""Apart from the one that submits. None of them ever waits for upstream."""


class Parts(Struct, frozen=True):
    """What the web application stands on.

    `start` runs before the port answers and must return at once; `stop` runs when the last answer
    has left, in a thread, and may wait. `cors` is off when a proxy in front adds those headers.
    `clock` counts seconds; it decides when an answer is no longer fresh. `revoked` gives another value
    whenever an operator has taken an answer back, in any process.
    """

    builds: Builds
    live: LiveBuilds
    health: Health
    store: Store
    statistics: Statistics
    catalog: Catalog
    charts: Charts
    preview: Preview
    operator: Operator
    crowds: Crowds
    configuration: Callable[[], ConfigurationDocument]
    metrics: MetricsCollector
    callers: Callers
    limit_previews: Admit
    limit_fetches: AdmitFetch
    announcement: Announcement
    start: Callable[[], None]
    stop: Callable[[], None]
    version: str
    cors: bool = True
    watch_limits: WatchLimits = WatchLimits()
    door_limits: DoorLimits = DoorLimits()
    clock: Callable[[], float] = time.monotonic
    revoked: Callable[[], object] = lambda: None


def create_app(parts: Parts) -> FastPath:
    """The application for an ASGI server."""
    reading = Threads(_READING_THREADS, name="web-read")
    submitting = Threads(1, name="web-submit")
    waiting = Waiting(reading, admit=parts.limit_fetches)
    answers = _build_answers(parts, reading, submitting, waiting)
    requests: Requests = Counter()
    endpoints = _Endpoints(parts, answers, reading)
    downloads = Downloads(parts.store, reading, on_use=parts.builds.touch)
    metadata = Metadata(
        parts.catalog, waiting, callers=parts.callers, announcement=parts.announcement, clock=parts.clock
    )
    search = Search(parts.catalog)
    searching = SearchEndpoints(search, waiting, callers=parts.callers, clock=parts.clock)
    statistics = StatisticsPages(parts.charts, parts.builds, reading, clock=parts.clock)
    operator = OperatorEndpoints(
        parts.operator,
        OperatorActs(parts.operator, threads=reading, forget=answers.forget),
        callers=parts.callers,
        threads=reading,
        configuration=parts.configuration,
    )
    streams = LateStreams(lambda: _load_streams(parts, reading, answers))
    preview = PreviewEndpoint(
        parts.preview, reading, waiting, callers=parts.callers, admit=parts.limit_previews
    )

    leads_to: dict[str, Callable[[Request], Any]] = {
        **_build_routes(endpoints, streams),
        "/api/v1/packages/preview": preview.preview,
        "/api/v1/stats": endpoints.queue_length,
        "/health": endpoints.health,
        "/metrics": metrics_endpoint(parts.metrics, reading, requests, streams),
        "/store/{request_hash}/{name}": downloads.download,
        "/openapi.json": endpoints.openapi,
        **operator_routes(operator),
        **metadata_routes(metadata),
        **statistics_routes(statistics),
        **search_routes(searching),
    }
    routes = [
        Route(operation.path, _endpoint(leads_to, operation), methods=list(operation.methods))
        for operation in OPERATIONS
    ]
    pages = LatePages(lambda: _load_pages(parts, reading, waiting, answers, search), reading)
    app = Starlette(
        routes=[*routes, *pages.routes()],
        exception_handlers={
            AsuError: make_error_hook(parts.callers.may_read),
            HTTPException: on_http_error,
            Exception: on_bug,
        },
        lifespan=partial(_lifespan, parts, reading, submitting),
    )
    app.state.most_fields = parts.door_limits.fields
    return FastPath(
        app,
        answers,
        callers=parts.callers,
        cors=parts.cors,
        streams=streams,
        waiting=waiting,
        requests=requests,
    )


@contextlib.asynccontextmanager
async def _lifespan(parts: Parts, reading: Threads, submitting: Threads, _: Starlette) -> AsyncIterator[None]:
    parts.start()
    try:
        yield
    finally:
        await reading.run(parts.stop)
        reading.close()
        submitting.close()


def _build_routes(endpoints: "_Endpoints", streams: LateStreams) -> dict[str, Callable[[Request], Any]]:
    return {
        "/api/v1/build": endpoints.submit,
        "/api/v1/build/{request_hash}": endpoints.look,
        "DELETE /api/v1/build/{request_hash}": endpoints.cancel,
        "/api/v1/build/{request_hash}/events": streams.events,
        "/api/v1/build/{request_hash}/log": streams.log,
    }


def _build_answers(parts: Parts, reading: Threads, submitting: Threads, waiting: Waiting) -> BuildAnswers:
    return BuildAnswers(
        parts.builds,
        reading=reading,
        submitting=submitting,
        waiting=waiting,
        record_cache_hit=lambda request, client: parts.statistics.record("cache_hit", request, client=client),
        standing_headers=standing_headers(cors=parts.cors),
        clock=parts.clock,
        revoked=parts.revoked,
    )


def _load_streams(parts: Parts, reading: Threads, answers: BuildAnswers) -> "LiveStreams":
    from asu_builder.http.api.live import LiveStreams  # most starts need none of it

    # Whoever has seen the end of a build polls it next, and must not be told what was true before.
    return LiveStreams(
        parts.live, reading, callers=parts.callers, limits=parts.watch_limits, on_end=answers.forget
    )


def _load_pages(
    parts: Parts, reading: Threads, waiting: Waiting, answers: BuildAnswers, search: Search
) -> Mapping[str, Endpoint]:
    with LOADING:
        from asu_builder.http.pages import PageParts, make_pages  # with templates and all

    return make_pages(
        PageParts(
            builds=parts.builds,
            health=parts.health,
            charts=parts.charts,
            catalog=parts.catalog,
            crowds=parts.crowds,
            operator=parts.operator,
            configuration=parts.configuration,
            search=search,
            live=parts.live,
            preview=parts.preview,
            limit_previews=parts.limit_previews,
            answers=answers,
            announcement=parts.announcement,
            callers=parts.callers,
            threads=reading,
            waiting=waiting,
            clock=parts.clock,
            description=lambda: _describe(parts.version),
            version=parts.version,
        )
    )


def _describe(version: str) -> dict[str, Any]:
    return describe(OPERATIONS, version=version)


def _endpoint(
    leads_to: Mapping[str, Callable[[Request], Any]], operation: Operation
) -> Callable[[Request], Any]:
    """By method and path where a path does different things, else by path."""
    return leads_to.get(f"{operation.methods[0]} {operation.path}") or leads_to[operation.path]


class _Endpoints:
    """What each address does, downloads apart."""

    def __init__(self, parts: Parts, answers: BuildAnswers, threads: Threads) -> None:
        self._parts = parts
        self._answers = answers
        self._threads = threads
        self._openapi: Answer | None = None

    async def submit(self, request: Request) -> Response:
        caller = self._parts.callers.of(request.scope)
        agent = request.headers.get("user-agent", "")
        return respond(await self._answers.submit(await request.body(), agent, caller))

    async def cancel(self, request: Request) -> Response:
        caller = self._parts.callers.of(request.scope)
        cancel_token = request.headers.get("x-cancel-token", "")[:256]
        request_hash = request.path_params["request_hash"]
        answer = await self._answers.cancel(request_hash, caller, cancel_token)
        return respond(Answer(200, answer.body, answer.headers))

    async def look(self, request: Request) -> Response:
        return respond(await self._answers.look(request.path_params["request_hash"]))

    async def queue_length(self, _: Request) -> Response:
        pending = await self._threads.run(self._parts.builds.pending)
        return respond(render_json(QueueLength(pending)))

    async def health(self, request: Request) -> Response:
        report = self._parts.health.report()
        if not self._parts.callers.may_read(request):
            report = report.for_everybody()
        building = request.query_params.get("for") == "build"
        serving = report.can_build if building else report.polls_answered
        document = HealthDocument(
            report.state,
            polls_answered=report.polls_answered,
            can_build=report.can_build,
            parts={
                name: Part(STATES[result.status], result.sentence) for name, result in report.parts.items()
            },
            caller=self._parts.callers.of(request.scope).name,
        )
        response = respond(render_json(document))
        response.status_code = 200 if serving else 503
        return response

    async def openapi(self, _: Request) -> Response:
        if self._openapi is None:
            self._openapi = render_json(_describe(self._parts.version))
        response = respond(self._openapi)
        response.headers["cache-control"] = "max-age=60"
        return response
