"""Pages for people: rendered on the server, usable without script, imported at the first visit.

Each page is a module with a class. `make_pages` names the address of each.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from asu_builder.core.catalog import Catalog
from asu_builder.core.health import Health
from asu_builder.core.live import LiveBuilds
from asu_builder.core.operator import Crowds, Operator
from asu_builder.core.preflight import Preview
from asu_builder.core.search import Search
from asu_builder.core.statistics import Charts
from asu_builder.core.submit import Builds
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import AsuError, NotAuthenticated
from asu_builder.http.api.builds import BuildAnswers
from asu_builder.http.api.operator import ConfigurationDocument, OperatorActs
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.errors import answer_error, sentence_of, status_of
from asu_builder.http.pages.build_form import BuildForm, FormParts
from asu_builder.http.pages.build_page import BuildPage, BuildPageParts
from asu_builder.http.pages.configuration import ConfigurationPage
from asu_builder.http.pages.interface import interface_body
from asu_builder.http.pages.overview import Overview
from asu_builder.http.pages.queue import QueuePage
from asu_builder.http.pages.rendering import Rendering, StaticFiles
from asu_builder.http.pages.session import Sessions
from asu_builder.http.pages.statistics import StatisticsPage
from asu_builder.http.threads import Threads
from asu_builder.http.waiting import Waiting
from asu_builder.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]
_RELOAD_SECONDS = 3
_PAGE_OF = {"/queue/acts": "/queue"}
"""The page of a form, by the address that the form is sent to."""
_Page = Callable[[Request, Caller], Awaitable[Response]]


class PageParts(Struct, frozen=True):
    """What the pages need. `description` returns the OpenAPI document."""

    builds: Builds
    health: Health
    charts: Charts
    catalog: Catalog
    crowds: Crowds
    operator: Operator
    configuration: Callable[[], ConfigurationDocument]
    search: Search
    live: LiveBuilds
    preview: Preview
    limit_previews: Admit
    answers: BuildAnswers
    settings: Settings
    callers: Callers
    threads: Threads
    waiting: Waiting
    clock: Callable[[], float]
    description: Callable[[], dict[str, Any]]
    version: str


def make_pages(parts: PageParts) -> Mapping[str, Endpoint]:
    """Endpoints by method and address, those of `http.app.PAGES`."""
    static_files = StaticFiles()
    rendering = Rendering(static_files, version=parts.version, contact=parts.settings.contact)
    sessions = Sessions(parts.callers)
    overview = Overview(
        parts.health,
        parts.crowds,
        parts.charts,
        catalog=parts.catalog,
        waiting=parts.waiting,
        rendering=rendering,
    )
    queue = QueuePage(
        parts.crowds,
        parts.operator,
        parts.health,
        acts=OperatorActs(parts.operator, threads=parts.threads, forget=parts.answers.forget),
        clock=parts.clock,
        threads=parts.threads,
        rendering=rendering,
    )
    statistics = StatisticsPage(parts.charts, threads=parts.threads, rendering=rendering)
    configuration = ConfigurationPage(parts.configuration, threads=parts.threads, rendering=rendering)

    build_form = _build_form(parts, rendering)
    build_page = _build_page(parts, rendering)

    async def old_statistics(request: Request, caller: Caller) -> Response:
        # The predecessor's address.
        return RedirectResponse("/statistics", 301)

    async def interface(request: Request, caller: Caller) -> Response:
        body = interface_body(parts.description())
        return rendering.page("interface.html", request, caller=caller, body=body)

    page = partial(_whole, rendering, sessions)
    return {
        "GET /static/{digest}/{name}": static_files.serve,
        "GET /": page(overview.show),
        "GET /queue": page(queue.show),
        "POST /queue/acts": page(queue.act),
        "GET /statistics": page(statistics.show),
        "GET /stats": page(old_statistics),
        "GET /configuration": page(configuration.show),
        "GET /docs": page(interface),
        "GET /build": page(build_form.show),
        "POST /build": page(build_form.send),
        "GET /build/{request_hash}": page(build_page.show),
        "POST /build/{request_hash}/again": page(build_page.again),
        "POST /build/{request_hash}/cancel": page(build_page.cancel),
        "POST /session": page(lambda request, _: sessions.begin(request)),
        "POST /session/end": page(lambda request, _: sessions.end(request)),
    }


def _client(parts: PageParts) -> str:
    return f"web/{parts.version}"


def _build_form(parts: PageParts, rendering: Rendering) -> BuildForm:
    return BuildForm(
        FormParts(
            catalog=parts.catalog,
            search=parts.search,
            preview=parts.preview,
            limit_previews=parts.limit_previews,
            answers=parts.answers,
            settings=parts.settings,
            threads=parts.threads,
            waiting=parts.waiting,
            rendering=rendering,
            client=_client(parts),
        )
    )


def _build_page(parts: PageParts, rendering: Rendering) -> BuildPage:
    return BuildPage(
        BuildPageParts(
            answers=parts.answers,
            catalog=parts.catalog,
            search=parts.search,
            preview=parts.preview,
            live=parts.live,
            threads=parts.threads,
            waiting=parts.waiting,
            rendering=rendering,
            settings=parts.settings,
            client=_client(parts),
        )
    )


def _whole(rendering: Rendering, sessions: Sessions, show: _Page) -> Endpoint:
    """An endpoint of a page; errors are shown as a page too."""

    async def endpoint(request: Request) -> Response:
        caller = sessions.caller(request)
        try:
            response = await show(request, caller)
        except AsuError as error:
            response = _error_page(rendering, request, caller, error)
        if _reloads(request, response.status_code):
            response.headers["refresh"] = str(_RELOAD_SECONDS)
        return response

    return endpoint


def _reloads(request: Request, status: int) -> bool:
    """Whether the page reloads itself: mostly upstream documents are still being fetched."""
    return status == 503 and request.method == "GET"


def _error_page(rendering: Rendering, request: Request, caller: Caller, error: AsuError) -> Response:
    answer = answer_error(error)
    if answer.status == 500:
        raise error
    sentence, heading = sentence_of(error, details=caller.may(Right.READ)), status_of(error)[1].capitalize()
    needs_token = isinstance(error, NotAuthenticated)
    first_visit = needs_token and request.scope["path"] != "/session"
    if first_visit:
        sentence = "This page is for operators. Sign in with a token."
    response = rendering.page(
        "error.html",
        request,
        caller=caller,
        status=answer.status,
        heading="Sign in" if needs_token else heading,
        sentence=sentence,
        back=_page_of(request),
        ask_for_token=needs_token,
        first_visit=first_visit,
        reloads=_reloads(request, answer.status),
    )
    response.raw_headers.extend(answer.headers)
    return response


def _page_of(request: Request) -> str:
    """The page to go back to: of a form the page that shows it."""
    if request.method in ("GET", "HEAD"):
        return str(request.scope["path"])
    return str(getattr(request.state, "page", _PAGE_OF.get(request.scope["path"], "/")))
