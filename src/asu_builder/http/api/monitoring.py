"""What monitors read: how the service is, and every number for Prometheus.

docs/metrics.md explains each metric. Labels are bounded: none names a profile, a package, a request hash, a
client or a version that was asked for. The first scrape loads prometheus_client.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec

from asu_builder.core.health import STATES, Health
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.metrics import EventCounts
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import EventKind, Priority
from asu_builder.domain.preflight import PreflightMode
from asu_builder.http.api.wire import RenderedResponse, render_json
from asu_builder.http.callers import Callers
from asu_builder.http.openapi import operation, says
from asu_builder.http.threads import Threads
from asu_builder.loading import LOADING
from asu_builder.ports import ImageSigning, Operations, PreflightRecords, SharedCopies, Statistics, Store

if TYPE_CHECKING:
    from prometheus_client import Metric, ProcessCollector
    from prometheus_client.registry import Collector
    from starlette.requests import Request
    from starlette.responses import Response


class Part(msgspec.Struct):
    """How one part of the service is, in a word and a sentence."""

    status: Annotated[str, says("The status in a word", "ok", "down")]
    sentence: Annotated[str, says("A sentence with what to do", "Podman 5.4.0 answers.")]


class HealthDocument(msgspec.Struct):
    """How the service is: ok, degraded (something is down, polls are answered) or down."""

    status: Annotated[str, says("The status in a word", "ok", enum=["ok", "degraded", "down"])]
    polls_answered: Annotated[bool, says("Whether polls are answered", True)]
    can_build: Annotated[bool, says("Whether a build could run now", True)]
    parts: Annotated[
        Mapping[str, Part],
        says("Each component by its name", {"engine": {"status": "ok", "sentence": "Podman answers."}}),
    ]
    caller: Annotated[
        str, says("The caller as this server identifies it: a token's name or an address", "203.0.113.7")
    ] = ""


Requests = Counter[tuple[str, str, int]]
"""How often (method, route, status) was answered since the start."""
Family = tuple[str, str, tuple[str, ...], Mapping[tuple[str, ...], float]]
"""A metric: its name, its meaning, its labels, and a number for each combination of their values."""

_PREFIX = "asu_builder_"
_OUTCOMES: tuple[EventKind, ...] = ("completed", "failed", "cancelled")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class MetricsCollector:
    """Reads every number when a scrape comes: a few indexed queries and no more.

    Counts and durations are those of this process since its start; the queue is that of all
    processes on this database, and is missing where the database does not answer.
    """

    def __init__(
        self,
        operations: Operations,
        workers: Workers,
        housekeeping: Housekeeping,
        *,
        health: Health,
        store: Store,
        statistics: Statistics,
        counts: EventCounts,
        preflight_records: PreflightRecords,
        signing: ImageSigning | None = None,
        copies: SharedCopies | None = None,
        warm: Callable[[], int] | None = None,
        version: str,
        now: Callable[[], datetime],
    ) -> None:
        self._operations = operations
        self._workers = workers
        self._housekeeping = housekeeping
        self._health = health
        self._store = store
        self._statistics = statistics
        self._counts = counts
        self._preflight_records = preflight_records
        self._signing = signing
        self._copies = copies
        self._warm = warm
        self._version = version
        self._now = now
        self._process: ProcessCollector | None = None

    def render(self, requests: Mapping[tuple[str, str, int], int], watchers: int) -> tuple[bytes, str]:
        """The text and its type.

        `requests` counts answers by method, route and status; `watchers` follow a build live.
        """
        with LOADING:
            from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
            from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        self._process = self._process or ProcessCollector(registry=None)
        metrics: list[Metric] = list(self._process.collect())
        for kind, families in (
            (GaugeMetricFamily, self._gauges(watchers)),
            (CounterMetricFamily, self._counters(requests)),
        ):
            for name, meaning, labels, samples in families:
                family = kind(_PREFIX + name, meaning, labels=labels)
                metrics.append(family)
                for values, number in samples.items():
                    family.add_metric(values, number)
        durations = self._workers.durations
        builds = {"completed" if completed else "failed": it for completed, it in durations.builds.items()}
        for name, meaning, label, observed in (
            ("build_duration", "From the claim of a job to the end of its build.", "outcome", builds),
            ("build_stage_duration", "How long builds stayed in a stage.", "stage", durations.stages),
            ("build_step_duration", "Where the time of completed builds went.", "step", durations.steps),
        ):
            histogram = HistogramMetricFamily(f"{_PREFIX}{name}_seconds", meaning, labels=[label])
            metrics.append(histogram)
            for value, counted in observed.items():
                cumulative, seconds = counted.read()
                bounds = (*map(str, counted.bounds), "+Inf")
                histogram.add_metric([value], list(zip(bounds, cumulative, strict=True)), seconds)
        collector = SimpleNamespace(collect=lambda: metrics)
        return generate_latest(cast("Collector", collector)), CONTENT_TYPE_PLAIN_0_0_4

    def _gauges(self, watchers: int) -> Iterator[Family]:
        health, workers = self._health.report(), self._workers
        states = {
            (part, state): result.status == status
            for part, result in health.parts.items()
            for status, state in STATES.items()
        }
        yield _family("version_info", "Which version of ASU Builder runs.", {(self._version,): 1}, "version")
        meaning = "Whether a part is in this state (1) or not (0)."
        yield _family("part_state", meaning, states, "part", "state")
        yield _family("can_build", "Whether a build could run now.", health.can_build)
        yield _family("polls_answered", "Whether polls can be answered now.", health.polls_answered)
        expires_at = self._signing.expires_at() if self._signing else None
        if expires_at is not None:
            meaning = "When the certificate of the signing key expires, in seconds since 1970."
            yield _family("signing_certificate_expiry_seconds", meaning, expires_at.timestamp())
        stored = self._housekeeping.stored_bytes
        if stored is not None:
            yield _family("store_bytes", "What the images of all results take on disk.", stored)
        try:
            room = self._store.room()
        except AsuError:
            room = 0
        yield _family("store_room_bytes", "Free disk above disk_floor; negative below it.", room)
        meaning = "Statistics events that are not written yet."
        yield _family("statistics_events_waiting", meaning, self._statistics.waiting())
        yield _family("watchers", "Connections that follow a build live.", watchers)
        yield _family("workers", "How many builds this process runs at once.", workers.concurrent)
        yield _family("running_builds", "Builds that run in this process.", workers.running)
        if self._warm:
            yield _family("warm_containers", "Containers that stand started for a build.", self._warm())
        read = ("database_read", "Whether this scrape could read the queue's numbers.")
        try:
            queue, paused = self._operations.load(), self._operations.paused() is not None
            targets = self._preflight_records.targets().values()
        except AsuError:
            yield _family(*read, 0)
            return
        yield _family(*read, 1)
        yield _family("building_jobs", "Jobs that are being built, in all processes.", queue.building)
        yield _family("workers_paused", "Whether an operator has paused the workers.", paused)
        advising = sum(target.mode is PreflightMode.ADVISE for target in targets)
        meaning = "Releases and targets where builds have contradicted what was foretold."
        yield _family("preflight_advising", meaning, advising)
        jobs = {(priority.name.lower(), word): 0 for word in ("false", "true") for priority in Priority}
        # No job is younger than 0, even when the clock was set back.
        ages = {("false",): 0.0, ("true",): 0.0}
        for (priority, deprioritized), waiting in queue.waiting.items():
            word = "true" if deprioritized else "false"
            jobs[priority.name.lower(), word] = waiting.jobs
            ages[word,] = max(ages[word,], (self._now() - waiting.since).total_seconds())
        meaning = "Jobs that wait, by class, and by whether they come last because no client polls them."
        yield _family("queue_jobs", meaning, jobs, "class", "deprioritized")
        meaning = "How long the first of the waiting jobs waits."
        yield _family("queue_oldest_job_age_seconds", meaning, ages, "deprioritized")

    def _counters(self, requests: Mapping[tuple[str, str, int], int]) -> Iterator[Family]:
        counts = self._counts
        yield _family("builds_requested", "New builds that were asked for.", counts.of("request"))
        yield _family("cache_hits", "Requests that a stored result has answered.", counts.of("cache_hit"))
        ended = {(outcome,): counts.of(outcome) for outcome in _OUTCOMES}
        yield _family("builds_ended", "Builds that came to their end, by their outcome.", ended, "outcome")
        failed = counts.failures()
        meaning = "Builds that failed, by why and whose side it is on."
        yield _family("builds_failed", meaning, failed, "reason", "side")
        meaning = "New requests that were answered as a failed build without one, by the package indexes."
        yield _family("builds_refused", meaning, counts.of("refused"))
        preflight = counts.preflight
        compared = {(verdict,): count for verdict, count in preflight.compared().items()}
        meaning = "Builds that were compared with what was foretold, by the verdict."
        yield _family("preflight_compared", meaning, compared, "verdict")
        disagreed = {(cause,): count for cause, count in preflight.disagreed().items()}
        meaning = "Those that ended otherwise, by how."
        yield _family("preflight_disagreed", meaning, disagreed, "cause")
        if self._copies:
            meaning = "Looks for what another node has made, by of what and by what came of it."
            yield _family("shared_reads", meaning, self._copies.reads(), "of", "outcome")
        answers = Counter[tuple[str, str, str]]()
        for (method, route, status), count in sorted(requests.items()):
            answers[method if method in _METHODS else "other", route, str(status)] += count
        meaning = "Answers by method, route and status."
        yield _family("http_requests", meaning, answers, "method", "route", "status")


def _family(name: str, meaning: str, samples: float | Mapping[Any, float], *labels: str) -> Family:
    return name, meaning, labels, samples if isinstance(samples, Mapping) else {(): samples}


class MonitoringEndpoints:
    """What monitors and clients ask."""

    def __init__(
        self,
        health: Health,
        collector: MetricsCollector,
        threads: Threads,
        *,
        callers: Callers,
        requests: Requests,
        watchers: Callable[[], int] = lambda: 0,
    ) -> None:
        """`requests` counts answers, `watchers` who watches a build."""
        self._health = health
        self._collector = collector
        self._threads = threads
        self._callers = callers
        self._requests = requests
        self._watchers = watchers

    @operation(
        "/health",
        answers={
            200: ("Polls are answered", HealthDocument),
            503: ("Polls cannot be answered, or with for=build no build could run", HealthDocument),
        },
        query=("for",),
    )
    async def health(self, request: "Request") -> RenderedResponse:
        """How the service is, part by part."""
        report = self._health.report()
        if not self._callers.may_read(request.scope):
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
        return RenderedResponse(200 if serving else 503, render_json(document).body)

    @operation("/metrics", answers={200: ("Prometheus' text format", None)}, content_type="text/plain")
    async def metrics(self, _: "Request") -> "Response":
        """The service in numbers, for Prometheus."""
        # Copied here, because the event loop counts on.
        requests, watchers = dict(self._requests), self._watchers()
        body, content_type = await self._threads.run(self._collector.render, requests, watchers)
        from starlette.responses import Response

        return Response(body, media_type=content_type)
