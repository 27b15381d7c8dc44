"""Who was asked for lately: kept in memory, written in batches, off the way of every answer."""

from collections.abc import Callable
from datetime import datetime

from asu_builder.ports import JobQueue


class Interest:
    """Hashes that somebody polled, downloaded or asked for again since the last `flush`."""

    def __init__(self, queue: JobQueue, *, now: Callable[[], datetime]) -> None:
        self._queue = queue
        self._now = now
        self._asked: set[str] = set()
        self.note = self._asked.add
        """Notes one; costs nothing, from any thread."""

    def flush(self) -> None:
        """Writes what was noted; what cannot be written is kept for the next time."""
        # Popped one by one, because others add meanwhile; an entry is either written or still there.
        asked = {self._asked.pop() for _ in range(len(self._asked))}
        if not asked:
            return
        try:
            self._queue.note_interest(asked, now=self._now())
        except BaseException:
            self._asked |= asked
            raise
