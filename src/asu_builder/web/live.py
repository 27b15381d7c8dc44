"""Who watches which build, and how many may."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.services.live import LiveBuilds
from asu_builder.web.live_feed import LARGEST_WINDOW, Feed, Watcher
from asu_builder.web.threads import Threads
from asu_builder.web.watch_limits import WatchLimits

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
        self._tasks: set[asyncio.Task[None]] = set()
        self._askers: Counter[str] = Counter()
        self._stopping = False
        source.listen(self._ring)

    @contextlib.contextmanager
    def admitted(self, asker: str) -> Iterator[None]:
        """Counts one more watcher of this asker. Raises `TooManyRequests` or `Unavailable`."""
        if self._stopping:
            raise _STOPPING
        if self._askers.total() >= self.limits.total:
            raise TooManyRequests(
                "As many watch builds here as this server lets. Poll the build instead, or come back.",
                retry_after=_RETRY_AFTER,
            )
        if self._askers[asker] >= self.limits.each:
            raise TooManyRequests(
                f"From this address {self.limits.each} watch builds already. Close some, or poll instead.",
                retry_after=_RETRY_AFTER,
            )
        self._askers[asker] += 1
        try:
            yield
        finally:
            self._askers[asker] -= 1
            if not self._askers[asker]:
                del self._askers[asker]

    @property
    def count(self) -> int:
        """How many watch now."""
        return self._askers.total()

    @contextlib.asynccontextmanager
    async def watched(
        self, request_hash: str, after: int, *, reads_details: bool = False
    ) -> AsyncIterator[tuple[Feed, Watcher]]:
        """The build's feed, and a watcher of it. Raises `BuildNotFound` or `Unavailable`."""
        feed = self._feeds.get(request_hash)
        if feed is None:
            feed = self._begin(request_hash, after)
        watcher = Watcher(reads_details=reads_details)
        feed.watchers.add(watcher)
        try:
            await feed.begun.wait()
            if feed.refusal:
                raise feed.refusal
            yield feed, watcher
        finally:
            feed.watchers.discard(watcher)
            if not feed.watchers:
                self._forget(feed)

    def stop(self) -> None:
        """Sends everybody away, and takes nobody on any more."""
        self._stopping = True
        for feed in list(self._feeds.values()):
            feed.end(_STOPPING)

    def _begin(self, request_hash: str, after: int) -> Feed:
        feed = self._feeds[request_hash] = Feed(
            request_hash, self._source, self._threads, after=after, on_end=self._on_end
        )
        task = self._loop.create_task(feed.run())
        self._tasks.add(task)

        def end(_: object) -> None:
            self._tasks.discard(task)
            self._forget(feed)

        task.add_done_callback(end)
        feed.cancel = task.cancel
        self._share()
        return feed

    def _forget(self, feed: Feed) -> None:
        """Whoever comes now begins anew; those who are still being told keep what they have."""
        if not feed.watchers:
            feed.cancel()
        if self._feeds.get(feed.request_hash) is feed:
            del self._feeds[feed.request_hash]
            self._share()

    def _share(self) -> None:
        window = min(LARGEST_WINDOW, max(_SMALLEST_WINDOW, _WINDOWS // max(1, len(self._feeds))))
        for feed in self._feeds.values():
            feed.window = window

    def _ring(self, request_hash: str) -> None:
        if request_hash in self._feeds:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake, request_hash)

    def _wake(self, request_hash: str) -> None:
        feed = self._feeds.get(request_hash)
        if feed:
            feed.wake()
