"""Which address leads where. Loaded after the port has opened: docs/architecture.md, *The start*."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import asdict, replace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from asu_builder.core.search import Search
from asu_builder.domain.errors import AsuError
from asu_builder.http.api.builds import BuildAnswers
from asu_builder.http.api.comparison import ComparisonEndpoints
from asu_builder.http.api.keys import Keys
from asu_builder.http.api.live import LiveEndpoints
from asu_builder.http.api.metadata import MAX_AGE, Metadata
from asu_builder.http.api.monitoring import MonitoringEndpoints, Requests
from asu_builder.http.api.operator import OperatorActs, OperatorEndpoints
from asu_builder.http.api.preview import PreviewEndpoint
from asu_builder.http.api.statistics import StatisticsEndpoints
from asu_builder.http.api.store import Downloads
from asu_builder.http.api.wire import RenderedResponse, render_json
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.door import ClientGone
from asu_builder.http.openapi import conditional_operation, declared, describe
from asu_builder.http.parts import ERROR_PAGE, HEALTH_PAGE, PageParts, Parts
from asu_builder.http.representations import (
    Problem,
    ShowProblem,
    make_bug_hook,
    make_error_hook,
    make_http_error_hook,
    respond,
    wants_page,
)
from asu_builder.http.threads import Threads, Waiting
from asu_builder.loading import Late

Endpoint = Callable[[Request], Awaitable[Response]]
_DESCRIPTION_BYTES = 1 << 20


class Description:
    """What the interface says about itself."""

    def __init__(self, version: str, threads: Threads) -> None:
        self._version = version
        self._cache = TtlCache(
            threads, budget=_DESCRIPTION_BYTES, largest=_DESCRIPTION_BYTES, clock=lambda: 0.0
        )

    @conditional_operation("/openapi.json", answers={200: ("OpenAPI 3.1", None)})
    async def openapi(self, request: Request) -> Response:
        """This description."""
        return await self._cache.answer(request, "openapi", self._render, (MAX_AGE,))

    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return describe(OPERATIONS, version=self._version)

    def _render(self) -> Rendered:
        return Rendered(render_json(self.document()).body, math.inf)


HANDLERS: Mapping[type, str] = {
    BuildAnswers: "Builds",
    LiveEndpoints: "Watching a build",
    PreviewEndpoint: "Packages before a build",
    ComparisonEndpoints: "Comparisons",
    Downloads: "Images and other files",
    Keys: "Keys",
    Metadata: "Versions, devices and packages",
    StatisticsEndpoints: "Statistics",
    MonitoringEndpoints: "Monitoring",
    OperatorEndpoints: "Operators",
    Description: "This description",
}
"""Whose methods answer below `/api`, `/json`, `/store` and `/keys`, and about what, in order."""

OPERATIONS = tuple(
    replace(found, subject=subject) for kind, subject in HANDLERS.items() for found, _ in declared(kind)
)

PAGES = (
    "GET /",
    "GET /status",
    "GET /favicon.ico",
    "GET /help",
    "GET /help/{path:path}",
    "GET /robots.txt",
    "GET /llms.txt",
    "GET /queue",
    "POST /queue/acts",
    "GET /statistics",
    "GET /stats",
    "GET /configuration",
    "GET /docs",
    "GET /static/{digest}/{name}",
    "GET /build",
    "POST /build",
    "GET /compare",
    "GET /firmware-selector/config.js",
    "GET /build/{request_hash}",
    "POST /build/{request_hash}/again",
    "POST /build/{request_hash}/cancel",
    "POST /build/{request_hash}/keep",
    "GET /build/{request_hash}/sha256sums",
    "GET /build/{request_hash}/manifest",
    "POST /language",
    "POST /session",
    "POST /session/end",
)
"""Each address of a page with its method; GET answers HEAD too. Their code is loaded with the first."""


def create_router(
    parts: Parts,
    answers: BuildAnswers,
    *,
    live: LiveEndpoints,
    waiting: Waiting,
    requests: Requests,
) -> ASGIApp:
    """What answers all that the fast path does not; raises `ClientGone` where the client has left.

    `requests` counts answers by method, route and status.
    """
    callers, clock, reading = parts.callers, parts.clock, waiting.threads
    search = Search(parts.catalog)
    description = Description(parts.version, reading)
    acts = OperatorActs(parts.operator, threads=reading, forget=answers.forget)
    monitoring = MonitoringEndpoints(
        parts.health,
        parts.metrics(),
        reading,
        callers=callers,
        requests=requests,
        watchers=lambda: live.watchers,
    )
    subjects = (
        Downloads(parts.store, reading, callers=callers, settings=parts.settings, on_use=parts.builds.touch),
        answers,
        live,
        OperatorEndpoints(
            parts.operator, acts, callers=callers, threads=reading, configuration=parts.configuration
        ),
        PreviewEndpoint(parts.preview, reading, waiting, callers=callers, admit=parts.limit_previews),
        ComparisonEndpoints(
            parts.comparisons(), reading, waiting, callers=callers, admit=parts.limit_previews
        ),
        monitoring,
        Keys((parts.signing, parts.attestation), reading),
        Metadata(
            parts.catalog,
            search,
            waiting,
            callers=callers,
            settings=parts.settings,
            version=parts.version,
            clock=clock,
        ),
        StatisticsEndpoints(parts.charts(), parts.builds, reading, clock=clock),
        description,
    )
    pages = Late(partial(_load_pages, parts, waiting, answers, search, description))
    show_health, health = _page(HEALTH_PAGE, pages, reading), _endpoint(monitoring.health)

    async def choose_health(request: Request) -> Response:
        return await (show_health if wants_page(request) else health)(request)

    async def show(request: Request, problem: Problem) -> Response:
        request.state.problem = problem
        return await _page(ERROR_PAGE, pages, reading)(request)

    # Before the one of the same address that the description declares.
    routes = [Route("/health", choose_health), *_routes_of(*subjects)]
    for address in PAGES:
        method, _, path = address.partition(" ")
        routes.append(Route(path, _page(address, pages, reading), methods=[method]))
    return _answering(routes, parts, show)


def create_monitoring_router(parts: Parts, threads: Threads, *, requests: Requests) -> ASGIApp:
    """The same of a process that answers only those who monitor it."""
    subject = MonitoringEndpoints(
        parts.health, parts.metrics(), threads, callers=parts.callers, requests=requests
    )
    return _answering(_routes_of(subject), parts)


def _routes_of(*subjects: object) -> list[Route]:
    return [
        Route(found.path, _endpoint(handler), methods=list(found.methods))
        for subject in subjects
        for found, handler in declared(subject)
    ]


def _answering(routes: Sequence[Route], parts: Parts, show: ShowProblem | None = None) -> ASGIApp:
    starlette = Starlette(
        routes=routes,
        exception_handlers={
            AsuError: make_error_hook(parts.callers.may_read, show),
            HTTPException: make_http_error_hook(show),
            Exception: make_bug_hook(show),
        },
    )
    starlette.state.most_fields = parts.settings.max_fields

    async def router(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await starlette(scope, receive, send)
        except ClientDisconnect:
            raise ClientGone from None

    return router


def _endpoint(handler: Callable[[Request], Awaitable[Response | RenderedResponse]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        answer = await handler(request)
        return respond(answer) if isinstance(answer, RenderedResponse) else answer

    return endpoint


def _page(address: str, pages: Late[Mapping[str, Endpoint]], threads: Threads) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        loaded = await threads.run(pages) if pages.value is None else pages.value
        return await loaded[address](request)

    return endpoint


def _load_pages(
    parts: Parts,
    waiting: Waiting,
    answers: BuildAnswers,
    search: Search,
    description: Description,
) -> Mapping[str, Endpoint]:
    from asu_builder.http.pages import make_pages  # with templates and all

    return make_pages(
        PageParts(
            **asdict(parts),
            search=search,
            answers=answers,
            threads=waiting.threads,
            waiting=waiting,
            description=description.document,
        )
    )
