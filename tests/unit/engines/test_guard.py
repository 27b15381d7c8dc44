"""The guard: who ends a container, when, and what the interrupted step is told."""

import logging
from datetime import timedelta
from threading import Event

import pytest

from asu_builder.domain.errors import BuildFailed, BuildInterrupted, EngineUnavailable, FailureReason
from asu_builder.engines.guard import Guard, Watch, disk_exhausted
from factories import sooner_than

pytestmark = pytest.mark.waits

LONG, SOON = timedelta(minutes=5), timedelta(seconds=0.3)


class Killed(Event):
    """A step that waits to be killed, and how often that happened."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __call__(self) -> None:
        self.times += 1
        self.set()


def test_an_undisturbed_step_passes_and_nothing_is_killed() -> None:
    kill = Killed()
    with Guard(Event(), LONG, kill=kill).active() as guard:
        with guard.step():
            pass
        assert timedelta(minutes=4) < guard.remaining <= LONG
    assert kill.times == 0


def test_the_deadline_kills_once_and_is_the_step_s_error() -> None:
    kill = Killed()
    with Guard(Event(), SOON, kill=kill).active() as guard:
        with pytest.raises(BuildFailed) as failure, guard.step():
            assert kill.wait(60)
        with pytest.raises(BuildFailed), guard.step():
            pytest.fail("no step begins after the end")
        assert guard.remaining == timedelta(0)
    assert failure.value.reason == FailureReason.DEADLINE
    assert kill.times == 1


def test_the_guard_s_reason_replaces_what_the_kill_looked_like() -> None:
    kill = Killed()
    with Guard(Event(), SOON, kill=kill).active() as guard:
        with pytest.raises(BuildFailed) as failure, guard.step():
            assert kill.wait(60)
            raise EngineUnavailable("connection lost")
    assert failure.value.reason == FailureReason.DEADLINE


def test_an_error_without_the_guard_s_doing_stays_what_it_is() -> None:
    with Guard(Event(), LONG, kill=Killed()).active() as guard:
        with pytest.raises(EngineUnavailable, match="connection lost"), guard.step():
            raise EngineUnavailable("connection lost")


def test_the_stop_event_interrupts() -> None:
    kill, stop = Killed(), Event()
    with Guard(stop, LONG, kill=kill).active() as guard:
        with pytest.raises(BuildInterrupted), guard.step():
            stop.set()
            assert kill.wait(60)


def test_no_step_begins_once_the_stop_event_is_set() -> None:
    stop = Event()
    stop.set()
    with Guard(stop, LONG, kill=Killed()).active() as guard:
        with pytest.raises(BuildInterrupted), guard.step():
            pytest.fail("this step must not begin")


def test_a_watch_ends_the_container_with_its_own_failure() -> None:
    kill, looks = Killed(), iter([None, None, disk_exhausted(1 << 30)])
    watch = Watch(timedelta(seconds=0.01), lambda: next(looks))
    with Guard(Event(), LONG, kill=kill, watches=[watch]).active() as guard:
        with pytest.raises(BuildFailed) as failure, guard.step():
            assert kill.wait(60)
    assert failure.value.reason == FailureReason.DISK_LIMIT
    assert "1024 MiB" in failure.value.detail


def test_a_watch_with_a_bug_does_not_disarm_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    def look() -> None:
        raise ZeroDivisionError

    kill = Killed()
    with caplog.at_level(logging.CRITICAL):
        watches, silence = [Watch(timedelta(0), look)], timedelta(0)
        with Guard(Event(), SOON, kill=kill, watches=watches, silence=silence).active() as guard:
            with pytest.raises(BuildFailed) as failure, guard.step():
                assert kill.wait(60)
    assert failure.value.reason == FailureReason.DEADLINE


def no_answer() -> None:
    """What a watch finds out when the engine hangs."""
    raise EngineUnavailable("no answer")


def test_a_watch_without_an_answer_for_long_ends_the_build_and_tells_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill, silence = Killed(), timedelta(seconds=0.5)
    with Guard(
        Event(), LONG, kill=kill, watches=[Watch(timedelta(0), no_answer)], silence=silence
    ).active() as guard:
        with pytest.raises(EngineUnavailable, match="no answer"), guard.step():
            assert kill.wait(60)
    assert kill.times == 1
    assert caplog.text.count("got no answer") == 1


def test_a_watch_that_is_answered_now_and_then_ends_nothing() -> None:
    looks = [0]

    def look() -> None:
        looks[0] += 1
        if looks[0] % 2:
            no_answer()

    kill, silence = Killed(), timedelta(seconds=0.3)
    with Guard(
        Event(), LONG, kill=kill, watches=[Watch(timedelta(0), look)], silence=silence
    ).active() as guard:
        with guard.step():
            assert not kill.wait(1.5)
    assert looks[0] > 4


def test_a_deadline_reached_without_an_answer_is_not_the_build_s_fault() -> None:
    kill = Killed()
    with Guard(Event(), SOON, kill=kill, watches=[Watch(LONG, no_answer)]).active() as guard:
        with pytest.raises(EngineUnavailable, match="no answer"), guard.step():
            assert kill.wait(60)


def test_a_watch_that_hangs_does_not_keep_the_stop_event_waiting() -> None:
    kill, stop, released = Killed(), Event(), Event()

    def look() -> None:
        released.wait(180)

    with Guard(stop, LONG, kill=kill, watches=[Watch(timedelta(0), look)]).active() as guard:
        with pytest.raises(BuildInterrupted), guard.step():
            assert not kill.wait(0.5)
            stop.set()
            assert kill.wait(60)
        assert not released.is_set(), "the watch still hangs"
        released.set()


def test_a_kill_that_fails_is_logged_and_the_step_still_learns_why(caplog: pytest.LogCaptureFixture) -> None:
    tried = Event()

    def kill() -> None:
        tried.set()
        raise ZeroDivisionError

    with Guard(Event(), SOON, kill=kill).active() as guard:
        with pytest.raises(BuildFailed), guard.step():
            assert tried.wait(60)
    assert "could not end a container" in caplog.text


def test_leaving_does_not_wait_for_anything() -> None:
    with sooner_than(30), Guard(Event(), LONG, kill=Killed()).active():
        pass
