import threading

import pytest

from asu_builder.core.health import Health
from asu_builder.domain.errors import Unavailable
from asu_builder.ports import Verdict

OK = Verdict("ok", "fine")
DOWN = Verdict("down", "gone")


def a_health(**verdicts: Verdict) -> Health:
    found = {"database": OK, "engine": OK, "store": OK} | verdicts
    health = Health({part: lambda verdict=verdict: verdict for part, verdict in found.items()})  # type: ignore[misc]
    health.look()
    return health


@pytest.mark.parametrize(
    ("verdicts", "status", "polls_answered", "can_build"),
    [
        ({}, "ok", True, True),
        ({"engine": DOWN}, "degraded", True, False),
        ({"store": DOWN}, "degraded", True, False),
        ({"store": Verdict("degraded", "little room")}, "degraded", True, True),
        ({"database": DOWN}, "down", False, False),
    ],
)
def test_the_whole_is_judged_by_what_still_works(
    verdicts: dict[str, Verdict], status: str, polls_answered: bool, can_build: bool
) -> None:
    report = a_health(**verdicts).report()
    assert (report.status, report.polls_answered, report.can_build) == (status, polls_answered, can_build)
    assert set(report.verdicts) == {"process", "database", "engine", "store"}


def test_before_the_first_look_nothing_is_held_back() -> None:
    report = Health({"database": lambda: OK, "engine": lambda: OK, "store": lambda: OK}).report()
    assert (report.status, report.can_build) == ("degraded", True)


def test_whoever_waits_for_the_engine_goes_on_when_it_is_back() -> None:
    health = a_health()
    health.part_failed("engine", "Podman hangs")
    assert not health.wait_until_builds_run(0.01)
    waited: list[bool] = []
    thread = threading.Thread(target=lambda: waited.append(health.wait_until_builds_run(5)))
    thread.start()
    health.look()
    thread.join()
    assert waited == [True]


def test_builds_wait_while_the_store_may_not_grow() -> None:
    room = [False]
    health = Health({part: lambda: OK for part in ("database", "engine", "store")}, has_room=lambda: room[0])
    health.look()
    assert not health.builds_run()
    assert health.report().can_build is False
    room[0] = True
    assert health.wait_until_builds_run(0.01)


def test_a_build_that_gets_through_clears_the_engine_and_an_unknown_part_changes_nothing() -> None:
    health = a_health()
    health.part_failed("engine", "Podman hangs")
    health.part_failed("nosuch", "?")
    assert not health.builds_run()
    health.part_works("engine")
    assert health.builds_run()
    assert set(health.report().verdicts) == {"process", "database", "engine", "store"}


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), Unavailable("gone")])
def test_a_check_that_raises_does_not_end_the_round(error: Exception) -> None:
    def fail() -> Verdict:
        raise error

    checks = {"database": fail, "engine": lambda: DOWN, "registry": fail, "store": lambda: DOWN}
    health = Health(checks)
    health.look()
    verdicts = health.report().verdicts
    assert (verdicts["engine"], verdicts["store"]) == (DOWN, DOWN)
    assert verdicts["database"].status in ("degraded", "down")
    assert "bug" not in verdicts["database"].sentence


def test_who_asks_how_things_are_waits_for_no_disk() -> None:
    looked: list[int] = []

    def has_room() -> bool:
        looked.append(threading.get_ident())
        return True

    health = Health({part: lambda: OK for part in ("database", "engine", "store")}, has_room=has_room)
    health.look()
    looked.clear()
    assert health.report().can_build and health.builds_run() and health.hindrance() == ""
    assert looked == []


def test_a_store_that_cannot_be_asked_is_not_called_full() -> None:
    def has_room() -> bool:
        raise Unavailable("The store cannot be read.")

    health = Health({part: lambda: OK for part in ("database", "engine", "store")}, has_room=has_room)
    health.look()
    assert health.builds_run(), "its own check tells whether it works"
    assert health.hindrance() == ""


def test_what_hinders_builds_is_said_as_last_seen() -> None:
    room = [True]
    verdicts = {"database": OK, "engine": OK, "store": OK}
    health = Health(
        {part: lambda part=part: verdicts[part] for part in verdicts},  # type: ignore[misc]
        has_room=lambda: room[0],
    )
    room[0] = False
    assert health.hindrance() == "", "nobody has looked yet"
    health.look()
    assert health.hindrance() == "disk_full"
    verdicts["store"] = DOWN
    health.look()
    assert health.hindrance() == "disk_full", "a store that is full to the last byte is down, too"
    room[0] = True
    health.look()
    assert health.hindrance() == "store"
    verdicts["engine"] = DOWN
    health.look()
    assert health.hindrance() == "engine"
    verdicts.update(engine=OK, store=OK)
    assert health.hindrance() == "engine"
    health.look()
    assert health.hindrance() == ""
