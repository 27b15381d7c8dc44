"""What is removed in the background: one at a time, bounded, never in anybody's way."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Event, Thread

import pytest

from asu_builder.domain.errors import BuildInterrupted, EngineUnavailable
from asu_builder.engines.guard import Removals
from factories import eventually, never

MOMENT, LONG = timedelta(seconds=0.05), timedelta(minutes=5)


class Gate:
    """Removals that hang until the gate is opened; they note their names."""

    def __init__(self) -> None:
        self.opened = Event()
        self.began: list[str] = []

    def remove(self, name: str) -> Callable[[], None]:
        def hang() -> None:
            self.began.append(name)
            self.opened.wait()

        return hang


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def threads() -> int:
    return sum(thread.name == "removals" for thread in threading.enumerate())


def test_they_are_called_in_turn_and_nobody_waits_for_them(gate: Gate) -> None:
    removals = Removals()
    for name in "abc":
        removals.add(name, gate.remove(name))
    assert eventually(lambda: gate.began == ["a"])
    assert [name in removals for name in "abcd"] == [True, True, True, False]
    assert not removals.close(MOMENT)
    gate.opened.set()
    assert eventually(removals.close)
    assert gate.began == ["a", "b", "c"]
    assert [name in removals for name in "abc"] == [False] * 3


def test_a_thread_is_there_only_while_there_is_something_to_remove(gate: Gate) -> None:
    removals = Removals()
    before = threads()
    assert removals.close(MOMENT)
    removals.add("a", gate.remove("a"))
    removals.add("b", gate.remove("b"))
    assert threads() == before + 1
    gate.opened.set()
    assert eventually(lambda: threads() == before)
    removals.add("c", gate.remove("c"))
    assert eventually(lambda: gate.began == ["a", "b", "c"])


def test_whoever_begins_waits_while_too_many_wait_to_be_removed(gate: Gate) -> None:
    removals = Removals(backlog=2)
    removals.add("current", gate.remove("current"))
    assert eventually(lambda: gate.began == ["current"])
    removals.add("a", gate.remove("a"))
    removals.wait_for_room(Event(), within=MOMENT)
    removals.add("b", gate.remove("b"))
    beginner = Thread(target=removals.wait_for_room, args=(Event(),), kwargs={"within": LONG})
    beginner.start()
    assert never(lambda: not beginner.is_alive(), seconds=0.5)
    gate.opened.set()
    beginner.join(60)
    assert not beginner.is_alive()


def test_waiting_for_room_ends_with_the_stop_event(gate: Gate) -> None:
    removals = Removals(backlog=0)
    stop = Event()
    stop.set()
    with pytest.raises(BuildInterrupted):
        removals.wait_for_room(stop, within=LONG)


def test_waiting_for_room_ends_in_time() -> None:
    with pytest.raises(EngineUnavailable, match="look at the disk"):
        Removals(backlog=0).wait_for_room(Event(), within=MOMENT)


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyError("a bug")])
def test_one_that_fails_is_logged_and_the_next_is_removed(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    removed = Event()

    def fail() -> None:
        raise error

    removals = Removals()
    with caplog.at_level(logging.ERROR):
        removals.add("a", fail)
        removals.add("b", removed.set)
        assert eventually(removals.close)
    assert removed.is_set()
    assert [record.getMessage() for record in caplog.records] == ["a removal failed"]


def test_what_is_left_at_the_end_is_counted(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    removals = Removals()
    for name in "abc":
        removals.add(name, gate.remove(name))
    with caplog.at_level(logging.WARNING):
        assert not removals.close(MOMENT)
    assert "3 removal(s) left for the next start" in caplog.text
