"""Threads that fetch: bounded, shared among callers, and gone when nothing is to be fetched."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from asu_builder.upstream.fetches import Fetches
from factories import eventually

MOST = 6


class Work:
    """Calls that hang until they are let go, counted by caller."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.done: list[str] = []
        self._lock = threading.Lock()
        self._places = threading.Semaphore(0)

    def call(self, caller: str) -> Callable[[], None]:
        """One call of this caller."""

        def hang() -> None:
            with self._lock:
                self.running[caller] += 1
            self._places.acquire()
            with self._lock:
                self.running[caller] -= 1
                self.done.append(caller)

        return hang

    def let_go(self, count: int) -> None:
        """So many end."""
        self._places.release(count)


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.let_go(1000)


@pytest.fixture
def fetches() -> Iterator[Fetches]:
    opened = Fetches(most=MOST, idle_seconds=0.05)
    yield opened
    opened.close()


def test_one_caller_takes_half_of_all_places_and_others_find_one(fetches: Fetches, work: Work) -> None:
    for _ in range(20):
        fetches.start("greedy", work.call("greedy"))
    assert eventually(lambda: work.running["greedy"] == MOST // 2)
    for caller in ("a", "b"):
        fetches.start(caller, work.call(caller))
        assert eventually(lambda caller=caller: work.running[caller] == 1)  # type: ignore[misc]
    assert work.running == {"greedy": 3, "a": 1, "b": 1}
    work.let_go(1000)
    assert eventually(lambda: len(work.done) == 22), "those that waited had their turn"


def test_callers_that_wait_take_turns(fetches: Fetches, work: Work) -> None:
    for caller in ("first", "second", "third"):
        for _ in range(5):
            fetches.start(caller, work.call(caller))
    # Three, two and one when the first caller's were all taken before the next came, else two, two and one.
    assert eventually(lambda: len(work.running) == 3 and work.running.total() >= MOST - 1)
    assert max(work.running.values()) - min(work.running.values()) <= 2
    work.let_go(15)
    assert eventually(lambda: len(work.done) == 15)


def test_a_burst_of_quick_calls_is_made_whole(fetches: Fetches) -> None:
    made: list[int] = []
    for number in range(500):
        fetches.start(str(number % 7), lambda number=number: made.append(number))  # type: ignore[misc]
    assert eventually(lambda: len(made) == 500)


def test_a_call_that_breaks_takes_no_place_along(fetches: Fetches, work: Work) -> None:
    def broken() -> None:
        raise RuntimeError

    for _ in range(10):
        fetches.start("a", broken)
    for _ in range(3):
        fetches.start("a", work.call("a"))
    assert eventually(lambda: work.running["a"] == 3)


def test_threads_go_when_nothing_is_to_be_fetched(work: Work) -> None:
    before = set(threading.enumerate())
    fetches = Fetches(most=MOST, idle_seconds=0.05)
    for _ in range(3):
        fetches.start("a", work.call("a"))
    assert eventually(lambda: work.running["a"] == 3)
    work.let_go(3)
    assert eventually(lambda: set(threading.enumerate()) <= before)
    fetches.start("b", work.call("b"))
    assert eventually(lambda: work.running["b"] == 1), "and come again"
    fetches.close()
