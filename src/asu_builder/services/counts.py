"""What happened since the start of this process, counted for whoever watches it."""

import threading
from collections import Counter

from asu_builder.ports import EventKind


class EventCounts:
    """How often each kind of event happened, failures by their reason. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, kind: EventKind, reason: str) -> None:
        """Counts one event; `reason` is that of a failure, else empty."""
        # Without the lock two threads could count as one.
        with self._lock:
            self._counts[kind, reason] += 1

    def of(self, kind: EventKind, reason: str = "") -> int:
        """How often it happened."""
        return self._counts[kind, reason]
