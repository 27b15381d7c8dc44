"""What happened since the start of this process, counted for whoever watches it."""

import threading
from collections import Counter

from asu_builder.domain.errors import FailureReason, Side
from asu_builder.ports import EventKind


class EventCounts:
    """How often each kind of event happened, failures by their reason and side. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[tuple[FailureReason, Side]] = Counter(
            {(reason, reason.side): 0 for reason in FailureReason}
        )

    def note(self, kind: EventKind, reason: str = "", side: str = "") -> None:
        """Counts one event; `reason` and `side` are those of a failure, "" for the reason's own side."""
        # Without the lock two threads could count as one.
        with self._lock:
            self._counts[kind] += 1
            if kind == "failed" and reason in set(FailureReason):
                known = FailureReason(reason)
                self._failures[known, Side(side) if side else known.side] += 1

    def of(self, kind: EventKind) -> int:
        """How often it happened."""
        return self._counts[kind]

    def failures(self) -> dict[tuple[FailureReason, Side], int]:
        """Failures by reason and side; every reason is there with its own side."""
        with self._lock:
            return dict(self._failures)
