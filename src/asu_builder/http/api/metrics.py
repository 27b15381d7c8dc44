"""The service as Prometheus reads it; docs/metrics.md explains every name.

Labels are bounded: none names a profile, a package, a request hash, a client or a version that was
asked for. The first scrape loads prometheus_client.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.health import STATES, Health
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.metrics import DurationCounts, EventCounts
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import Priority
from asu_builder.http.api.live import LiveEndpoints
from asu_builder.http.openapi import operation
from asu_builder.http.threads import Threads
from asu_builder.loading import LOADING
from asu_builder.ports import Operations, Statistics, Store

if TYPE_CHECKING:
    from prometheus_client import Metric, ProcessCollector
    from prometheus_client.registry import Collector

Requests = Counter[tuple[str, str, int]]
"""How often (method, route, status) was answered since the start."""
Family = tuple[str, str, tuple[str, ...], Mapping[tuple[str, ...], float]]
"""A metric: its name, its meaning, its labels, and a number for each combination of their values."""

_PREFIX = "asu_builder_"
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

        gauges = [*self._service(watchers), *self._queue()]
        counters = [*self._builds(), _http_requests(requests)]
        self._process = self._process or ProcessCollector(registry=None)
        metrics: list[Metric] = list(self._process.collect())
        for kind, families in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, meaning, labels, samples in families:
                family = kind(_PREFIX + name, meaning, labels=labels)
                metrics.append(family)
                for values, number in samples.items():
                    family.add_metric(values, number)
        for name, meaning, label, durations in self._durations():
            histogram = HistogramMetricFamily(_PREFIX + name, meaning, labels=[label])
            metrics.append(histogram)
            for value, counted in durations.items():
                cumulative, seconds = counted.read()
                bounds = (*map(str, counted.bounds), "+Inf")
                histogram.add_metric([value], list(zip(bounds, cumulative, strict=True)), seconds)
        collector = SimpleNamespace(collect=lambda: metrics)
        return generate_latest(cast("Collector", collector)), CONTENT_TYPE_PLAIN_0_0_4

    def _service(self, watchers: int) -> Iterator[Family]:
        health = self._health.report()
        yield "version_info", "Which version of ASU Builder runs.", ("version",), {(self._version,): 1}
        yield (
            "part_state",
            "Whether a part is in this state (1) or not (0).",
            ("part", "state"),
            {
                (part, state): result.status == status
                for part, result in health.parts.items()
                for status, state in STATES.items()
            },
        )
        yield _single("can_build", "Whether a build could run now.", health.can_build)
        yield _single("polls_answered", "Whether polls can be answered now.", health.polls_answered)
        stored = self._housekeeping.stored_bytes
        if stored is not None:
            yield _single("store_bytes", "What the images of all results take on disk.", stored)
        try:
            room = self._store.room()
        except AsuError:
            room = 0
        yield _single("store_room_bytes", "Free disk above disk_floor; negative below it.", room)
        yield _single(
            "statistics_events_waiting",
            "Statistics events that are not written yet.",
            self._statistics.waiting(),
        )
        yield _single("watchers", "Connections that follow a build live.", watchers)
        yield _single("workers", "How many builds this process runs at once.", self._workers.concurrent)
        yield _single("running_builds", "Builds that run in this process.", self._workers.running)

    def _queue(self) -> Iterator[Family]:
        read = ("database_read", "Whether this scrape could read the queue's numbers.")
        try:
            queue, paused = self._operations.load(), self._operations.paused() is not None
        except AsuError:
            yield _single(*read, 0)
            return
        yield _single(*read, 1)
        yield _single("building_jobs", "Jobs that are being built, in all processes.", queue.building)
        yield _single("workers_paused", "Whether an operator has paused the workers.", paused)
        jobs: dict[tuple[str, ...], float] = {
            (priority.name.lower(), _word(deprioritized)): 0
            for deprioritized in (False, True)
            for priority in Priority
        }
        # No job is younger than 0, even when the clock was set back.
        ages: dict[tuple[str, ...], float] = {("false",): 0.0, ("true",): 0.0}
        for (priority, deprioritized), waiting in queue.waiting.items():
            word = _word(deprioritized)
            jobs[priority.name.lower(), word] = waiting.jobs
            ages[word,] = max(ages[word,], (self._now() - waiting.since).total_seconds())
        yield (
            "queue_jobs",
            "Jobs that wait, by class, and by whether they are deprioritized because no client polls them.",
            ("class", "deprioritized"),
            jobs,
        )
        yield (
            "queue_oldest_job_age_seconds",
            "How long the first of the waiting jobs waits.",
            ("deprioritized",),
            ages,
        )

    def _builds(self) -> Iterator[Family]:
        counts = self._counts
        yield _single("builds_requested", "New builds that were asked for.", counts.of("request"))
        yield _single("cache_hits", "Requests that a stored result has answered.", counts.of("cache_hit"))
        yield (
            "builds_ended",
            "Builds that came to their end, by their outcome.",
            ("outcome",),
            {
                ("completed",): counts.of("completed"),
                ("failed",): counts.of("failed"),
                ("cancelled",): counts.of("cancelled"),
            },
        )
        yield (
            "builds_failed",
            "Builds that failed, by why and whose side it is on.",
            ("reason", "fault"),
            {(reason, side.fault): count for (reason, side), count in counts.failures().items()},
        )

    def _durations(self) -> Iterator[tuple[str, str, str, Mapping[str, DurationCounts]]]:
        durations = self._workers.durations
        builds = {"completed" if completed else "failed": it for completed, it in durations.builds.items()}
        meaning = "From the claim of a job to the end of its build."
        yield "build_duration_seconds", meaning, "outcome", builds
        stages = {str(stage): counted for stage, counted in durations.stages.items()}
        yield "build_stage_duration_seconds", "How long builds stayed in a stage.", "stage", stages


def _http_requests(requests: Mapping[tuple[str, str, int], int]) -> Family:
    counted = Counter[tuple[str, ...]]()
    for (method, route, status), count in sorted(requests.items()):
        counted[method if method in _METHODS else "other", route, str(status)] += count
    return "http_requests", "Answers by method, route and status.", ("method", "route", "status"), counted


def _single(name: str, meaning: str, number: float) -> Family:
    return name, meaning, (), {(): number}


def _word(holds: bool) -> str:
    return "true" if holds else "false"


class MetricsEndpoint:
    """Where Prometheus asks. `requests` counts answers, `live` knows who watches a build."""

    def __init__(
        self, collector: MetricsCollector, threads: Threads, requests: Requests, live: LiveEndpoints
    ) -> None:
        self._collector = collector
        self._threads = threads
        self._requests = requests
        self._live = live

    @operation("/metrics", answers={200: ("Prometheus' text format", None)}, content_type="text/plain")
    async def metrics(self, _: Request) -> Response:
        """The service in numbers, for Prometheus."""
        # Copied here, because the event loop counts on.
        requests, watchers = dict(self._requests), self._live.watchers
        body, content_type = await self._threads.run(self._collector.render, requests, watchers)
        return Response(body, media_type=content_type)
