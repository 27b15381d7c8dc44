"""Rates for each caller: what is admitted, what is said to whoever is refused, what is remembered."""

import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.access import parse_rates
from asu_builder.rate_limits import LookUpsLimit, MemoryWindows, NewBuildsLimit, PreviewsLimit, RateLimit

TWO_RATES = "3/minute; 5/hour"


class Seconds:
    """A clock that is moved by hand."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def a_limit(text: str, clock: Seconds) -> RateLimit:
    return NewBuildsLimit(text, clock=clock)


def waits(limit: RateLimit, caller: str, times: int) -> list[int]:
    """What each of so many tries is told: 0 when it is admitted, else the seconds to wait."""
    refusals = [limit.admit(caller) for _ in range(times)]
    return [refusal.retry_after if refusal else 0 for refusal in refusals]


def output_of(program: str) -> str:
    """What a Python of its own prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_so_many_are_admitted_and_each_leaves_the_window_by_itself(clock: Seconds) -> None:
    limit = a_limit("2/minute", clock)
    assert waits(limit, "a", 1) == [0]
    clock.at += 20
    assert waits(limit, "a", 2) == [0, 40]
    clock.at += 40
    assert waits(limit, "a", 2) == [0, 20]


def test_askers_do_not_share_their_allowance(clock: Seconds) -> None:
    limit = a_limit("1/minute", clock)
    assert [waits(limit, caller, 1) for caller in ("a", "b", "a", "2001:db8::/64")] == [[0], [0], [60], [0]]


def test_all_rates_hold_and_the_one_that_takes_longest_is_named(clock: Seconds) -> None:
    limit = a_limit(TWO_RATES, clock)
    assert waits(limit, "a", 4) == [0, 0, 0, 60]
    clock.at += 60
    assert waits(limit, "a", 2) == [0, 0]
    assert waits(limit, "a", 1) == [3600 - 60]
    assert "5 per hour" in str(limit.admit("a"))


def test_a_refused_try_does_not_count_for_any_rate(clock: Seconds) -> None:
    limit = a_limit(TWO_RATES, clock)
    waits(limit, "a", 3)
    assert all(waits(limit, "a", 50))
    clock.at += 60
    assert waits(limit, "a", 2) == [0, 0], "fifty refused tries used up nothing of the hour"


def test_what_is_taken_back_was_not_had(clock: Seconds) -> None:
    limit = a_limit("2/minute", clock)
    assert waits(limit, "a", 2) == [0, 0]
    clock.at += 10
    limit.take_back("a", 0)
    assert waits(limit, "a", 1) == [50]
    limit.take_back("a", 1)
    assert waits(limit, "a", 2) == [0, 50], "the older one still counts"
    limit.take_back("a", 9)
    limit.take_back("nobody", 1)
    assert waits(limit, "a", 3) == [0, 0, 60]


def test_a_caller_of_whom_all_is_taken_back_is_forgotten(clock: Seconds) -> None:
    windows = MemoryWindows(clock)
    windows.admit("a", parse_rates("2/minute"))
    windows.take_back("a", 1)
    assert len(windows) == 0


def test_nothing_is_limited_where_no_rate_is_named(clock: Seconds) -> None:
    assert not any(waits(a_limit(" ", clock), "a", 500))


def test_the_same_rate_twice_is_the_rate_once(clock: Seconds) -> None:
    assert waits(a_limit("4/minute; 4/minute", clock), "a", 5) == [0, 0, 0, 0, 60]


def test_nought_admits_nobody(clock: Seconds) -> None:
    assert waits(a_limit("0/minute", clock), "a", 2) == [60, 60]


def test_a_text_that_says_no_rate_is_an_error(clock: Seconds) -> None:
    with pytest.raises(ValueError, match="often"):
        a_limit("often", clock)


@pytest.mark.parametrize(
    ("text", "after", "sentence"),
    [
        (
            "1/minute",
            23.5,
            "New builds are limited to 1 per minute for each address: try again in 37 seconds. "
            "A token of the operator lifts this limit.",
        ),
        ("1/hour", 0.1, "limited to 1 per hour for each address: try again in 60 minutes."),
        ("1/day", 0.0, "limited to 1 per day for each address: try again in 24 hours."),
        ("1/second", 0.9, "limited to 1 per second for each address: try again in 1 second."),
        ("1/10 second", 0.0, "limited to 1 per 10 seconds for each address: try again in 10 seconds."),
    ],
)
def test_the_sentence_says_how_many_per_what_when_to_come_back_and_what_lifts_it(
    clock: Seconds, text: str, after: float, sentence: str
) -> None:
    limit = a_limit(text, clock)
    limit.admit("a")
    clock.at += after
    assert sentence in str(limit.admit("a"))


