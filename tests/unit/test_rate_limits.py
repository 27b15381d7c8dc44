"""Rates for each caller: what is admitted, what is said to whoever is refused, what is remembered."""

import subprocess
import sys
import threading
import time

import pytest

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


def test_a_caller_of_whom_all_is_taken_back_is_forgotten(clock: Seconds) -> None:
    windows = MemoryWindows(clock)
    windows.admit("a", parse_rates("2/minute"))
    windows.take_back("a", 1)
    assert len(windows) == 0


def test_nothing_is_limited_where_no_rate_is_named(clock: Seconds) -> None:
    assert not any(waits(a_limit(" ", clock), "a", 500))


def test_the_same_rate_twice_is_the_rate_once(clock: Seconds) -> None:
    assert waits(a_limit("4/minute; 4/minute", clock), "a", 5) == [0, 0, 0, 0, 60]


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
