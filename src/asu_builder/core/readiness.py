"""Has ready what is asked for most, before it is asked for."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event

from asu_builder.core.catalog import Catalog
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.make import ContainerSpec
from asu_builder.ports import Runtime, Statistics
from asu_builder.settings import Settings

_LOOKS_BACK = timedelta(days=7)
_COUNTS_EVERY = timedelta(minutes=10).total_seconds()


class Readiness:
    """Container images of the latest versions' most asked targets, and containers that stand started."""

    def __init__(
        self,
        runtime: Callable[[], Runtime],
        statistics: Statistics,
        catalog: Catalog,
        *,
        settings: Settings,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._runtime = runtime
        self._statistics = statistics
        self._catalog = catalog
        self._settings = settings
        self._now = now
        self._clock = clock
        self._count_at = clock()
        self._most_asked: list[ContainerSpec] = []
        self._stopped = Event()
        self.standing = 0
        """How many containers stand started, as of the last round."""

    def make_ready(self) -> None:
        """Pulls every ten minutes, and starts what lacks; to be called every few seconds."""
        settings = self._settings
        wanted = max(settings.prepull, settings.warm_containers)
        if not wanted or self._stopped.is_set():
            return
        # What does not answer now is asked again in the next round.
        with contextlib.suppress(Unavailable):
            specs = self._most_asked[: settings.warm_containers]
            if self._clock() >= self._count_at:
                self._most_asked = specs = self._count(wanted)
                self._count_at = self._clock() + _COUNTS_EVERY
            if specs:
                self.standing = self._runtime().make_ready(
                    specs, warm=settings.warm_containers, stop=self._stopped
                )

    def stop(self) -> None:
        """Breaks off a pull, and begins no other."""
        self._stopped.set()

    def _count(self, limit: int) -> list[ContainerSpec]:
        """What new builds of the last days have asked for most, of the versions that are the latest."""
        latest = {version: self._catalog.release(version) for version in self._catalog.latest()}
        asked = Counter[tuple[str, str]]()
        since = self._now() - _LOOKS_BACK
        tallies = self._statistics.tally(
            ("request",), since=since, width=_LOOKS_BACK, by="version_and_target"
        )
        for tally in tallies:
            version, _, target = tally.label.partition(" ")
            if version in latest:
                asked[version, target] += tally.count
        # Equal ones in the order of their names, so that they do not take turns.
        most = sorted(asked, key=lambda place: (-asked[place], place))[:limit]
        return [
            ContainerSpec(latest[version], target, self._settings.job_timeout) for version, target in most
        ]
