"""Registries that fail are left alone for a while; what is here can be built meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from asu_builder.domain.breaker import Breaker
from asu_builder.domain.errors import BuildFailed, RegistryUnavailable
from asu_builder.ports import Verdict


class NotAsked(RegistryUnavailable):
    """The registry has just failed, so that it was not asked again."""


class Registries:
    """A circuit breaker for each registry that images come from; every thread may use it."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._lock = Lock()
        self._breakers: dict[str, Breaker] = {}

    @contextmanager
    def asking(self, reference: str) -> Iterator[None]:
        """Surrounds a pull and learns from how it ends. Raises `NotAsked`."""
        breaker = self._breaker(reference)
        if not breaker.admits():
            raise NotAsked(breaker.sentence, retry_after=breaker.retry_after)
        try:
            yield
        except RegistryUnavailable as error:
            breaker.failed(str(error))
            error.retry_after = breaker.retry_after
            raise
        except BuildFailed:
            # It has answered: there is no such image.
            breaker.worked()
            raise
        except BaseException:
            breaker.withdraw()
            raise
        breaker.worked()

    def verdict(self) -> Verdict:
        """Degraded when the latest pull from some registry has failed for the registry's reasons."""
        with self._lock:
            breakers = list(self._breakers.values())
        for breaker in breakers:
            if sentence := breaker.sentence:
                return Verdict("degraded", f"{sentence} Only what is here already can be built meanwhile.")
        return Verdict("ok", "No pull has failed of late.")

    def _breaker(self, reference: str) -> Breaker:
        host = reference.partition("/")[0]
        with self._lock:
            if host not in self._breakers:
                self._breakers[host] = Breaker(clock=self._clock)
            return self._breakers[host]
