"""Answers about builds, rendered, and kept for as long as they are true.

Of each move of a job in this process the answers are told. What another process does, what expires and which
files are gone is found by rounds: once a second, and only while somebody polls, whatever was polled lately is
compared with the database at one look (docs/decisions/answers-stay-until-something-changes.md).
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from http import HTTPStatus

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.core.submit import Builds, BuildView, Progress
from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import FINAL_STATES, JobState
from asu_builder.http.api.wire import (
    BuildFrame,
    QueueLength,
    RenderedResponse,
    frame_of,
    render_build,
    render_json,
    render_live,
)
from asu_builder.http.door import Headers
from asu_builder.http.threads import Threads

_log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
POLLED_ROUNDS = 10
"""So many rounds long something counts as polled lately."""
_LONGEST_ROUND = 5.0
"""Seconds; then nothing that is kept counts as true any more."""
_BUDGET = 16 << 20
_PLAIN = 4 << 20
"""Of these bytes, as many as are kept as they are sent once all are in use; the rest is compressed."""
_LARGEST = 1 << 20
_LARGEST_PACKED = 128 << 10
"""Compressing so much takes the event loop a millisecond."""
_OVERHEAD = 1500
"""About what an answer takes beside its body, with the head."""
_FASTEST = 1
"""Of zlib's levels."""


class CachedResponse(Struct):
    """An answer that is true, and what tells whether it still is."""

    status: int
    head: bytes = b""
    """Status line and headers, each with its line break, apart from the id of the request."""
    body: bytes = b""
    """Empty where it is compressed, or has to be rendered again."""
    packed: bytes = b""
    job_id: int = 0
    state: JobState = JobState.PENDING
    frame: BuildFrame | None = None
    """Of a live build, with its latest `progress`."""
    progress: Progress | None = None
    expires_at: float = -math.inf
    """By the clock of the cache, of what is final. Unknown at first, so that the next round asks."""
    polled: int = 0
    """The last round in which somebody polled it."""
    spared: int = 0
    """The round up to which that has kept it from being pushed out."""
    size: int = 0


def prepare(answer: RenderedResponse, standing_headers: Headers) -> CachedResponse:
    """An answer as it is sent, with everything but the id of the request."""
    status = HTTPStatus(answer.status)
    lines = [
        b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()),
        b"content-type: application/json\r\n",
        b"content-length: %d\r\n" % len(answer.body),
        *(b"%s: %s\r\n" % header for header in (*answer.headers, *standing_headers)),
    ]
    return CachedResponse(answer.status, b"".join(lines), answer.body)


class AnswerCache:
    """Answers by request hash, within a number of bytes.

    When they are full, what was not polled for longest is compressed, and then forgotten. For one thread.
    """

    def __init__(self, *, budget: int = _BUDGET, plain: int = _PLAIN, largest: int = _LARGEST) -> None:
        """`plain` is the part of `budget` for what is not compressed; no body above `largest` is kept."""
        self._budget = budget
        self._plain_budget = plain
        self._largest = largest
        self._plain: OrderedDict[str, CachedResponse] = OrderedDict()
        self._packed: OrderedDict[str, CachedResponse] = OrderedDict()
        self._plain_size = 0
        self.size = 0

    def get(self, name: str) -> CachedResponse | None:
        """What is kept for this hash."""
        return self._plain.get(name) or self._packed.get(name)

    def put(self, name: str, cached: CachedResponse) -> None:
        """Keeps it in place of any former one."""
        self.drop(name)
        if len(cached.body) > self._largest:
            return
        # The frame of a live build holds nearly all of its document once more.
        cached.size = _OVERHEAD + len(cached.packed) + len(cached.body) * (1 if cached.frame is None else 2)
        cached.spared = cached.polled
        self._plain[name] = cached
        self._plain_size += cached.size
        self.size += cached.size
        while self.size > self._budget:
            if self._plain_size <= self._plain_budget and self._packed:
                self._drop_from(self._packed, _first_out(self._packed))
                continue
            out = _first_out(self._plain)
            pushed = self._drop_from(self._plain, out)
            if pushed.frame is None and len(pushed.body) <= _LARGEST_PACKED:
                pushed.packed = pushed.packed or zlib.compress(pushed.body, _FASTEST)
                pushed.body = b""
                pushed.size = _OVERHEAD + len(pushed.packed)
                self._packed[out] = pushed
                self.size += pushed.size

    def drop(self, name: str) -> None:
        """Forgets it, if it is there."""
        for entries in (self._plain, self._packed):
            if name in entries:
                self._drop_from(entries, name)

    def clear(self) -> None:
        """Forgets everything."""
        self._plain.clear()
        self._packed.clear()
        self.size = self._plain_size = 0

    def items(self) -> Collection[tuple[str, CachedResponse]]:
        """Everything that is kept now."""
        return [*self._plain.items(), *self._packed.items()]

    def _drop_from(self, entries: OrderedDict[str, CachedResponse], name: str) -> CachedResponse:
        cached = entries.pop(name)
        self.size -= cached.size
        if entries is self._plain:
            self._plain_size -= cached.size
        return cached


