"""One watched build: what is known of it, and how each of its watchers follows it."""

import asyncio
import bisect
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from functools import partial

from msgspec import Struct

from asu_builder.core.live import LiveBuilds, Look
from asu_builder.core.submit import Progress
from asu_builder.domain.errors import AsuError, BuildNotFound, Unavailable
from asu_builder.domain.job import FINAL_STATES, JobState, LogLine
from asu_builder.http.api.live import (
    Message,
    render_final,
    render_lines,
    render_problem_event,
    render_state,
)
from asu_builder.http.errors import sentence_of, status_of
from asu_builder.http.threads import SingleFlight, Threads
from asu_builder.log_context import CURRENT_HASH

_log = logging.getLogger(__name__)

BUILDING_SECONDS = 0.25
WAITING_SECONDS = 1.0
"""Between two looks at a build that runs, and at one that waits, unless this process knows of news."""
_SOONEST = 0.05
_SOONEST_EACH = 0.001
"""The least between two looks, in all or for each who watches: many are told more at a time."""
_TRIES = 20
"""Looks in a row that may fail before the watchers are sent away."""
_ETA_SLACK = 5.0
BUG = Unavailable("The server made a mistake and has written it to its log.", plain=True)


class _Batch(Struct, frozen=True):
    first: int
    lines: Sequence[LogLine]
    message: Message
    size: int


class Watcher(Struct, eq=False):
    """One who watches: woken when there is something new, or when it has gone away."""

    feed: "Feed"
    caller: str
    reads_details: bool
    """Whether it may read what operators read of an error."""
    beat: float | None
    """Seconds after which it is woken though there is nothing new."""
    gone: bool = False
    _has_news: bool = False
    _waits: asyncio.Future[None] | None = None
    _since: float = 0.0

    async def news(self) -> bool:
        """Waits for something new; False when there was nothing for the seconds of a beat."""
        if not self._has_news:
            loop = asyncio.get_running_loop()
            self._waits, self._since = loop.create_future(), loop.time()
            await self._waits
        has_news, self._has_news = self._has_news, False
        return has_news

    def wake(self) -> None:
        """There is something new."""
        self._has_news = True
        self._proceed()

    def keep_beat(self, now: float) -> None:
        """Wakes it when it has waited for the seconds of a beat."""
        if self.beat is not None and now - self._since >= self.beat:
            self._proceed()

    def leave(self) -> None:
        """It is not there any more."""
        self.gone = True
        self.wake()

    def _proceed(self) -> None:
        if self._waits and not self._waits.done():
            self._waits.set_result(None)


