"""The queue: counts for everybody, jobs and actions for operators."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlencode

from markupsafe import Markup, escape
from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from asu_builder.core.health import HealthReport
from asu_builder.core.operator import QueueSummary
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.job import FINAL_STATES, AuditEntry, Job, JobFilter, JobState
from asu_builder.http.api.operator import OperatorActs, job_filter
from asu_builder.http.cache import Rendered
from asu_builder.http.pages.rendering import ANYBODY, Rendering
from asu_builder.http.pages.session import form
from asu_builder.http.pages.words import english
from asu_builder.http.parts import PageParts
from asu_builder.http.texts import current, gettext, marked

FILTERS = ("state", "version", "target", "profile", "caller")
JOBS = 50
LOOKED_AT = 3000
"""How many job numbers one page searches, because no index covers every filter."""
_ACTS = 50
_FRESH_SECONDS = 1.0

DONE: Mapping[str, str] = {
    "cancel": marked("The job was cancelled."),
    "requeue": marked("The job is back in the queue."),
    "purge": marked("The result was deleted; the next request starts a new build."),
    "pause": marked("The workers are paused: running builds continue, and no new build starts."),
    "resume": marked("The workers take jobs again."),
}
_OF_ALL_WORKERS = ("pause", "resume")


class Listing(Struct, frozen=True):
    """One page of jobs; `older` is the number before which the next one begins, None at the end."""

    jobs: Sequence[Job]
    older: int | None
    since: int
    """The lowest job number that was searched."""


class QueuePage:
    """The page, its live part alone, and the operator's acts."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._acts = OperatorActs(parts.operator, threads=parts.threads, forget=parts.answers.forget)
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """The page; with `fragment` only its live part. Raises `RequestRejected`."""
        fragment_only = "fragment" in request.query_params
        # Counted once a second for all who watch.
        if fragment_only and not caller.may(Right.READ):
            return await self._rendering.shared(
                request, f"queue, live {current().code}", partial(self._for_anybody, "queue_live.html")
            )
        if caller.token is None and not request.scope["query_string"]:
            return await self._rendering.shared(
                request, f"queue {current().code}", partial(self._for_anybody, "queue.html")
            )
        values = await self._parts.threads.run(self._values, request, caller)
        if fragment_only:
            return self._rendering.page("queue_live.html", request, caller=caller, **values)
        done = gettext(DONE.get(request.query_params.get("done", ""), ""))
        return self._rendering.page("queue.html", request, caller=caller, done=done, **values)

    async def act(self, request: Request, caller: Caller) -> Response:
        """Carries out a form and redirects back. Raises what `Operator` raises."""
        given = await form(request)
        act = given.get("act", "")
        if act not in DONE:
            raise RequestRejected("act: expected one of " + ", ".join(DONE))
        if given.get("sure") != "yes":
            raise RequestRejected('Nothing was changed: tick "I am sure" to confirm.')
        if act in _OF_ALL_WORKERS:
            await self._acts.on_workers(caller, act)
        else:
            await self._acts.on_job(caller, act, given.get("request_hash", ""))
        wanted = {key: values[-1] for key, values in parse_qs(given.get("view", "")[:1000]).items()}
        view = {key: wanted[key] for key in (*FILTERS, "before") if key in wanted}
        return RedirectResponse("/queue?" + urlencode({**view, "done": act}), 303)

    def _for_anybody(self, template: str) -> Rendered:
        """Nothing of the request is in it: what one sends, all would see."""
        values = {**self._counts(ANYBODY), "done": None, "listing": None, "acts": (), "view": ""}
        return self._rendering.for_anybody(template, path="/queue", seconds=_FRESH_SECONDS, **values)

    def _values(self, request: Request, caller: Caller) -> dict[str, Any]:
        given = {name: request.query_params.get(name, "") for name in FILTERS}
        before = request.query_params.get("before", "")
        shared = {
            **self._counts(caller),
            "given": given,
            "states": list(JobState),
            "view": urlencode({name: text for name, text in {**given, "before": before}.items() if text}),
        }
        if not caller.may(Right.READ):
            return {**shared, "listing": None, "acts": ()}
        wanted, operator = job_filter(request), self._parts.operator
        newest = operator.jobs(JobFilter(limit=1))
        end = wanted.before or (newest[0].id + 1 if newest else 1)
        since = max(0, end - LOOKED_AT)
        found = operator.jobs(replace(wanted, before=end, since=since, limit=JOBS + 1))
        if len(found) > JOBS:
            listing = Listing(found[:JOBS], found[JOBS - 1].id, found[JOBS - 1].id)
        else:
            live = wanted.state is not None and wanted.state not in FINAL_STATES
            listing = Listing(found, since if since > 1 and not live else None, since)
        acts: Sequence[AuditEntry] = operator.acts(_ACTS)
        fewer = urlencode({name: text for name, text in given.items() if text})
        return {**shared, "listing": listing, "acts": acts, "filters": fewer}

    def _counts(self, caller: Caller) -> dict[str, Any]:
        crowd, report = self._parts.queue_overview.summary(), self._parts.health.report()
        if not caller.may(Right.READ):
            report = report.for_everybody()
        return {
            "crowd": crowd,
            "hindrance": hindrance(crowd, report),
            "acts_on": acts_on,
        }


def acts_on(state: JobState) -> tuple[tuple[str, str], ...]:
    """What an operator can do with a job in this state, with the labels of the buttons."""
    if state is JobState.PENDING:
        return (("cancel", gettext("Cancel")),)
    if state is JobState.BUILDING:
        return (("cancel", gettext("Cancel")), ("requeue", gettext("Requeue")))
    return (("requeue", gettext("Build again")), ("purge", gettext("Delete the result")))


NEEDED = {
    "database": marked("the database"),
    "engine": marked("the engine"),
    "store": marked("the store"),
}
"""The parts without which nothing is built, as what a sentence says that builds wait for."""


def hindrance(crowd: QueueSummary, report: HealthReport) -> str:
    """Why no build can start now, in a sentence; empty when builds can run."""
    if crowd.pause is not None:
        return gettext("The operator has paused the workers. New requests wait in the queue.")
    if not report.can_build:
        # A process without workers has no engine.
        parts = [name for name in NEEDED if name in report.parts and report.parts[name].status == "error"]
        named = gettext(" and ").join(gettext(NEEDED[part]) for part in parts)
        what = gettext("Builds wait for %(parts)s.", parts=named or gettext("disk space for images"))
        sentences = (report.parts[part].sentence for part in parts)
        return Markup(" ").join((escape(what), *(escape(english(sentence)) for sentence in sentences)))
    return ""