def _first_out(entries: OrderedDict[str, CachedResponse]) -> str:
    """The oldest that was not polled since it was last spared."""
    while True:
        name, cached = next(iter(entries.items()))
        if cached.polled <= cached.spared:
            return name
        cached.spared = cached.polled
        entries.move_to_end(name)


class Looked(Struct, frozen=True):
    """A build as it was just read, and how it is told."""

    view: BuildView
    answer: RenderedResponse
    frame: BuildFrame


class _Round(Struct, frozen=True):
    """What a look in a thread has found."""

    asked: Collection[str]
    progress: Mapping[str, Progress]
    """Of those that were asked about and whose job has not come to its end or been replaced."""
    replaced: Mapping[str, Looked]
    lost: Sequence[str]
    changed: bool
    """Whether anything was written to the database since the round before."""
    pending: int | None


class PolledBuilds:
    """What was answered of each build that is polled. On the event loop, with a thread to look in."""

    def __init__(
        self,
        builds: Builds,
        *,
        standing_headers: Headers,
        listen: Callable[[Callable[[str], None]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`listen` takes what is to be called, from any thread, with the hash of a job that has moved."""
        self._builds = builds
        self._touch = builds.touch
        self._standing_headers = standing_headers
        self._clock = clock
        self._thread = Threads(1, name="web-round")
        self._cache = AnswerCache()
        self._round = 0
        self._changes = 0
        self._news = 0
        self._moved: set[str] = set()
        self._seen: int | None = None
        """The state of the database at the last round; the thread's."""
        self._queue: tuple[int, CachedResponse] | None = None
        self._queue_asked = -POLLED_ROUNDS - 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rounds: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        listen(self._hear)

    def get(self, request_hash: str) -> CachedResponse | None:
        """The answer to a poll, if it is known."""
        cached = self._cache.get(request_hash)
        if cached is None:
            return None
        given = cached if cached.body else self._restore(request_hash, cached)
        cached.polled = self._round
        self._touch(request_hash)
        return given

    def look(self, request_hash: str) -> Looked:
        """Reads a build, in a thread. Raises what `Builds.look` raises."""
        view = self._builds.look(request_hash)
        frame = frame_of(view.job)
        return Looked(view, render_build(view, frame), frame)

    def mark(self) -> tuple[int, int]:
        """To be taken before something is read that is then `put`."""
        return self._changes, self._news

    def put(self, looked: Looked, since: tuple[int, int]) -> bool:
        """Keeps an answer that was read since that mark; False if it may be out of date already."""
        if self._changes != since[0]:
            return False
        self._keep(looked, self._round)
        if self._news != since[1] and looked.view.job.state not in FINAL_STATES:
            self._look_soon(looked.view.job.request_hash)  # the news may have been about this one
        return True

    def holds(self, request_hash: str) -> bool:
        """Whether an answer is known."""
        return self._cache.get(request_hash) is not None

    def lives(self, request_hash: str) -> bool:
        """Whether the answer is not known to be final, because it is of a live build or not known at all."""
        cached = self._cache.get(request_hash)
        return cached is None or cached.frame is not None

    def forget(self, request_hash: str) -> None:
        """Drops what is known of this hash; what was read before is not kept either."""
        self._changes += 1
        self._queue = None
        self._cache.drop(request_hash)

    def clear(self) -> None:
        """Drops everything."""
        self._changes += 1
        self._queue = None
        self._cache.clear()

    def queue_length(self) -> CachedResponse | None:
        """How many jobs wait, if it is known, at most about a second old."""
        self._queue_asked = self._round
        return None if self._queue is None else self._queue[1]

    def note_queue_length(self, pending: int) -> None:
        """So many jobs wait, as was just read."""
        if self._queue is None or self._queue[0] != pending:
            answer = render_json(QueueLength(pending))
            self._queue = pending, prepare(answer, self._standing_headers)
        self._start_rounds()

    def note_submission(self) -> None:
        """One job more waits."""
        if self._queue is not None:
            self.note_queue_length(self._queue[0] + 1)

    def stop(self) -> None:
        """Begins no more rounds."""
        for task in (self._rounds, self._refreshing):
            if task is not None:
                task.cancel()
        self._loop = None

    def close(self) -> None:
        """Waits for a look that is under way; the database may be closed afterwards."""
        self._thread.close()

    async def look_again(self) -> None:
        """One round. Polls meanwhile are answered as before it."""
        self._round += 1
        lately = self._round - POLLED_ROUNDS
        kept = self._cache.items()
        entries = {name: cached for name, cached in kept if cached.polled >= lately}
        turn = self._round % POLLED_ROUNDS
        completed = [name for name, cached in entries.items() if cached.state is JobState.COMPLETED]
        checked = [name for name in completed if hash(name) % POLLED_ROUNDS == turn]
        found = await self._compare(entries, completed, checked)
        if found is None or found.changed:
            # Nobody has compared these, so nobody knows whether they are true.
            for name, cached in kept:
                if cached.polled < lately:
                    self._cache.drop(name)

    # How answers are kept.

    def _keep(self, looked: Looked, polled: int) -> None:
        job = looked.view.job
        cached = prepare(looked.answer, self._standing_headers)
        cached.job_id, cached.state, cached.polled = job.id, job.state, polled
        if job.state not in FINAL_STATES:
            cached.frame, cached.progress = looked.frame, looked.view.progress
        self._cache.put(job.request_hash, cached)
        self._start_rounds()

    def _restore(self, request_hash: str, cached: CachedResponse) -> CachedResponse:
        """The same with its body."""
        if cached.frame is not None and cached.progress is not None:
            rendered = prepare(render_live(cached.frame, cached.progress), self._standing_headers)
            cached.head, cached.body = rendered.head, rendered.body
            return cached
        restored = replace(cached, body=zlib.decompress(cached.packed))
        if cached.polled == self._round:
            # Polled again within a second: that is worth its memory.
            self._cache.put(request_hash, restored)
        return restored

    # How they are compared with what is true.

    def _hear(self, request_hash: str) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has been closed
                loop.call_soon_threadsafe(self._on_news, request_hash)

    def _on_news(self, request_hash: str) -> None:
        self._news += 1
        if self._queue is not None or self.holds(request_hash):
            self._look_soon(request_hash)

    def _look_soon(self, request_hash: str) -> None:
        self._moved.add(request_hash)
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = _start(self._look_at_moved())

    async def _look_at_moved(self) -> None:
        while self._moved:
            moved, self._moved = self._moved, set()
            known = {name: self._cache.get(name) for name in moved}
            await self._compare({name: cached for name, cached in known.items() if cached is not None})

    def _start_rounds(self) -> None:
        if self._rounds is None or self._rounds.done():
            self._loop = asyncio.get_running_loop()
            self._rounds = _start(self._look_again_and_again())

    async def _look_again_and_again(self) -> None:
        self._seen = None  # what happened since the last round is not known
        lately = self._round
        while lately >= self._round - POLLED_ROUNDS:
            await asyncio.sleep(ROUND_SECONDS)
            await self.look_again()
            lately = max((cached.polled for _, cached in self._cache.items()), default=self._queue_asked)
            lately = max(lately, self._queue_asked)
        self.clear()

    async def _compare(
        self,
        entries: Mapping[str, CachedResponse],
        completed: Sequence[str] | None = None,
        checked: Sequence[str] = (),
    ) -> _Round | None:
        """Looks at these, and lets go of what is not true any more; everything, where that cannot be told.

        In a round `completed` are those with files, of which `checked` are looked for. None where nothing
        was found out.
        """
        changes, now = self._changes, self._clock()
        due = {
            name
            for name, cached in entries.items()
            if completed is None or cached.frame is not None or cached.expires_at - ROUND_SECONDS <= now
        }
        counts = self._queue is not None and self._queue_asked >= self._round - POLLED_ROUNDS
        try:
            async with asyncio.timeout(_LONGEST_ROUND):
                read = partial(self._read, entries, due, completed, checked, counts=counts)
                found = await self._thread.run(read)
        except Exception as error:  # noqa: BLE001 - polls then ask by themselves, and are told why
            if not isinstance(error, AsuError | TimeoutError):
                _log.exception("looking at builds again failed: a bug")
            self.clear()
            return None
        if self._changes != changes:
            return None  # an operator has acted meanwhile, and this may have been read before
        for name in found.asked:
            cached = entries[name]
            if self._cache.get(name) is not cached:
                continue
            progress = found.progress.get(name)
            if name in found.replaced:
                self._keep(found.replaced[name], cached.polled)
            elif progress is None:
                self._cache.drop(name)
            elif cached.frame is None:
                cached.expires_at = now + progress.lasts.total_seconds() if progress.lasts else math.inf
            elif cached.progress != progress:
                cached.progress, cached.state, cached.body = progress, progress.standing.state, b""
        for name in found.lost:
            if self._cache.get(name) is entries[name]:
                self._cache.drop(name)
        if counts and found.pending is not None:
            self.note_queue_length(found.pending)
        elif not counts:
            self._queue = None
        return found

    def _read(
        self,
        entries: Mapping[str, CachedResponse],
        due: Collection[str],
        completed: Sequence[str] | None,
        checked: Sequence[str],
        *,
        counts: bool,
    ) -> _Round:
        """In the thread: what has become of these, without a change of the database only of those due."""
        changed = True
        if completed is not None:
            try:
                seen: int | None = self._builds.changes()
            except AsuError:
                seen = None  # it cannot be told at this moment
            changed = seen is None or seen != self._seen
            self._seen = seen
        asked = entries.keys() if changed else due
        progress = dict(self._builds.progress(asked)) if asked else {}
        replaced: dict[str, Looked] = {}
        for name, found in list(progress.items()):
            cached, standing = entries[name], found.standing
            lives = standing.state not in FINAL_STATES
            same = standing.job_id == cached.job_id
            if same and (standing.state is cached.state or (lives and cached.frame is not None)):
                continue
            del progress[name]
            with contextlib.suppress(AsuError):  # then it is asked for when it is polled
                replaced[name] = self.look(name)
        return _Round(
            asked,
            progress,
            replaced,
            self._builds.lost(completed, checked=checked) if completed else (),
            changed,
            self._builds.pending() if counts and changed else None,
        )


def _start(work: Coroutine[object, None, None]) -> asyncio.Task[None]:
    """A task of its own, not one of the request in which it begins."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
