"""What runs beside the answers, and in which order it begins and ends."""

import logging
from collections.abc import Callable

from msgspec import Struct

from asu_builder.core.health import Periodic
from asu_builder.core.worker import Workers
from asu_builder.domain.errors import AsuError

_log = logging.getLogger(__name__)


class Lifecycle(Struct, frozen=True):
    """Workers and periodic work; `begin` comes first and returns at once, `end` when nothing runs."""

    begin: Callable[[], object]
    workers: Workers
    background: tuple[Periodic, ...]
    end: tuple[Callable[[], object], ...]
    cancel: tuple[Callable[[], None], ...]
    """Cut off what may take long and need not end."""

    def start(self) -> None:
        """Returns at once."""
        self.begin()
        self.workers.start()
        for periodic in self.background:
            periodic.start()

    def stop(self) -> None:
        """Returns when nothing runs any more."""
        for cancel in self.cancel:
            cancel()
        self.workers.stop()
        for periodic in self.background:
            periodic.stop()
        for end in self.end:
            try:
                end()
            except AsuError as problem:
                _log.error("At the end: %s", problem)
