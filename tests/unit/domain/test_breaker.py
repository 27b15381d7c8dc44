"""The circuit breaker: who is let through, when, and what ends an outage."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.health import Breaker


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def breaker(clock: Seconds) -> Breaker:
    return Breaker(clock=clock)


def open_for(breaker: Breaker, clock: Seconds) -> float:
    """How many seconds pass until somebody is let through, who then fails."""
    began = clock.now
    while not breaker.admits():
        clock.now += 0.5
    waited = clock.now - began
    breaker.failed("again")
    return waited


def test_everybody_is_admitted_while_nothing_has_failed(breaker: Breaker) -> None:
    assert all(breaker.admits() for _ in range(3))
    assert (breaker.is_open, breaker.is_due, breaker.sentence) == (False, False, "")
    assert breaker.retry_in == timedelta(0)


def test_a_failure_keeps_everybody_out_for_two_seconds(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("It is gone.")
    assert not breaker.admits()
    assert (breaker.is_open, breaker.is_due, breaker.sentence) == (True, False, "It is gone.")
    assert breaker.retry_in == timedelta(seconds=2)
    clock.now += 1.5
    assert not breaker.admits()
    assert breaker.retry_in == timedelta(seconds=0.5)
    clock.now += 0.5
    assert (breaker.is_due, breaker.retry_in) == (True, timedelta(0))
    assert breaker.admits()


def test_one_alone_tries_when_the_span_is_over(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("no")
    clock.now += 2
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    assert breaker.is_due
    assert breaker.retry_in == timedelta(seconds=2), "not known, so soon"
    breaker.worked()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]
    assert (breaker.is_open, breaker.sentence) == (False, "")


def test_the_span_doubles_up_to_a_minute(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("no")
    assert [open_for(breaker, clock) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]


def test_after_a_success_the_first_span_is_short_again(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("no")
    for _ in range(3):
        open_for(breaker, clock)
    breaker.worked()
    breaker.failed("no")
    assert open_for(breaker, clock) == 2


def test_echoes_of_one_outage_do_not_prolong_it(breaker: Breaker, clock: Seconds) -> None:
    for number in range(4):
        breaker.failed(f"build {number} died")
        clock.now += 0.25
    assert breaker.retry_in == timedelta(seconds=1)
    assert breaker.sentence == "build 3 died"


def test_a_failure_seen_by_somebody_else_counts_once_the_span_is_over(
    breaker: Breaker, clock: Seconds
) -> None:
    breaker.failed("no sign of life")
    clock.now += 10
    breaker.failed("no sign of life")
    assert breaker.retry_in == timedelta(seconds=4)


def test_a_trial_that_shows_nothing_makes_room_for_the_next(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("no")
    clock.now += 2
    assert breaker.admits()
    breaker.withdraw()
    assert [breaker.admits(), breaker.admits()] == [True, False]


def test_withdrawing_without_a_trial_opens_nothing(breaker: Breaker) -> None:
    breaker.withdraw()
    assert breaker.admits()
    breaker.failed("no")
    breaker.withdraw()
    assert not breaker.admits()


def test_a_trial_that_never_reports_back_is_not_waited_for(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("no")
    clock.now += 2
    assert breaker.admits()
    clock.now += 119
    assert not breaker.admits()
    clock.now += 1
    assert [breaker.admits(), breaker.admits()] == [True, False]


def test_of_many_threads_one_tries(breaker: Breaker, clock: Seconds) -> None:
    breaker.failed("no")
    clock.now += 2
    gate = Barrier(8)

    def ask(_: int) -> bool:
        gate.wait()
        return breaker.admits()

    with ThreadPoolExecutor(8) as threads:
        assert Counter(threads.map(ask, range(8))) == {True: 1, False: 7}


@given(st.lists(st.sampled_from(["admits", "worked", "failed", "withdraw", "1", "30", "200"]), max_size=40))
def test_whatever_happens_somebody_is_let_through_in_bounded_time(events: list[str]) -> None:
    clock = Seconds()
    breaker = Breaker(clock=clock)
    for event in events:
        if event == "failed":
            breaker.failed("no")
        elif event.isdigit():
            clock.now += int(event)
        else:
            getattr(breaker, event)()
        assert breaker.retry_in <= timedelta(seconds=60)
        assert breaker.is_open == bool(breaker.sentence)
    # At the worst a trial was admitted in this very moment and its thread is dead.
    clock.now += 121
    assert breaker.admits()
