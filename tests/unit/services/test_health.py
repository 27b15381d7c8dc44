import threading

import pytest

from asu_builder.ports import Verdict
from asu_builder.services.health import Health

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
