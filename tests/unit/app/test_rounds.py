import threading
from unittest.mock import MagicMock

import pytest

from asu_builder.app.adapters import Role
from asu_builder.app.background import Lifecycle, Rounds, background_work
from asu_builder.core.health import Periodic


def seconds_of(rounds: Rounds) -> dict[str, float]:
    other = MagicMock()
    work: tuple[Periodic, ...] = background_work(
        other, other, other, other, other, other, other, other, rounds
    )
    return {each._thread.name: each._seconds for each in work}


def test_each_kind_of_background_work_comes_as_often_as_it_is_told() -> None:
    usual, other = seconds_of(Rounds()), seconds_of(Rounds(tidy=3, health=2))
    assert usual["health"] == 10 and usual["housekeeping"] == usual["reconciling"] == 30
    assert usual["warmth"] == 1, "one document a second at most is kept warm"
    often = dict.fromkeys(("housekeeping", "reconciling", "documents", "changed indexes"), 3)
    assert other == {**usual, **often, "health": 2}


def work_of(role: Role, *, leads: bool) -> dict[str, MagicMock]:
    """What a process of this role calls in a round of everything, by the name of the work."""
    adapters = MagicMock()
    health, housekeeping, catalog, current, interest, proof, presence = (MagicMock() for _ in range(7))
    adapters.role, adapters.signs = role, False
    adapters.lead.held.return_value = leads
    parts = (health, housekeeping, catalog, current, interest, proof, presence)
    for each in background_work(adapters, *parts, Rounds()):
        each._work()
    return {
        "queue": housekeeping.look_after_queue,
        "reconciling": housekeeping.reconcile_when_due,
        "verifying": adapters.database.verify,
        "catalog": catalog.refresh,
        "documents": adapters.upstream.tidy,
        "warmth": adapters.upstream.keep_warm,
        "changed indexes": current.end_outdated,
        "interest": interest.flush,
        "preflight": proof.compare_waiting,
        "tidying": housekeeping.tidy,
        "presence": presence.renew,
    }


@pytest.mark.parametrize("leads", [False, True])
@pytest.mark.parametrize("role", Role)
def test_each_process_does_what_its_role_and_the_lead_ask_of_it(role: Role, leads: bool) -> None:
    done = work_of(role, leads=leads)
    done.pop("tidying").assert_called_once_with(leads=leads)
    answers = {"catalog", "documents", "warmth", "changed indexes", "interest"}
    expected = {"queue", "verifying", "presence"}
    expected |= {"reconciling"} if leads else set()
    expected |= answers if role.answers else set()
    expected |= {"preflight"} if role.builds else set()
    assert {name for name, call in done.items() if call.called} == expected


@pytest.mark.parametrize(("cut_off", "after"), [(True, 0), (False, 600)])
def test_the_database_is_verified_at_once_only_after_a_crash(cut_off: bool, after: float) -> None:
    adapters = MagicMock()
    adapters.database.was_cut_off = cut_off
    other = MagicMock()
    work = background_work(adapters, other, other, other, other, other, other, other, Rounds())
    delays = {each._thread.name: each._delay for each in work}
    assert delays.pop("integrity") == after
    assert set(delays.values()) == {0}


def a_life(work: Periodic) -> Lifecycle:
    return Lifecycle(MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock(), (work,), MagicMock())


def test_background_work_begins_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asu_builder.app.background._AFTER_START_SECONDS", 0)
    began = threading.Event()
    life = a_life(Periodic("work", began.set, seconds=3600))
    life.start()
    assert began.wait(60)
    life.stop()


def test_a_service_that_is_stopped_at_once_begins_no_background_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asu_builder.app.background._AFTER_START_SECONDS", 3600)
    work = Periodic("work", lambda: pytest.fail("it has begun"), seconds=3600)
    life = a_life(work)
    life.start()
    life.stop()
    assert not work._thread.is_alive()
    assert life.beginning is not None and not life.beginning.is_alive()
    a_life(work).stop()  # one that has never begun
