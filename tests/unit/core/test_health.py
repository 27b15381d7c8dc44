import threading

import pytest

from asu_builder.core.health import Health
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.health import CheckResult

OK = CheckResult("ok", "fine")
DOWN = CheckResult("error", "gone")


def a_health(**results: CheckResult) -> Health:
    found = {"database": OK, "engine": OK, "store": OK} | results
    health = Health({part: lambda result=result: result for part, result in found.items()})  # type: ignore[misc]
    health.check_all()
    return health


@pytest.mark.parametrize(
    ("results", "state", "polls_answered", "can_build"),
    [
        ({}, "ok", True, True),
        ({"engine": DOWN}, "degraded", True, False),
        ({"store": DOWN}, "degraded", True, False),
        ({"store": CheckResult("warning", "little room")}, "degraded", True, True),
        ({"database": DOWN}, "down", False, False),
    ],
)
def test_the_whole_is_judged_by_what_still_works(
    results: dict[str, CheckResult], state: str, polls_answered: bool, can_build: bool
) -> None:
    report = a_health(**results).report()
    assert (report.state, report.polls_answered, report.can_build) == (state, polls_answered, can_build)
    assert set(report.parts) == {"process", "database", "engine", "store"}


def test_before_the_first_look_nothing_is_held_back() -> None:
    report = Health({"database": lambda: OK, "engine": lambda: OK, "store": lambda: OK}).report()
    assert (report.state, report.can_build) == ("degraded", True)


def test_a_wait_for_the_engine_ends_when_it_is_back() -> None:
    health = a_health()
    health.part_failed("engine", "Podman hangs")
    assert not health.wait_until_builds_run(0.01)
    waited: list[bool] = []
    thread = threading.Thread(target=lambda: waited.append(health.wait_until_builds_run(5)))
    thread.start()
    health.check_all()
    thread.join()
    assert waited == [True]


def test_builds_wait_while_the_store_may_not_grow() -> None:
    room = [False]
    health = Health({part: lambda: OK for part in ("database", "engine", "store")}, has_room=lambda: room[0])
    health.check_all()
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
    assert set(health.report().parts) == {"process", "database", "engine", "store"}


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), Unavailable("gone")])
def test_a_check_that_raises_does_not_end_the_round(error: Exception) -> None:
    def fail() -> CheckResult:
        raise error

    checks = {"database": fail, "engine": lambda: DOWN, "registry": fail, "store": lambda: DOWN}
    health = Health(checks)
    health.check_all()
    results = health.report().parts
    assert (results["engine"], results["store"]) == (DOWN, DOWN)
    assert results["database"].status in ("warning", "error")
    assert "bug" not in results["database"].sentence


def test_who_asks_how_things_are_waits_for_no_disk() -> None:
    looked: list[int] = []

    def has_room() -> bool:
        looked.append(threading.get_ident())
        return True

    health = Health({part: lambda: OK for part in ("database", "engine", "store")}, has_room=has_room)
    health.check_all()
    looked.clear()
    assert health.report().can_build and health.builds_run() and health.hindrance() == ""
    assert looked == []


def test_a_store_that_cannot_be_asked_is_not_called_full() -> None:
    def has_room() -> bool:
        raise Unavailable("The store cannot be read.")

    health = Health({part: lambda: OK for part in ("database", "engine", "store")}, has_room=has_room)
    health.check_all()
    assert health.builds_run(), "its own check tells whether it works"
    assert health.hindrance() == ""


def test_what_hinders_builds_is_said_as_last_seen() -> None:
    room = [True]
    results = {"database": OK, "engine": OK, "store": OK}
    health = Health(
        {part: lambda part=part: results[part] for part in results},  # type: ignore[misc]
        has_room=lambda: room[0],
    )
    room[0] = False
    assert health.hindrance() == "", "not checked yet"
    health.check_all()
    assert health.hindrance() == "disk_full"
    results["store"] = DOWN
    health.check_all()
    assert health.hindrance() == "disk_full", "a store that is full to the last byte is down, too"
    room[0] = True
    health.check_all()
    assert health.hindrance() == "store"
    results["engine"] = DOWN
    health.check_all()
    assert health.hindrance() == "engine"
    results.update(engine=OK, store=OK)
    assert health.hindrance() == "engine"
    health.check_all()
    assert health.hindrance() == ""
