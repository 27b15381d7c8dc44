"""What is promised of moving windows, whether one process counts or all nodes together."""

import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asu_builder.ports import RateWindows
from asu_builder.rate_limits import MemoryWindows, RateLimit
from asu_builder.shared.redis import SharedRedis
from asu_builder.shared.windows import SharedWindows
from redis_server import own_prefix, shared_redis

TWO_RATES = "3/minute; 5/hour"


class Seconds:
    """A clock that is moved by hand."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


class Rig:
    """Limits whose callers nobody else has, counted in memory or in Redis."""

    def __init__(self, redis: SharedRedis | None) -> None:
        self.clock = Seconds()
        self.redis = redis
        self._made = 0

    def windows(self, name: str = "") -> RateWindows:
        own = MemoryWindows(self.clock)
        self._made += not name
        if self.redis is None:
            return own
        return SharedWindows(self.redis, name or str(self._made), own, clock=self.clock)

    def limit(self, text: str, name: str = "") -> RateLimit:
        return RateLimit(text, of="New builds", clock=self.clock, windows=self.windows(name))


def connected() -> SharedRedis:
    """The run's server with names of this test's own, loaded."""
    redis = SharedRedis(shared_redis().url, prefix=own_prefix())
    assert redis.check().status == "ok"
    return redis


@pytest.fixture(params=["memory", "redis"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    redis = connected() if request.param == "redis" else None
    yield Rig(redis)
    if redis is not None:
        assert redis.check().status == "ok", "it was Redis that counted"
        redis.close()


def waits(limit: RateLimit, caller: str, times: int) -> list[int]:
    """What each of so many tries is told: 0 when it is admitted, else the seconds to wait."""
    refusals = [limit.admit(caller) for _ in range(times)]
    return [refusal.retry_after if refusal else 0 for refusal in refusals]


def test_so_many_are_admitted_and_each_leaves_the_window_by_itself(rig: Rig) -> None:
    limit = rig.limit("2/minute")
    assert waits(limit, "a", 1) == [0]
    rig.clock.at += 20
    assert waits(limit, "a", 2) == [0, 40]
    rig.clock.at += 40
    assert waits(limit, "a", 2) == [0, 20]


def test_askers_do_not_share_their_allowance(rig: Rig) -> None:
    limit = rig.limit("1/minute")
    assert [waits(limit, caller, 1) for caller in ("a", "b", "a", "2001:db8::/64")] == [[0], [0], [60], [0]]


def test_all_rates_hold_and_the_one_that_takes_longest_is_named(rig: Rig) -> None:
    limit = rig.limit(TWO_RATES)
    assert waits(limit, "a", 4) == [0, 0, 0, 60]
    rig.clock.at += 60
    assert waits(limit, "a", 2) == [0, 0]
    assert waits(limit, "a", 1) == [3600 - 60]
    assert "5 per hour" in str(limit.admit("a"))


def test_a_refused_try_does_not_count_for_any_rate(rig: Rig) -> None:
    limit = rig.limit(TWO_RATES)
    waits(limit, "a", 3)
    assert all(waits(limit, "a", 50))
    rig.clock.at += 60
    assert waits(limit, "a", 2) == [0, 0], "fifty refused tries used up nothing of the hour"


def test_what_is_taken_back_was_not_had(rig: Rig) -> None:
    limit = rig.limit("2/minute")
    assert waits(limit, "a", 2) == [0, 0]
    rig.clock.at += 10
    limit.take_back("a", 0)
    assert waits(limit, "a", 1) == [50]
    limit.take_back("a", 1)
    assert waits(limit, "a", 2) == [0, 50], "the older one still counts"
    limit.take_back("a", 9)
    limit.take_back("nobody", 1)
    assert waits(limit, "a", 3) == [0, 0, 60]


def test_nought_admits_nobody(rig: Rig) -> None:
    assert waits(rig.limit("0/minute"), "a", 2) == [60, 60]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pauses=st.lists(st.floats(min_value=0, max_value=90), max_size=60))
def test_no_window_ever_holds_more_than_its_rate_and_whoever_waits_as_told_is_admitted(
    rig: Rig, pauses: list[float]
) -> None:
    limit = rig.limit(TWO_RATES)
    admitted = []
    for pause in pauses:
        rig.clock.at += pause
        refusal = limit.admit("a")
        if refusal:
            assert refusal.retry_after >= 1
            # A millisecond for what floating point loses.
            rig.clock.at += refusal.retry_after + 0.001
            assert limit.admit("a") is None
        admitted.append(rig.clock.at)
    for many, window in ((3, 60), (5, 3600)):
        too_early = [
            (first, last)
            for first, last in zip(admitted, admitted[many:], strict=False)
            if last - first < window
        ]
        assert too_early == []
    assert all(before <= after for before, after in pairwise(admitted))


def test_threads_together_get_no_more_than_one_alone(rig: Rig) -> None:
    limit = rig.limit("100/hour")
    admitted: list[bool] = []
    threads = [
        threading.Thread(target=lambda: admitted.extend(limit.admit("a") is None for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 100


def test_nodes_count_together_what_is_counted_under_one_name() -> None:
    rig = Rig(connected())
    first, second, other = rig.limit("3/minute", "a"), rig.limit("3/minute", "a"), rig.limit("3/minute", "b")
    assert waits(first, "x", 2) + waits(second, "x", 2) == [0, 0, 0, 60]
    assert waits(other, "x", 4) == [0, 0, 0, 60]
    first.take_back("x", 1)
    assert waits(second, "x", 2) == [0, 60]
