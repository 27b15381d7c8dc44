"""Who watches which build: one reader for all of them, and how many there may be."""

import asyncio
import bisect
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from functools import partial

from msgspec import Struct

from asu_builder.core.live import LiveBuilds, Look
from asu_builder.core.submit import BuildView
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import AsuError, BuildNotFound, TooManyRequests, Unavailable
from asu_builder.domain.job import FINAL_STATES, JobState, LogLine
from asu_builder.http.api.live import (
    Message,
    WatchLimits,
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
_ROUND_SECONDS = BUILDING_SECONDS
_SOONEST = 0.05
_SOONEST_EACH = 0.001
"""The least between two looks, in all or for each who watches: many are told more at a time."""
_TRIES = 20
"""Looks in a row that may fail before the watchers are sent away."""
LARGEST_WINDOW = 256 << 10
"""Bytes of a build's latest lines that are kept rendered; what is older is read again."""
_ETA_SLACK = 5.0


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
        self.window = LARGEST_WINDOW
        self._source = source
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._last = after
        self._there = 0
        self._job_id: int | None = None
        self._lives = 0
        self._state: Message | None = None
        self._states = 0
        self._sent: tuple[object, ...] = ()
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
        self._looked_at = 0.0
        self._due_at = 0.0

    def wake(self) -> None:
        """Says that there is something new in the database."""
        self._has_news = True
        if self._looks is None and self._looks_soon is None and self._end is None:
            soonest = self._looked_at + max(_SOONEST, _SOONEST_EACH * len(self.watchers))
            self._looks_soon = self._loop.call_at(soonest, self.look)

    def look_if_due(self, now: float) -> None:
        """Looks when the last look is long enough ago, and none is on its way."""
        if self._looks is None and self._looks_soon is None and now >= self._due_at:
            self.look()

    def look(self) -> None:
        """Looks as often as there is more to take; then tells the watchers."""
        self._looks_soon = None
        # In no request's context: it is made for all who watch.
        self._looks = self._loop.create_task(self._look_on(), context=Context())

    def stop(self) -> None:
        """Nobody watches any more."""
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
            self._failures += 1
            if self._job_id is None or self._failures >= _TRIES:
                self.end(error)
        except Exception:  # noqa: BLE001 - watchers must not wait for ever
            _log.exception("watching a build failed: a bug")
            self.end(Unavailable("The server made a mistake and has written it to its log.", plain=True))
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
        if (has_all or not final) and self._has_changed(look.view):
            self._state = render_state(look.view)
            self._states += 1
        if not has_all:
            return 0.0
        if final:
            self._on_end(self.request_hash)
        self._end = self._end_for_operators = final
        return BUILDING_SECONDS if job.state is JobState.BUILDING else WAITING_SECONDS

    def _has_changed(self, view: BuildView) -> bool:
        """Whether there is more to tell than that time has passed."""
        sent = (view.job.id, view.job.state, view.job.stage, view.position, view.waiting_for)
        left = None if view.remaining is None else view.remaining.total_seconds()
        ends_at = None if left is None else time.monotonic() + left
        if sent == self._sent and (ends_at is None) == (self._ends_at is None):
            moved = abs((ends_at or 0.0) - (self._ends_at or 0.0))
            if moved <= max(_ETA_SLACK, (left or 0.0) / 5):
                return False
        self._sent, self._ends_at = sent, ends_at
        return True


_SMALLEST_WINDOW = 16 << 10
_WINDOWS = 6 << 20
"""Bytes of lines that are kept rendered for all builds together, while the smallest windows allow it."""
_RETRY_AFTER = 30
_STOPPING = Unavailable(
    "The server stops. Connect again; the log goes on from the last line's number.", plain=True
)


class Watching:
    """Who watches what; lives on the event loop."""

    def __init__(
        self, source: LiveBuilds, threads: Threads, *, limits: WatchLimits, on_end: Callable[[str], None]
    ) -> None:
        self._on_end = on_end
        self.limits = limits
        self._source = source
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._feeds: dict[str, Feed] = {}
        self._next_round: asyncio.TimerHandle | None = None
        self._callers: Counter[str] = Counter()
        self._stopping = False
        source.listen(self._notify)

    @property
    def count(self) -> int:
        """How many watch now."""
        return self._callers.total()

    async def join(
        self, caller: Caller, request_hash: str, after: int, *, beat: float | None = None
    ) -> Watcher:
        """One more watcher of this build, for this caller, until it is given to `leave`.

        Raises `TooManyRequests`, `BuildNotFound` or `Unavailable`.
        """
        if self._stopping:
            raise _STOPPING
        if self.count >= self.limits.total:
            raise TooManyRequests(
                "As many watch builds here as this server lets. Poll the build instead, or come back.",
                retry_after=_RETRY_AFTER,
            )
        if self._callers[caller.name] >= self.limits.each:
            raise TooManyRequests(
                f"From this address {self.limits.each} watch builds already. Close some, or poll instead.",
                retry_after=_RETRY_AFTER,
            )
        self._callers[caller.name] += 1
        feed = self._feeds.get(request_hash) or self._begin(request_hash, after)
        watcher = Watcher(feed, caller.name, caller.may(Right.READ), beat)
        feed.watchers.add(watcher)
        try:
            while not feed.begun:
                await watcher.news()
            if feed.refusal:
                raise feed.refusal
        except BaseException:
            self.leave(watcher)
            raise
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """It watches no longer."""
        watcher.feed.watchers.discard(watcher)
        if not watcher.feed.watchers:
            self._forget(watcher.feed)
        self._callers[watcher.caller] -= 1
        if not self._callers[watcher.caller]:
            del self._callers[watcher.caller]

    def stop(self) -> None:
        """Sends all watchers away and admits no more."""
        self._stopping = True
        for feed in list(self._feeds.values()):
            feed.end(_STOPPING)

    def _begin(self, request_hash: str, after: int) -> Feed:
        feed = self._feeds[request_hash] = Feed(
            request_hash,
            self._source,
            self._threads,
            after=after,
            on_end=self._on_end,
            close=self._forget,
        )
        feed.look()
        self._share()
        if self._next_round is None:
            self._next_round = self._loop.call_later(_ROUND_SECONDS, self._round)
        return feed

    def _round(self) -> None:
        """Looks at the builds whose time has come; one timer for all of them, and for all beats."""
        now = self._loop.time()
        for feed in self._feeds.values():
            feed.look_if_due(now)
            for watcher in feed.watchers:
                watcher.keep_beat(now)
        self._next_round = self._loop.call_later(_ROUND_SECONDS, self._round) if self._feeds else None

    def _forget(self, feed: Feed) -> None:
        """Later watchers get a new feed; those of this one keep it."""
        if not feed.watchers:
            feed.stop()
        if self._feeds.get(feed.request_hash) is feed:
            del self._feeds[feed.request_hash]
            self._share()

    def _share(self) -> None:
        window = min(LARGEST_WINDOW, max(_SMALLEST_WINDOW, _WINDOWS // max(1, len(self._feeds))))
        for feed in self._feeds.values():
            feed.window = window

    def _notify(self, request_hash: str) -> None:
        if feed := self._feeds.get(request_hash):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(feed.wake)
