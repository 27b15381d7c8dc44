"""How the service is, and how many jobs wait."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.health import STATES, Health
from asu_builder.core.submit import Builds
from asu_builder.http.api.wire import Problem, render_json
from asu_builder.http.callers import Callers
from asu_builder.http.errors import respond
from asu_builder.http.openapi import operation, says
from asu_builder.http.threads import Threads


class QueueLength(msgspec.Struct):
    """How many jobs wait."""

    queue_length: Annotated[int, says("Jobs that wait", 3, minimum=0)]


class Part(msgspec.Struct):
    """How one part of the service is, in a word and a sentence."""

    status: Annotated[str, says("In a word", "ok", "down")]
    sentence: Annotated[str, says("For people, with what to do", "Podman 5.4.0 answers.")]


class HealthDocument(msgspec.Struct):
    """How the service is: ok, degraded (something is down, polls are answered) or down."""

    status: Annotated[str, says("In a word", "ok", enum=["ok", "degraded", "down"])]
    polls_answered: Annotated[bool, says("Whether clients learn how their builds are", True)]
    can_build: Annotated[bool, says("Whether a build could run now", True)]
    parts: Annotated[
        Mapping[str, Part],
        says("Each part by its name", {"engine": {"status": "ok", "sentence": "Podman answers."}}),
    ]
    caller: Annotated[
        str, says("Who asks, as this server counts: a token's name or an address", "203.0.113.7")
    ] = ""


class HealthEndpoints:
    """What monitors and clients ask."""

    def __init__(self, health: Health, builds: Builds, threads: Threads, *, callers: Callers) -> None:
        self._health = health
        self._builds = builds
        self._threads = threads
        self._callers = callers

    @operation(
        "/api/v1/stats",
        answers={
            200: ("The length of the queue", QueueLength),
            503: ("The database does not answer", Problem),
        },
    )
    async def queue_length(self, _: Request) -> Response:
        """How many jobs wait."""
        return respond(render_json(QueueLength(await self._threads.run(self._builds.pending))))

    @operation(
        "/health",
        answers={
            200: ("Polls are answered", HealthDocument),
            503: ("Polls cannot be answered, or with for=build no build could run", HealthDocument),
        },
        query=("for",),
    )
    async def health(self, request: Request) -> Response:
        """How the service is, part by part."""
        report = self._health.report()
        if not self._callers.may_read(request):
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
            caller=self._callers.of(request.scope).name,
        )
        response = respond(render_json(document))
        response.status_code = 200 if serving else 503
        return response