class Feed:
    """Everything about one build, for all who watch it; lives as long as somebody does."""

    def __init__(
        self,
        request_hash: str,
        source: LiveBuilds,
        threads: Threads,
        *,
        after: int,
        on_end: Callable[[str], None],
        close: Callable[["Feed"], None],
    ) -> None:
        """`on_end` is told the hash of a build that has ended, before its watchers are; `close` is called
        when there will be no further look.
        """
        self._on_end = on_end
        self._close = close
        self.request_hash = request_hash
        self.refusal: AsuError | None = None
        """Why it never began, or could not go on."""
        self.begun = False
        self.watchers: set[Watcher] = set()
        self.window = 0
        """Bytes of the latest lines that are kept rendered; what is older is read again."""
        self._source = source
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._last = after
        self._there = 0
        self._job_id: int | None = None
        self._lives = 0
        self._state: Message | None = None
        self._states = 0
        self.seen: Progress | None = None
        """As it was at the last look."""
        self._ends_at: float | None = None
        self._end: Message | None = None
        self._end_for_operators: Message | None = None
        self._batches: list[_Batch] = []
        self._size = 0
        self._reads: SingleFlight[Message | None] | None = None
        self._failures = 0
        self._looks: asyncio.Task[None] | None = None
        self._looks_soon: asyncio.TimerHandle | None = None
        self._has_news = False
        self._stamp: int | None = None
        self._looked_at = 0.0
        self._due_at = 0.0

    def wake(self) -> None:
        """Says that there is something new in the database."""
        self._has_news = True
        if self._looks is None and self._looks_soon is None and self._end is None:
            soonest = self._looked_at + max(_SOONEST, _SOONEST_EACH * len(self.watchers))
            self._looks_soon = self._loop.call_at(soonest, self.look)

    @property
    def waits(self) -> bool:
        """Whether only its place in the queue can change, or what it waits for."""
        return self.seen is not None and _waits(self.seen) and self._end is None

    def is_due(self, now: float) -> bool:
        """Whether the last look is long enough ago, and none is on its way."""
        return self._looks is None and self._looks_soon is None and now >= self._due_at

    def is_current(self, stamp: int | None) -> bool:
        """Whether nothing was written to the database since the last look."""
        return stamp is not None and stamp == self._stamp

    def look_if_due(self, now: float, stamp: int | None) -> None:
        """Looks when it is due; where nothing was written, only after the time of a build that waits."""
        if self.is_due(now) and not (self.is_current(stamp) and now - self._looked_at < WAITING_SECONDS):
            self.look()

    def look(self) -> None:
        """Looks as often as there is more to take; then tells the watchers."""
        self._looks_soon = None
        self._stamp = self._source.stamp()
        # In no request's context: it is made for all who watch.
        self._looks = self._loop.create_task(self._look_on(), context=Context())

    def take(self, progress: Progress | None, *, stamp: int | None, since: float) -> None:
        """What a look at many that began at `since` has found of this one."""
        if self._looks is not None or self._looked_at > since or self._end or not self.watchers:
            return  # it has looked by itself since then, or need not any more
        if progress is None or progress.standing.job_id != self._job_id or not _waits(progress):
            self.look()
            return
        self._failures = 0
        self._stamp = stamp
        self._due_at = self._loop.time() + WAITING_SECONDS
        if self._note(progress):
            for watcher in self.watchers:
                watcher.wake()

    def fail(self, error: AsuError) -> None:
        """A look has failed; the next one may not."""
        self._due_at = self._loop.time() + WAITING_SECONDS
        self._failures += 1
        if self._job_id is None or self._failures >= _TRIES:
            self.end(error)

    def stop(self) -> None:
        """It is not watched any more."""
        for look in (self._looks, self._looks_soon):
            if look is not None:
                look.cancel()

    async def _look_on(self) -> None:
        CURRENT_HASH.set(self.request_hash)
        pause = 0.0
        while not pause and self._end is None:
            self._has_news = False
            pause = await self._look()
            self.begun = True
            for watcher in self.watchers:
                watcher.wake()
        self._looks = None
        self._looked_at = self._loop.time()
        self._due_at = self._looked_at + pause
        if self._end:
            self._close(self)
        elif self._has_news:
            self.wake()

    async def follow(self, watcher: Watcher, after: int) -> AsyncIterator[Message | None]:
        """Every message for one watcher, the last one last; None when it is to be sent a beat."""
        place, life, sent = after, 0, 0
        while not watcher.gone:
            if life != self._lives:
                # Another job under the same hash, or a number that this one has not reached.
                place = place if life == 0 and place <= self._there else 0
                life = self._lives
            is_behind = place < self._last and self.refusal is None
            if sent != self._states and self._state and not (self._end and is_behind):
                sent = self._states
                yield self._state
            elif is_behind:
                if not self._batches or place + 1 < self._batches[0].first:
                    self._reads = self._reads or SingleFlight()
                    message, _ = await self._reads.ask(place, partial(self._read, place))
                else:
                    number = bisect.bisect_right(self._batches, place + 1, key=lambda batch: batch.first) - 1
                    batch = self._batches[number]
                    skipped = place + 1 - batch.first
                    message = render_lines(batch.lines[skipped:]) if skipped else batch.message
                place = message.last if message else self._last
                if message:
                    yield message
            elif self._end:
                yield self._end_for_operators if watcher.reads_details else self._end
                return
            elif not await watcher.news():
                yield None

    def end(self, refusal: AsuError) -> None:
        """Sends everybody away."""
        self.refusal = refusal
        status, title = status_of(refusal)
        self._end = render_problem_event(status, title, sentence_of(refusal, details=False))
        self._end_for_operators = render_problem_event(status, title, sentence_of(refusal, details=True))
        self.begun = True
        for watcher in self.watchers:
            watcher.wake()

    async def _read(self, place: int) -> Message | None:
        """From the database, what is too old to be kept here: the lines behind this one."""

        def read(job_id: int) -> Message | None:
            lines = self._source.lines(job_id, after=place)
            return render_lines(lines) if lines else None

        try:
            return await self._threads.run(read, self._job_id)
        except AsuError:
            return None

    async def _look(self) -> float:
        """Looks once; for how many seconds nothing new need be expected."""

        def look(after: int, job_id: int | None) -> tuple[Look, Message | None, Message | None]:
            seen = self._source.look(self.request_hash, after=after, job_id=job_id)
            final = render_final(seen.view) if seen.view.job.state in FINAL_STATES else None
            return seen, render_lines(seen.lines) if seen.lines else None, final

        try:
            found = await self._threads.run(look, self._last, self._job_id)
            if self.refusal is None:
                return self._take(*found)
        except BuildNotFound as error:
            self.end(error)
        except AsuError as error:
            self.fail(error)
        except Exception:  # noqa: BLE001 - watchers must not wait for ever
            _log.exception("watching a build failed: a bug")
            self.end(BUG)
        return WAITING_SECONDS

    def _take(self, look: Look, lines: Message | None, final: Message | None) -> float:
        self._failures = 0
        job = look.view.job
        if job.id != self._job_id:
            self._job_id, self._last, self._lives = job.id, look.after, self._lives + 1
            self._batches.clear()
            self._size = 0
        self._there = look.last
        if lines:
            self._batches.append(_Batch(look.lines[0].seq, look.lines, lines, len(lines.json)))
            self._last = lines.last
            self._size += len(lines.json)
            while self._size > self.window and len(self._batches) > 1:
                self._size -= self._batches.pop(0).size
        has_all = self._last >= look.last or not lines
        if has_all or not final:
            self._note(look.view.progress)
        if not has_all:
            return 0.0
        if final:
            self._on_end(self.request_hash)
        self._end = self._end_for_operators = final
        return BUILDING_SECONDS if job.state is JobState.BUILDING else WAITING_SECONDS

    def _note(self, progress: Progress) -> bool:
        """Whether there is more to tell than that time has passed; then it is told."""
        before, self.seen = self.seen, progress
        left = None if progress.remaining is None else progress.remaining.total_seconds()
        ends_at = None if left is None else time.monotonic() + left
        is_same = before is not None and (before.standing, before.waiting_for, before.late) == (
            progress.standing,
            progress.waiting_for,
            progress.late,
        )
        if is_same and (ends_at is None) == (self._ends_at is None):
            moved = abs((ends_at or 0.0) - (self._ends_at or 0.0))
            if moved <= max(_ETA_SLACK, (left or 0.0) / 5):
                return False
        self._ends_at = ends_at
        self._state = render_state(progress)
        self._states += 1
        return True


def _waits(progress: Progress) -> bool:
    return progress.standing.state is JobState.PENDING