@given(st.lists(st.floats(min_value=0, max_value=90), max_size=60))
def test_no_window_ever_holds_more_than_its_rate_and_whoever_waits_as_told_is_admitted(
    pauses: list[float],
) -> None:
    clock = Seconds()
    limit = a_limit(TWO_RATES, clock)
    admitted = []
    for pause in pauses:
        clock.at += pause
        refusal = limit.admit("a")
        if refusal:
            assert refusal.retry_after >= 1
            # A millisecond for what floating point loses.
            clock.at += refusal.retry_after + 0.001
            assert limit.admit("a") is None
        admitted.append(clock.at)
    for many, window in ((3, 60), (5, 3600)):
        too_early = [
            (first, last)
            for first, last in zip(admitted, admitted[many:], strict=False)
            if last - first < window
        ]
        assert too_early == []
    assert all(before <= after for before, after in pairwise(admitted))


def test_previews_may_come_in_a_burst_and_then_one_a_second(clock: Seconds) -> None:
    limit = PreviewsLimit(clock=clock)
    assert waits(limit, "a", 21) == [0] * 20 + [10]
    assert "Previews are limited to 20 per 10 seconds" in str(limit.admit("a"))
    for _ in range(2):
        clock.at += 10
        assert waits(limit, "a", 21)[:20] == [0] * 20
    assert waits(limit, "a", 1) == [40]


def test_many_threads_together_get_no_more_than_one_alone() -> None:
    def hesitant_clock() -> float:
        time.sleep(0.0001)  # lets another thread in wherever the time is asked for
        return 1000.0

    limit = NewBuildsLimit("100/hour", clock=hesitant_clock)
    admitted: list[bool] = []
    threads = [
        threading.Thread(target=lambda: admitted.extend(limit.admit("a") is None for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (len(admitted), sum(admitted)) == (400, 100)


MANY_ASKERS = """
import resource
from asu_builder.rate_limits import NewBuildsLimit

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

limit = NewBuildsLimit("20/minute; 100/hour")
limit.admit("first")
before = peak()
for number in range(100_000):
    limit.admit(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64")
print(peak() - before)
"""


@pytest.mark.process
def test_a_hundred_thousand_askers_do_not_take_memory_without_end() -> None:
    assert int(output_of(MANY_ASKERS)) < 16 << 10, "in KiB"


def test_the_longest_unseen_goes_when_there_are_too_many(clock: Seconds) -> None:
    windows = MemoryWindows(clock, most=3)
    rates = parse_rates("2/minute")
    for key in ("a", "b", "c", "a", "d"):
        assert windows.admit(key, rates) is None
    assert len(windows) == 3
    assert windows.admit("a", rates) is not None, "a was seen again and is still known"
    assert [windows.admit("b", rates) for _ in range(2)] == [None, None], "b was dropped"


def test_a_caller_who_was_not_seen_for_the_longest_window_is_dropped(clock: Seconds) -> None:
    windows = MemoryWindows(clock)
    rates = parse_rates("1/minute; 5/hour")
    for number in range(500):
        windows.admit(str(number), rates)
    clock.at += 3599
    windows.admit("late", rates)
    assert len(windows) == 501
    clock.at += 1
    windows.admit("later", rates)
    assert len(windows) == 2


def test_no_more_times_are_kept_than_the_rate_allows(clock: Seconds) -> None:
    windows = MemoryWindows(clock)
    for _ in range(1000):
        clock.at += 4
        windows.admit("a", parse_rates("5/10 second"))
    assert len(windows._times["a"]) == 3


def test_no_thread_is_started(clock: Seconds) -> None:
    before = threading.active_count()
    waits(a_limit("5/minute", clock), "a", 10)
    assert threading.active_count() == before


def test_the_same_question_is_counted_once_a_minute(clock: Seconds) -> None:
    limit = LookUpsLimit("2/hour", clock=clock)
    assert limit.admit("a", "x") is None
    for _ in range(10):
        assert limit.admit("a", "x") is None, "counted already"
    clock.at += 59.9
    assert limit.admit("a", "x") is None
    assert limit.admit("a", "y") is None
    refusal = limit.admit("a", "z")
    assert refusal is not None and "download server" in str(refusal)
    assert limit.admit("a", "y") is None, "what was let in stays so for its minute"
    clock.at += 0.1
    assert limit.admit("a", "x") is not None, "its minute is over, and the hour's two are used up"
    assert limit.admit("b", "x") is None, "another's question is another's"


def test_a_question_that_was_refused_is_not_remembered_as_counted(clock: Seconds) -> None:
    limit = LookUpsLimit("1/minute", clock=clock)
    assert limit.admit("a", "x") is None
    for _ in range(3):
        assert limit.admit("a", "y") is not None
    clock.at += 60.1
    assert limit.admit("a", "y") is None


def test_questions_are_forgotten_when_their_minute_is_over_or_there_are_too_many(
    clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.rate_limits._QUESTIONS", 50)
    limit = LookUpsLimit("", clock=clock)
    for number in range(500):
        assert limit.admit("a", f"q{number}") is None
    assert len(limit._asked) <= 51
    clock.at += 61
    assert limit.admit("a", "last") is None
    assert len(limit._asked) == 1
