"""The service as Prometheus reads it; docs/metrics.md explains every name.

Numbers are read when somebody scrapes. Labels are bounded: none names a profile, a package, a
request hash, a client or a version that was asked for. Imported at the first scrape.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from asu_builder.core.metrics import Gauges, Measures
from asu_builder.core.stage_timer import Histogram
from asu_builder.domain.job import Priority

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_PREFIX = "asu_builder_"
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_OTHER = "other"
_STATES = ("ok", "degraded", "down")


class Exposition:
    """Renders what `gauges` reads, in Prometheus' text format."""

    def __init__(self, gauges: Gauges, *, version: str) -> None:
        self._gauges = gauges
        self._version = version
        self._process = ProcessCollector(registry=None)

    def render(self, requests: Mapping[tuple[str, str, int], int], watchers: int) -> bytes:
        """The whole text.

        `requests` counts answers by method, route and status; `watchers` follow a build live.
        """
        measures = self._gauges.read()
        families = [
            *_service(measures, self._version, watchers),
            *_queue(measures),
            *_builds(measures),
            *_requests(requests),
            *self._process.collect(),
        ]
        return generate_latest(_Families(families))


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _service(measures: Measures, version: str, watchers: int) -> Iterator[Metric]:
    info = InfoMetricFamily(f"{_PREFIX}version", "Which version of ASU Builder runs.")
    info.add_metric([], {"version": version})
    yield info
    parts = _gauge("part_state", "Whether a part is in this state (1) or not (0).", "part", "state")
    for part, verdict in measures.health.verdicts.items():
        for state in _STATES:
            parts.add_metric([part, state], verdict.status == state)
    yield parts
    yield _number("can_build", "Whether a build could run now.", measures.health.can_build)
    yield _number("polls_answered", "Whether polls can be answered now.", measures.health.polls_answered)
    yield _number(
        "database_read", "Whether this scrape could read the queue's numbers.", measures.queue is not None
    )
    if measures.stored_bytes is not None:
        yield _number("store_bytes", "What the images of all results take on disk.", measures.stored_bytes)
    yield _number("store_room_bytes", "Free disk above disk_floor; negative below it.", measures.room_bytes)
    yield _number(
        "statistics_events_waiting", "Statistics events that are not written yet.", measures.events_waiting
    )
    yield _number("watchers", "Connections that follow a build live.", watchers)


def _queue(measures: Measures) -> Iterator[Metric]:
    yield _number("workers", "How many builds this process runs at once.", measures.workers)
    yield _number("running_builds", "Builds that run in this process.", measures.running)
    if measures.queue is None:
        return
    yield _number("building_jobs", "Jobs that are being built, in all processes.", measures.queue.building)
    yield _number("workers_paused", "Whether an operator has paused the workers.", bool(measures.paused))
    waiting = _gauge(
        "queue_jobs",
        "Jobs that wait, by class, and by whether nobody polls them any more.",
        "class",
        "deprioritized",
    )
    ages = _gauge(
        "queue_oldest_job_age_seconds", "How long the first of the waiting jobs waits.", "deprioritized"
    )
    for deprioritized in (False, True):
        ages.add_metric([_word(deprioritized)], measures.oldest[deprioritized])
        for priority in Priority:
            found = measures.queue.waiting.get((priority, deprioritized))
            waiting.add_metric([priority.name.lower(), _word(deprioritized)], found.jobs if found else 0)
    yield waiting
    yield ages


def _builds(measures: Measures) -> Iterator[Metric]:
    yield _count("builds_requested", "New builds that were asked for.", measures.requested)
    yield _count("cache_hits", "Requests that a kept result has answered.", measures.cache_hits)
    ended = _counter("builds_ended", "Builds that came to their end, by their outcome.", "outcome")
    for outcome, count in measures.ended.items():
        ended.add_metric([outcome], count)
    yield ended
    failed = _counter(
        "builds_failed", "Builds that failed, by why and whose side it is on.", "reason", "fault"
    )
    for (reason, side), count in measures.failed.items():
        failed.add_metric([reason, side.fault], count)
    yield failed
    builds = _histogram(
        "build_duration_seconds", "From the claim of a job to the end of its build.", "outcome"
    )
    for completed, histogram in measures.builds.items():
        _add(builds, "completed" if completed else "failed", histogram)
    yield builds
    stages = _histogram("build_stage_duration_seconds", "How long builds stayed in a stage.", "stage")
    for stage, histogram in measures.stages.items():
        _add(stages, stage, histogram)
    yield stages


def _requests(requests: Mapping[tuple[str, str, int], int]) -> Iterator[Metric]:
    counted: dict[tuple[str, str, int], int] = {}
    for (method, route, status), count in requests.items():
        key = (method if method in _METHODS else _OTHER, route, status)
        counted[key] = counted.get(key, 0) + count
    family = _counter("http_requests", "Answers by method, route and status.", "method", "route", "status")
    for (method, route, status), count in sorted(counted.items()):
        family.add_metric([method, route, str(status)], count)
    yield family


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, meaning, labels=labels)


def _number(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, meaning, value=value)


def _counter(name: str, meaning: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, meaning, labels=labels)


def _count(name: str, meaning: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, meaning, value=value)


def _histogram(name: str, meaning: str, label: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(_PREFIX + name, meaning, labels=[label])


def _add(family: HistogramMetricFamily, label: str, histogram: Histogram) -> None:
    buckets: list[Any] = [
        (str(bound), count) for bound, count in zip(histogram.bounds, histogram.cumulative, strict=True)
    ]
    family.add_metric([label], [*buckets, ("+Inf", histogram.count)], histogram.sum)


def _word(holds: bool) -> str:
    return "true" if holds else "false"
