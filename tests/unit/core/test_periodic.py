import logging
import threading
import time

import pytest

from asu_builder.core import health
from asu_builder.core.health import Periodic
from asu_builder.domain.errors import Unavailable
from factories import eventually


def test_a_failing_round_is_told_and_does_not_end_the_rounds(caplog: pytest.LogCaptureFixture) -> None:
    rounds: list[int] = []

    def work() -> None:
        rounds.append(1)
        raise (Unavailable("It is down.") if len(rounds) == 1 else ZeroDivisionError)

    repeated = Periodic("work", work, seconds=0.01)
    repeated.start()
    assert eventually(lambda: len(rounds) >= 3)
    repeated.stop()
    assert "work: It is down." in caplog.text
    assert "work failed" in caplog.text
    done = len(rounds)
    time.sleep(0.05)
    assert len(rounds) == done


def test_a_round_that_hangs_does_not_hold_up_the_stop_and_says_nothing_afterwards(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "STOP_SECONDS", 0.1)
    began, hangs, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        hangs.wait(60)
        ended.set()
        raise ValueError("everything is closed")

    repeated = Periodic("work", work, seconds=1)
    repeated.start()
    assert began.wait(60)
    with caplog.at_level(logging.INFO):
        repeated.stop()
        assert not ended.is_set(), "it would have waited for the round's end"
        hangs.set()
        assert ended.wait(60)
        assert eventually(lambda: not repeated._thread.is_alive())
    assert "failed" not in caplog.text
