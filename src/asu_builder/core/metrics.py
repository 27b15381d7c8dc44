"""What the service counts and times while it runs, read at the moment when somebody asks."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

from msgspec import Struct

from asu_builder.core.health import Health, HealthReport
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.stage_timer import Histogram
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import AsuError, FailureReason, Side
from asu_builder.domain.job import Stage
from asu_builder.ports import EventKind, Operations, QueueLoad, Statistics, Store


class EventCounts:
    """How often each kind of event happened, failures by their reason and side. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[tuple[FailureReason, Side]] = Counter(
            {(reason, reason.side): 0 for reason in FailureReason}
        )

    def note(self, kind: EventKind, reason: str = "", side: str = "") -> None:
        """Counts one event; `reason` and `side` are those of a failure, "" for the reason's own side."""
        # Without the lock two threads could count as one.
        with self._lock:
            self._counts[kind] += 1
            if kind == "failed" and reason in set(FailureReason):
                known = FailureReason(reason)
                self._failures[known, Side(side) if side else known.side] += 1

    def of(self, kind: EventKind) -> int:
        """How often it happened."""
        return self._counts[kind]

    def failures(self) -> dict[tuple[FailureReason, Side], int]:
        """Failures by reason and side; every reason is there with its own side."""
        with self._lock:
            return dict(self._failures)


class Measures(Struct, frozen=True):
    """One look. Nothing in it says what was asked for, or by whom.

    Counts and durations are those of this process since its start; the queue is that of all
    processes on this database. `queue` and `paused` are None where the database does not answer.
    """

    health: HealthReport
    queue: QueueLoad | None
    paused: bool | None
    running: int
    workers: int
    oldest: Mapping[bool, float]
    """Seconds since the first of the waiting jobs came, by whether nobody polls it any more."""
    requested: int
    cache_hits: int
    ended: Mapping[str, int]
    failed: Mapping[tuple[FailureReason, Side], int]
    stages: Mapping[Stage, Histogram]
    builds: Mapping[bool, Histogram]
    stored_bytes: int | None
    """None until it was summed up for the first time, soon after the start."""
    room_bytes: int
    events_waiting: int


class Gauges:
    """Knows where every number comes from. A look is a few indexed queries and no more."""

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
        now: Callable[[], datetime],
    ) -> None:
        self._operations = operations
        self._workers = workers
        self._health = health
        self._store = store
        self._housekeeping = housekeeping
        self._statistics = statistics
        self._counts = counts
        self._now = now

    def read(self) -> Measures:
        """Raises nothing: what cannot be read is None."""
        queue, paused = self._queue()
        return Measures(
            health=self._health.report(),
            queue=queue,
            paused=paused,
            running=self._workers.running,
            workers=self._workers.concurrent,
            oldest=self._oldest(queue),
            requested=self._counts.of("request"),
            cache_hits=self._counts.of("cache_hit"),
            ended={
                "completed": self._counts.of("completed"),
                "failed": self._counts.of("failed"),
                "cancelled": self._counts.of("cancelled"),
            },
            failed=self._counts.failures(),
            stages=self._workers.durations.stages(),
            builds=self._workers.durations.builds(),
            stored_bytes=self._housekeeping.stored_bytes,
            room_bytes=self._room(),
            events_waiting=self._statistics.waiting(),
        )

    def _room(self) -> int:
        try:
            return self._store.room()
        except AsuError:
            return 0

    def _queue(self) -> tuple[QueueLoad | None, bool | None]:
        try:
            return self._operations.load(), self._operations.paused() is not None
        except AsuError:
            return None, None

    def _oldest(self, queue: QueueLoad | None) -> Mapping[bool, float]:
        ages = {False: 0.0, True: 0.0}
        for (_, deprioritized), waiting in queue.waiting.items() if queue else ():
            age = (self._now() - waiting.since).total_seconds()
            ages[deprioritized] = max(
                ages[deprioritized], age
            )  # a clock that was set back makes nobody younger than 0
        return ages
