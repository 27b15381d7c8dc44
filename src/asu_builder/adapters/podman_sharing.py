"""One pull at a time per image: whoever wants the same one waits for it and shares how it ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock
from time import monotonic

from msgspec import Struct, field

from asu_builder.adapters.guard import TICK, interrupted
from asu_builder.adapters.podman_pull import too_slow
from asu_builder.domain.errors import AsuError, BuildInterrupted


class _Pull(Struct):
    done: Event = field(default_factory=Event)
    failure: AsuError | None = None


class SharedPulls:
    """The pulls on their way; every thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pulls: dict[str, _Pull] = {}

    def run(self, reference: str, pull: Callable[[], None], *, stop: Event, ends: float) -> None:
        """Calls `pull`, or waits for who already pulls this; an interrupted one's place is taken.

        Waiting ends when `stop` is set, and at `ends`, in seconds of the monotonic clock. Raises how
        the pull failed.
        """
        while True:
            with self._lock:
                shared = self._pulls.get(reference)
                leads = shared is None
                if shared is None:
                    shared = self._pulls[reference] = _Pull()
            if leads:
                with self._leading(reference, shared):
                    pull()
            else:
                _follow(shared, reference, stop=stop, ends=ends)
            if shared.failure is None:
                return
            if leads or not isinstance(shared.failure, BuildInterrupted):
                raise shared.failure

    @contextmanager
    def _leading(self, reference: str, pull: _Pull) -> Iterator[None]:
        """Tells those who wait how the pull ended, whatever happens."""
        try:
            yield
        except AsuError as error:
            pull.failure = error
        except BaseException:
            pull.failure = BuildInterrupted(f"The pull of {reference} broke off.")
            raise
        finally:
            with self._lock:
                del self._pulls[reference]
            pull.done.set()


def _follow(pull: _Pull, reference: str, *, stop: Event, ends: float) -> None:
    while not pull.done.wait(TICK):
        if stop.is_set():
            raise interrupted()
        if monotonic() >= ends:
            raise too_slow(reference)
