"""Pages for people: rendered on the server, usable without script, imported at the first visit.

Each page is a module with a class. `make_pages` names the address of each.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import AsuError, NotAuthenticated
from asu_builder.http.cache import Rendered, TtlCache
from asu_builder.http.errors import answer_error, sentence_of, status_of
from asu_builder.http.pages.build_form import BuildForm
from asu_builder.http.pages.build_page import BuildPage
from asu_builder.http.pages.comparison import ComparisonPage
from asu_builder.http.pages.form_offer import FirmwareSelectorConfig
from asu_builder.http.pages.help import HelpSite
from asu_builder.http.pages.interface import interface_body
from asu_builder.http.pages.overview import ConfigurationPage, Overview
from asu_builder.http.pages.queue import QueuePage
from asu_builder.http.pages.rendering import ANYBODY, Rendering, StaticFiles
from asu_builder.http.pages.session import Sessions, cookie_of, form, is_secure, path_here
from asu_builder.http.pages.statistics import StatisticsPage
from asu_builder.http.parts import ERROR_PAGE, HEALTH_PAGE, PageParts
from asu_builder.http.texts import (
    COOKIE,
    QUERY,
    VARY,
    choose_language,
    current,
    gettext,
    language_named,
    speak,
)

Endpoint = Callable[[Request], Awaitable[Response]]
_RELOAD_SECONDS = 3
_LANGUAGE_SECONDS = 365 * 86400
_SHARED_BYTES = 1 << 20
_HELP_BYTES = 4 << 20
_PAGE_OF = {"/queue/acts": "/queue"}
"""The page of a form, by the address that the form is sent to."""
_Page = Callable[[Request, Caller], Awaitable[Response]]


def make_pages(parts: PageParts) -> Mapping[str, Endpoint]:
    """Endpoints by method and address, those of `http.routes.PAGES`."""
    static_files = StaticFiles()
    manual = HelpSite(TtlCache(parts.threads, budget=_HELP_BYTES, largest=_HELP_BYTES, clock=parts.clock))
    shared = TtlCache(parts.threads, budget=_SHARED_BYTES, largest=_SHARED_BYTES, clock=parts.clock)
    rendering = Rendering(static_files, shared, version=parts.version, contact=parts.settings.contact)
    rendering.has_help = manual.is_there
    sessions = Sessions(parts.callers)
    overview = Overview(parts, rendering)
    queue = QueuePage(parts, rendering)
    statistics = StatisticsPage(parts.charts(), threads=parts.threads, rendering=rendering)
    configuration = ConfigurationPage(parts, rendering)
    build_form = BuildForm(parts, rendering)
    build_page = BuildPage(parts, rendering)

    async def old_statistics(request: Request, caller: Caller) -> Response:
        # The predecessor's address.
        return RedirectResponse("/statistics", 301)

    async def interface(request: Request, caller: Caller) -> Response:
        def render() -> Rendered:
            body = interface_body(parts.description())
            return rendering.for_anybody("interface.html", path="/docs", seconds=math.inf, body=body)

        if caller.token is None:
            return await rendering.shared(request, f"interface {current().code}", render)
        body = await parts.threads.run(lambda: interface_body(parts.description()))
        return rendering.page("interface.html", request, caller=caller, body=body)

    page = partial(_whole, rendering, sessions)
    return {
        "GET /static/{digest}/{name}": static_files.serve,
        "GET /": page(overview.show),
        "GET /status": page(overview.show_status),
        "GET /favicon.ico": static_files.serve_icon,
        "GET /help": manual.show,
        "GET /help/{path:path}": manual.show,
        "GET /robots.txt": partial(_serve_text, rendering, "robots.txt"),
        "GET /llms.txt": partial(_serve_text, rendering, "llms.txt"),
        HEALTH_PAGE: page(overview.show_health),
        ERROR_PAGE: page(partial(_show_problem, rendering)),
        "GET /queue": page(queue.show),
        "POST /queue/acts": page(queue.act),
        "GET /statistics": page(statistics.show),
        "GET /stats": page(old_statistics),
        "GET /configuration": page(configuration.show),
        "GET /docs": page(interface),
        "GET /build": page(build_form.show),
        "POST /build": page(build_form.send),
        "GET /firmware-selector/config.js": page(FirmwareSelectorConfig(parts).show),
        "GET /compare": page(ComparisonPage(parts, rendering).show),
        "GET /build/{request_hash}": page(build_page.show),
        "POST /build/{request_hash}/again": page(build_page.again),
        "POST /build/{request_hash}/cancel": page(build_page.cancel),
        "POST /build/{request_hash}/keep": page(build_page.keep),
        "GET /build/{request_hash}/sha256sums": page(build_page.sums),
        "GET /build/{request_hash}/manifest": page(build_page.manifest),
        "POST /language": page(_choose_language),
        "POST /session": page(lambda request, _: sessions.begin(request)),
        "POST /session/end": page(lambda request, _: sessions.end(request)),
    }


def _whole(rendering: Rendering, sessions: Sessions, show: _Page) -> Endpoint:
    """An endpoint of a page; errors are shown as a page too."""

    async def endpoint(request: Request) -> Response:
        chosen = request.query_params.get(QUERY, "")
        accepted = request.headers.getlist("accept-language")
        speak(choose_language(chosen, cookie_of(request, COOKIE), accepted))
        caller = sessions.caller(request)
        try:
            response = await show(request, caller)
        except AsuError as error:
            response = _error_page(rendering, request, caller, error)
        if language_named(chosen):
            _remember_language(request, response, chosen)
        response.headers["vary"] = VARY
        if _reloads(request, response.status_code):
            response.headers["refresh"] = str(_RELOAD_SECONDS)
        return response

    return endpoint


async def _choose_language(request: Request, caller: Caller) -> Response:
    """Keeps the language of a form in a cookie. Raises what `form` raises."""
    given = await form(request)
    response = RedirectResponse(path_here(given.get("next", "")), 303)
    if language_named(given.get(QUERY, "")):
        _remember_language(request, response, given[QUERY])
    return response


def _remember_language(request: Request, response: Response, code: str) -> None:
    """So that the scripts of a page, and the pages after it, are answered in the same language."""
    response.headers["cache-control"] = "no-store"
    language = language_named(code) or current()
    secure = is_secure(request)
    response.set_cookie(
        COOKIE, language.code, max_age=_LANGUAGE_SECONDS, samesite="lax", httponly=True, secure=secure
    )


async def _serve_text(rendering: Rendering, name: str, request: Request) -> Response:
    """What programs that walk the web read about this server."""
    text = rendering.text(name, path="", caller=ANYBODY)
    headers = {"cache-control": "public, max-age=3600"}
    return PlainTextResponse(text, headers=headers)


async def _show_problem(rendering: Rendering, request: Request, caller: Caller) -> Response:
    """The page of `request.state.problem`: what went wrong at an address that is no page."""
    problem = request.state.problem
    if isinstance(problem, AsuError):
        return _error_page(rendering, request, caller, problem)
    status, title, sentence = problem
    back = request.scope["path"]
    return rendering.page(
        "error.html",
        request,
        caller=caller,
        status=status,
        heading=gettext(title),
        sentence=sentence,
        back=back,
        ask_for_token=False,
        first_visit=False,
        reloads=False,
    )


def _reloads(request: Request, status: int) -> bool:
    """Whether the page reloads itself: mostly upstream documents are still being fetched."""
    return status == 503 and request.method == "GET"


def _error_page(rendering: Rendering, request: Request, caller: Caller, error: AsuError) -> Response:
    answer = answer_error(error)
    if answer.status == 500:
        raise error
    sentence, heading = sentence_of(error, details=caller.may(Right.READ)), status_of(error)[1].capitalize()
    path, needs_token = request.scope["path"], isinstance(error, NotAuthenticated)
    first_visit = needs_token and path != "/session"
    if first_visit:
        sentence = gettext("This page is for operators. Sign in with a token.")
    # Of a form the page that shows it.
    back = (
        path if request.method in ("GET", "HEAD") else getattr(request.state, "page", _PAGE_OF.get(path, "/"))
    )
    response = rendering.page(
        "error.html",
        request,
        caller=caller,
        status=answer.status,
        heading=gettext("Sign in") if needs_token else gettext(heading),
        sentence=sentence,
        back=back,
        ask_for_token=needs_token,
        first_visit=first_visit,
        reloads=_reloads(request, answer.status),
    )
    response.raw_headers.extend(answer.headers)
    return response
