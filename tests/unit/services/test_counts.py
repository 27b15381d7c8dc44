"""Events since the start."""

import threading

from asu_builder.services.counts import EventCounts


def test_events_are_counted_by_kind_and_failures_by_reason() -> None:
    counts = EventCounts()
    counts.note("completed", "")
    counts.note("failed", "too_big")
    counts.note("failed", "too_big")
    counts.note("failed", "internal")
    assert counts.of("completed") == 1
    assert counts.of("failed", "too_big") == 2
    assert counts.of("failed", "deadline") == 0


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
