"""Who watches which build: one reader for all of them, and how many there may be."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context

from asu_builder.core.live import LiveBuilds
from asu_builder.core.submit import Progress
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import AsuError, TooManyRequests, Unavailable
from asu_builder.http.api.live import WatchLimits
from asu_builder.http.api.watched import BUG, BUILDING_SECONDS, Feed, Watcher
from asu_builder.http.threads import Threads

_log = logging.getLogger(__name__)

LARGEST_WINDOW = 256 << 10
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
        self._compares: asyncio.Task[None] | None = None
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
            self._next_round = self._loop.call_later(BUILDING_SECONDS, self._round)
        return feed

    def _round(self) -> None:
        """Looks at the builds whose time has come; one timer for all of them, and for all beats."""
        self._next_round = self._loop.call_later(BUILDING_SECONDS, self._round) if self._feeds else None
        now, stamp = self._loop.time(), self._source.stamp()
        waiting = []
        for feed in self._feeds.values():
            if feed.waits:
                waiting.append(feed)
            else:
                feed.look_if_due(now, stamp)
            for watcher in feed.watchers:
                watcher.keep_beat(now)
        if self._compares is None and any(feed.is_due(now) for feed in waiting):
            self._compares = self._loop.create_task(self._compare(waiting, stamp), context=Context())

    async def _compare(self, waiting: Sequence[Feed], stamp: int | None) -> None:
        """One look at all that wait; where nothing was written since their last one, at one of them.

        What they wait for and how long builds take is not in the database, and the same for all.
        """
        since = self._loop.time()
        current = [feed for feed in waiting if feed.is_current(stamp)]
        behind = [feed for feed in waiting if not feed.is_current(stamp)]
        try:
            found = await self._progress(behind + current[:1])
            if current and found.get(current[0].request_hash) != current[0].seen:
                found = await self._progress(waiting)
            elif current:
                found = {feed.request_hash: feed.seen for feed in current} | found
            for feed in waiting:
                feed.take(found.get(feed.request_hash), stamp=stamp, since=since)
        except AsuError as error:
            for feed in waiting:
                feed.fail(error)
        except Exception:  # noqa: BLE001 - watchers must not wait for ever
            _log.exception("watching builds failed: a bug")
            for feed in waiting:
                feed.end(BUG)
        for feed in waiting:
            self._source.note_watched(feed.request_hash)
        self._compares = None

    async def _progress(self, feeds: Sequence[Feed]) -> dict[str, Progress | None]:
        names = [feed.request_hash for feed in feeds]
        return dict(await self._threads.run(self._source.progress, names))

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
