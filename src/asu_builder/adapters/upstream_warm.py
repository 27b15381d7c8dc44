"""Which documents were asked for of late, so that they are asked for again before somebody waits."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

KEPT_SECONDS = 7 * 86400.0
"""How long a document is kept warm from when it was last asked for."""
_MOST = 2000
_NOTED_AGAIN_SECONDS = 60.0


class WarmPaths:
    """Paths by when they were last asked for; safe to use from any thread.

    `now` counts seconds on the wall, since it is compared with what a former life of this process
    has noted; `clock` counts seconds and never leaps.
    """

    def __init__(self, *, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, float] = OrderedDict()
        """On the wall; the one asked for longest ago comes first."""
        self._due: dict[str, float] = {}
        self.changed = False
        """Whether there is anything to be saved."""

    def note(self, path: str) -> None:
        """Somebody has asked for it."""
        now = self._now()
        # Without the lock: most notes are repetitions.
        if abs(now - self._asked.get(path, 0.0)) < _NOTED_AGAIN_SECONDS:
            return
        with self._lock:
            self._asked[path] = now
            self._asked.move_to_end(path)
            self.changed = True
            while len(self._asked) > _MOST:
                self._drop(next(iter(self._asked)))

    def forget(self, path: str) -> None:
        """It is not there any more."""
        with self._lock:
            if path in self._asked:
                self._drop(path)

    def due(self) -> str | None:
        """The one that should be looked at next, if it is time; `rest` says when again."""
        with self._lock:
            now = self._now()
            while self._asked and now - next(iter(self._asked.values())) > KEPT_SECONDS:
                self._drop(next(iter(self._asked)))
            path = min(self._asked, key=lambda path: self._due.get(path, 0.0), default=None)
            return path if path is not None and self._due.get(path, 0.0) <= self._clock() else None

    def rest(self, path: str, seconds: float) -> None:
        """It need not be looked at for so long."""
        with self._lock:
            if path in self._asked:
                self._due[path] = self._clock() + seconds

    def to_save(self) -> Mapping[str, float]:
        """What a later life of this process should know."""
        with self._lock:
            self.changed = False
            return dict(self._asked)

    def restore(self, asked: Mapping[str, float]) -> None:
        """What a former life has noted; times that have not come yet are taken for now."""
        now = self._now()
        with self._lock:
            for path, at in sorted(asked.items(), key=lambda entry: entry[1])[-_MOST:]:
                self._asked.setdefault(path, min(at, now))

    def _drop(self, path: str) -> None:
        del self._asked[path]
        self._due.pop(path, None)
        self.changed = True
