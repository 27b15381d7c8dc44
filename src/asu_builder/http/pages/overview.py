"""The first page, the state of the service for those who ask for it, and its settings for operators."""

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.catalog import BranchOffer
from asu_builder.core.health import STATES, HealthReport
from asu_builder.core.statistics import DAYS
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.domain.health import worst
from asu_builder.http.cache import MadeAnswers, Rendered
from asu_builder.http.pages.build_form import offered_versions
from asu_builder.http.pages.charts import Series, stacked_bars
from asu_builder.http.pages.rendering import ANYBODY, SHARED_HEADERS, Rendering
from asu_builder.http.pages.words import HEALTH, english, translated
from asu_builder.http.parts import PageParts
from asu_builder.http.representations import wanted
from asu_builder.http.texts import current, gettext
from asu_builder.http.threads import SHORT_SECONDS

_ERRORS = 8
_DAYS = 7
_FRESH_SECONDS = 1.0
_BYTES = 1 << 18
FIRST = "overview.html"
"""The one template that needs to know what can be built."""


class Overview:
    """The first page, which begins with the search for a device, and the page of the state of the service."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._rendering = rendering
        self._shared = MadeAnswers(
            parts.waiting, budget=_BYTES, largest=_BYTES, clock=parts.clock, patience=SHORT_SECONDS
        )

    async def show(self, request: Request, caller: Caller) -> Response:
        """The first page; operators see the state of the service on it too."""
        return await self._page(FIRST, request, caller)

    async def show_status(self, request: Request, caller: Caller) -> Response:
        """The state of the service."""
        return await self._page("status.html", request, caller)

    async def show_health(self, request: Request, caller: Caller) -> Response:
        """What `/health` tells programs, with the same status."""
        report = self._report(caller)
        building = request.query_params.get("for") == "build"
        serving = report.can_build if building else report.polls_answered
        values = {"report": report, "sentence": health_sentence(report), **_health_words()}
        return self._rendering.page(
            "health.html", request, caller=caller, status=200 if serving else 503, **values
        )

    async def _page(self, template: str, request: Request, caller: Caller) -> Response:
        """Renders it from counts; once a second for all without a token."""
        if caller.token is not None:
            values = await self._parts.waiting.ask(
                caller, template, self._values, template, caller, patience=SHORT_SECONDS
            )
            return self._rendering.page(template, request, caller=caller, **values)
        asked, key = wanted(request.scope), f"{template} {current().code}"
        render = partial(self._for_anybody, template, request.scope["path"])
        made = await self._shared.get(key, caller, render, gzip=asked.gzip)
        return made.document.answer(asked, SHARED_HEADERS)

    def _for_anybody(self, template: str, path: str) -> Rendered:
        values = self._values(template, ANYBODY)
        # One whose look-ups are used up may have made it without them.
        seconds = _FRESH_SECONDS if values["offers"] or template != FIRST else 0.0
        return self._rendering.for_anybody(template, path=path, seconds=seconds, **values)

    def _report(self, caller: Caller) -> HealthReport:
        report = self._parts.health.report()
        return report if caller.may(Right.READ) else report.for_everybody()

    def _values(self, template: str, caller: Caller) -> dict[str, Any]:
        report = self._report(caller)
        days = self._parts.charts().days(DAYS)[-_DAYS:]
        chart = ""
        if any(day.requests for day in days):
            new = Series(gettext("New builds"), "built", [day.requests - day.cache_hits for day in days])
            reused = Series(gettext("Reused results"), "cached", [day.cache_hits for day in days])
            chart = stacked_bars(
                gettext("Requests of the last seven days"), [day.day for day in days], (new, reused)
            )
        offers: list[BranchOffer] = []
        groups: list[tuple[str, list[str]]] = []
        # The page works without them while upstream has not answered or may not be asked.
        with contextlib.suppress(Unavailable, TooManyRequests):
            if template == FIRST:
                offers = [offer for offer in self._parts.catalog.offers() if offer.versions]
                groups = offered_versions(self._parts.catalog)
        return {
            "report": report,
            "sentence": health_sentence(report),
            **_health_words(),
            "crowd": self._parts.queue_overview.summary(),
            "days": days,
            "chart": chart,
            "offers": offers,
            "groups": groups,
            "failures": list(self._parts.charts().failures(_ERRORS)),
        }


def _health_words() -> dict[str, object]:
    """What templates say about the health of parts."""
    return {"part_states": STATES, "health_words": translated(HEALTH)}


def health_sentence(report: HealthReport) -> str:
    """The most important fact of a health report, in one sentence."""
    if report.state == "ok":
        return gettext("Everything works: requests are answered and images are built.")
    return english(worst(list(report.parts.values())).sentence)


class Line(Struct, frozen=True):
    """One setting as text."""

    name: str
    value: str
    origin: str
    default: str
    meaning: str


class ConfigurationPage:
    """The settings of the running process, for tokens that may read."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """Raises `NotAuthenticated` or `NotAllowed`."""
        caller.require(Right.READ)
        document = await self._parts.threads.run(self._parts.configuration)
        lines = [
            Line(
                setting.name,
                _text(setting.value),
                setting.origin,
                gettext("depends on the host") if setting.default is None else _text(setting.default),
                setting.meaning,
            )
            for setting in document.settings
        ]
        return self._rendering.page(
            "configuration.html",
            request,
            caller=caller,
            chosen=[line for line in lines if line.origin != "default"],
            standing=[line for line in lines if line.origin == "default"],
        )


def _text(value: Any) -> str:
    """A value as a settings file has it; a word for an empty one.

    Of a token its name, and in brackets its rights and class.
    """
    if isinstance(value, str):
        return value or gettext("empty")
    if not isinstance(value, list | tuple):
        return gettext("none") if value == {} else msgspec.json.encode(value).decode()
    words = []
    for entry in value:
        if isinstance(entry, Mapping):
            also = [*entry.get("rights", ()), *([entry["priority"]] if "priority" in entry else [])]
            words.append(f"{entry['name']} ({', '.join(also)})" if also else str(entry["name"]))
        else:
            words.append(str(entry))
    return ", ".join(words) or gettext("none")
