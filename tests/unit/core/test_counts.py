"""Events since the start."""

import threading

from asu_builder.core.metrics import EventCounts
from asu_builder.domain.errors import FailureReason, Side


def test_events_are_counted_by_kind_and_failures_by_reason_and_side() -> None:
    counts = EventCounts()
    counts.note("completed", "")
    counts.note("failed", "too_big")
    counts.note("failed", "too_big")
    counts.note("failed", "internal")
    counts.note("failed", "no_images", "user")
    counts.note("failed", "no_images")
    counts.note("failed", "of another version")
    assert (counts.of("completed"), counts.of("failed"), counts.of("cancelled")) == (1, 6, 0)
    failures = counts.failures()
    assert failures[FailureReason.TOO_BIG, Side.USER] == 2
    assert failures[FailureReason.NO_IMAGES, Side.USER] == 1
    assert failures[FailureReason.NO_IMAGES, Side.INFRASTRUCTURE] == 1
    assert failures[FailureReason.DEADLINE, Side.INFRASTRUCTURE] == 0
    assert sum(failures.values()) == 5


def test_many_threads_lose_no_event() -> None:
    counts = EventCounts()

    def note() -> None:
        for _ in range(5000):
            counts.note("cache_hit", "")

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.of("cache_hit") == 20000
