"""Whether the engine is asked for containers: learnt from every build and from every health check.

An engine that answers pings may still start nothing, so a ping alone does not close what failed
builds have opened; a command that runs does.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from asu_builder.domain.errors import AsuError, EngineUnavailable
from asu_builder.domain.health import Breaker, CheckResult
from asu_builder.engines.guard import Limits, disk_exhausted
from asu_builder.engines.podman.calls import ContainerCalls, ContainerGone
from asu_builder.engines.podman.service import Engine

log = logging.getLogger(__name__)

_UNDISTURBED_SECONDS = 1.0
"""How long a command or the taking out of files has run before the disk is measured beside it."""
_REST = 10
"""How many times as long as a measurement takes lie between the beginnings of two.

Podman walks the whole image for it, half a second of computing for 60,000 files, and locks
the container for all others meanwhile.
"""


class Watchdog:
    """The engine's circuit breaker; every thread may use it."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._engine = engine
        self._breaker = Breaker(clock=clock)
        self._is_silent = False
        """Whether the latest ping got no answer."""

    @contextmanager
    def admitting(self) -> Iterator["Probe"]:
        """Surrounds everything that one build wants of the engine.

        Raises `EngineUnavailable` at once while the engine is left alone. One from inside counts
        against the engine and leaves with the time when asking again may help.
        """
        breaker = self._breaker
        if not breaker.admits():
            raise EngineUnavailable(breaker.sentence, retry_after=breaker.retry_after)
        probe = Probe(breaker)
        try:
            yield probe
        except EngineUnavailable as error:
            breaker.failed(str(error))
            error.retry_after = breaker.retry_after
            raise
        except BaseException:
            probe.withdraw()
            raise
        probe.works()

    def check(self) -> CheckResult:
        """The service's health, within seconds.

        It is down until it answers and, when builds have failed on it, until their span is over;
        then it is degraded, so that somebody tries.
        """
        try:
            self._engine.ping(timeout=self._engine.timeouts.check)
        except EngineUnavailable as error:
            self._is_silent = True
            self._breaker.failed(str(error))
            return CheckResult("error", str(error))
        if self._is_silent:
            self._is_silent = False
            self._breaker.worked()
        sentence = self._breaker.sentence
        if not sentence:
            return CheckResult("ok", "Podman answers.")
        if self._breaker.is_due:
            return CheckResult("warning", f"{sentence} It is being tried again.")
        return CheckResult("error", f"{sentence} It is tried again in {self._breaker.retry_after} s.")


class Probe:
    """One build's say about the engine; only the first thing it shows counts.

    What a build of half an hour ago could do says nothing about the engine now.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._is_over = False

    def works(self) -> None:
        """A command runs in a container."""
        if not self._is_over:
            self._is_over = True
            self._breaker.worked()

    def withdraw(self) -> None:
        """The build ended for another reason before a command ran."""
        if not self._is_over:
            self._is_over = True
            self._breaker.withdraw()


class ContainerWatch:
    """What a guard asks about one container: is the engine there, is the disk limit kept?"""

    def __init__(
        self,
        engine: Engine,
        calls: ContainerCalls,
        *,
        limits: Limits,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._engine = engine
        self._calls = calls
        self._limit = limits.disk
        self._clock = clock
        self._measure_at = -inf
        self.is_started = False
        """Set by the runtime once the container has started; before, only the engine is asked."""

    def look(self) -> AsuError | None:
        """See `guard.Watch`."""
        try:
            return self._look()
        except ContainerGone as gone:
            return gone

    def _look(self) -> AsuError | None:
        if not self.is_started:
            self._engine.ping(timeout=self._engine.timeouts.question)
        elif self._calls.busy_seconds < _UNDISTURBED_SECONDS or self._clock() < self._measure_at:
            self._calls.require_answer()
        elif self._measure() > self._limit:
            return disk_exhausted(self._limit)
        return None

    def _measure(self) -> int:
        began = self._clock()
        try:
            return self._calls.disk_use()
        except ContainerGone:
            raise
        except EngineUnavailable as error:
            # Walking many files on a busy disk takes long; an engine that is well answers this.
            self._calls.require_answer()
            log.warning("could not measure a container: %s", error)
            return 0
        finally:
            ended = self._clock()
            self._measure_at = ended + (ended - began) * (_REST - 1)
