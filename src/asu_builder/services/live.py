"""How a build goes, look by look: its state, and what it has printed since the last look."""

import threading
from collections.abc import Callable, Sequence

from msgspec import Struct

from asu_builder.ports import BuildLog, LogLine
from asu_builder.services.builds import Builds, BuildView

AT_ONCE = 1000
"""Lines of one look at most."""


class Bell:
    """Tells whoever listens that there is something new of a build in this process."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[str], None], ...] = ()
        self._changing = threading.Lock()

    def listen(self, listener: Callable[[str], None]) -> None:
        """Calls it with a request hash, from any thread; it must return at once."""
        with self._changing:
            self._listeners = (*self._listeners, listener)

    def ring(self, request_hash: str) -> None:
        """Something is new."""
        for listener in self._listeners:
            listener(request_hash)


class Look(Struct, frozen=True):
    """A build at one moment, and lines of it: those behind `after`, at most `AT_ONCE`.

    `last` is the highest `seq` there is. A final build gets no more of them.
    """

    view: BuildView
    after: int
    lines: Sequence[LogLine]
    last: int


class LiveBuilds:
    """Reads the database, so that it does not matter which process builds."""

    def __init__(self, builds: Builds, log: BuildLog, bell: Bell) -> None:
        self._builds = builds
        self._log = log
        self.listen = bell.listen

    def look(self, request_hash: str, *, after: int = 0, job_id: int | None = None) -> Look:
        """The newest job of this hash, and its lines behind `after`. Raises `BuildNotFound`.

        If it is another job than `job_id`, or has not printed as many lines as `after`, it is told
        from its first line on: the same request was asked anew.
        """
        # In this order: an outcome is kept after the last line, so what is final has all its lines.
        view = self._builds.look(request_hash)
        last = self._log.last(view.job.id)
        if job_id not in (None, view.job.id) or after > last:
            after = 0
        lines = self.lines(view.job.id, after=after) if after < last else ()
        return Look(view, after, lines, last)

    def lines(self, job_id: int, *, after: int = 0) -> Sequence[LogLine]:
        """At most `AT_ONCE` lines of a job."""
        return self._log.read(job_id, after=after, limit=AT_ONCE)

    def whole(self, request_hash: str, *, after: int = 0) -> Sequence[LogLine]:
        """Every line behind `after` that is there, however many. Raises `BuildNotFound`."""
        job_id = self._builds.look(request_hash).job.id
        return self._log.read(job_id, after=after if after <= self._log.last(job_id) else 0)
