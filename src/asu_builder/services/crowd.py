"""Who waits, counted: what anybody may know of the queue."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from asu_builder.domain.job import JobState, Priority
from asu_builder.ports import JobQueue, LiveJobs, Operations, Pause

_MEASURED = 50
"""So many of the latest builds say what is typical."""


class Gathering(Struct, frozen=True):
    """Waiting and building jobs that have something in common: a class, a version or a target."""

    name: str
    waiting: int
    building: int


class Crowd(Struct, frozen=True):
    """The queue at one moment."""

    at: datetime
    waiting: int
    building: int
    classes: tuple[Gathering, ...]
    versions: tuple[Gathering, ...]
    targets: tuple[Gathering, ...]
    oldest_wait: timedelta | None
    """Of the jobs that wait now; None when none does."""
    typical_wait: timedelta | None
    """The median of the latest builds; None when nothing was built yet."""
    typical_build: timedelta | None
    """The mean of the latest builds, from claim to end."""
    pause: Pause | None


class Crowds:
    """Counts the queue; each call is a few indexed queries."""

    def __init__(self, operations: Operations, queue: JobQueue, *, now: Callable[[], datetime]) -> None:
        self._operations = operations
        self._queue = queue
        self._now = now

    def look(self) -> Crowd:
        """The queue now."""
        now = self._now()
        live = self._operations.live()
        waits = self._operations.waits(_MEASURED)
        waiting_since = [group.oldest for group in live if group.state is JobState.PENDING]
        return Crowd(
            at=now,
            waiting=_count(live, JobState.PENDING),
            building=_count(live, JobState.BUILDING),
            classes=_gathered(live, lambda group: Priority(group.priority).name.lower()),
            versions=_gathered(live, lambda group: group.version),
            targets=_gathered(live, lambda group: group.target),
            oldest_wait=max(now - min(waiting_since), timedelta(0)) if waiting_since else None,
            typical_wait=sorted(waits)[len(waits) // 2] if waits else None,
            typical_build=self._queue.typical_duration(),
            pause=self._operations.paused(),
        )


def _count(live: Sequence[LiveJobs], state: JobState) -> int:
    return sum(group.count for group in live if group.state is state)


def _gathered(live: Sequence[LiveJobs], name: Callable[[LiveJobs], str]) -> tuple[Gathering, ...]:
    """The largest first."""
    waiting, building = Counter[str](), Counter[str]()
    for group in live:
        (waiting if group.state is JobState.PENDING else building)[name(group)] += group.count
    names = sorted(waiting | building, key=lambda found: (-waiting[found] - building[found], found))
    return tuple(Gathering(found, waiting[found], building[found]) for found in names)
