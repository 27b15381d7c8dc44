"""Background work at a steady pace, in one thread per kind of work."""

import logging
import threading
from collections.abc import Callable

from asu_builder.domain.errors import AsuError

_log = logging.getLogger(__name__)


STOP_SECONDS = 2.0
"""How long a stop waits for the current call."""


class Periodic:
    """Calls `work` every `seconds`, first after `delay`; a failure is logged and does not end it."""

    def __init__(self, name: str, work: Callable[[], object], *, seconds: float, delay: float = 0.0) -> None:
        self._name = name
        self._delay = delay
        self._work = work
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread; call once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it after the current call; one that hangs is left behind, and ends with the process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        self._stop.wait(self._delay)
        while not self._stop.is_set():
            try:
                self._work()
            except AsuError as error:
                _log.warning("%s: %s", self._name, error)
            except Exception:  # noqa: BLE001 - a bug in one round must not end the rounds
                if self._stop.is_set():
                    return  # left behind by `stop`: what it works with may be closed by now
                _log.exception("%s failed", self._name)
            self._stop.wait(self._seconds)
