from unittest.mock import MagicMock

import pytest

from asu_builder.app.background import Rounds, background_work
from asu_builder.core.health import Periodic


def seconds_of(rounds: Rounds) -> dict[str, float]:
    work: tuple[Periodic, ...] = background_work(
        MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock(), rounds
    )
    return {each._thread.name: each._seconds for each in work}


def test_each_kind_of_background_work_comes_as_often_as_it_is_told() -> None:
    usual, other = seconds_of(Rounds()), seconds_of(Rounds(tidy=3, health=2))
    assert usual["health"] == 10 and usual["housekeeping"] == usual["reconciling"] == 30
    assert usual["warmth"] == 1, "one document a second at most is kept warm"
    assert other == {**usual, "health": 2, "housekeeping": 3, "reconciling": 3, "documents": 3}


@pytest.mark.parametrize(("cut_off", "after"), [(True, 0.5), (False, 600)])
def test_the_database_is_verified_at_once_only_after_a_crash(cut_off: bool, after: float) -> None:
    adapters = MagicMock()
    adapters.database.was_cut_off = cut_off
    others = [MagicMock() for _ in range(4)]
    delays = {each._thread.name: each._delay for each in background_work(adapters, *others, Rounds())}
    assert delays.pop("integrity") == after
    assert set(delays.values()) == {0.5}
