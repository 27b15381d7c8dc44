"""Answers about builds, rendered, and kept for as long as they are true.

Of each move of a job in this process the answers are told. What another process does, what expires and which
files are gone is found by rounds: once a second, and only while somebody polls, whatever was polled lately is
compared with the database at one look (docs/decisions/answers-stay-until-something-changes.md). A database
server tells of each final answer that ends; those are compared now and then only, and outlast its absence.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import time
import zlib
from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import timedelta
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.core.submit import Builds, Progress
from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import FINAL_STATES, JobState
from asu_builder.http.answer_cache import AnswerCache, CachedResponse, prepare
from asu_builder.http.api.wire import QueueLength, render_json, render_live
from asu_builder.http.door import Headers
from asu_builder.http.shared_answers import Looked, SharedAnswers
from asu_builder.http.threads import Threads

_log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
POLLED_ROUNDS = 10
"""So many rounds long something counts as polled lately."""
_LONGEST_ROUND = 5.0
"""Seconds; then nothing that is kept counts as true any more, but for answers whose end is told."""
TOLD_ROUNDS = 10
"""Every so many rounds the final answers whose end is told are compared all the same."""
TOLD_SECONDS = 75.0
"""How long such an answer is kept after it was compared: a minute, and what may lie between two looks."""


class _Found(Struct, frozen=True):
    """What a look in the thread has found."""

    progress: Mapping[str, Progress]
    """Of those whose job goes on."""
    replaced: Mapping[str, Looked]
    """Those whose job has ended, or is another one."""
    outdated: Collection[str] = ()
    """Those that are not true any more."""
    compared: Collection[str] = ()
    """Of what is final, all that was compared with the database."""
    lasts: timedelta | None = None
    """How long all of these are true unless something changes."""
    changed: bool = True
    """Whether anything was written to the database since the round before."""
    pending: int | None = None


class PolledBuilds:
    """What was answered of each build that is polled. On the event loop, with a thread to look in."""

    def __init__(
        self,
        builds: Builds,
        *,
        standing_headers: Headers,
        listen: Callable[[Callable[[str], None]], None] = lambda _: None,
        generation: Callable[[], int | None] | None = None,
        shared: SharedAnswers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`listen` takes what is to be called, from any thread, with the hash of a job that has moved.

        `generation`, where the database is a server, returns the same number as long as `forget` was called
        for each final answer that ended, and None while that is uncertain. Without it each round asks what
        was written. `shared` are answers of other nodes.
        """
        self._builds = builds
        self._shared = shared
        self._touch = builds.touch
        self._standing_headers = standing_headers
        self._generation = generation
        self._clock = clock
        self._thread = Threads(1, name="web-round")
        self._cache = AnswerCache()
        self._round = 0
        self._changed = 0
        """The last round before which anything may have changed."""
        self._changes = 0
        self._news = 0
        self._moved: set[str] = set()
        self._seen: int | None = None
        """The state of the database at the last round; the thread's."""
        self._expires_at = math.inf
        """By the clock, when the first of the final answers may expire; in the past if that is not known."""
        self._queue: tuple[int, CachedResponse] | None = None
        self._queue_asked = -POLLED_ROUNDS - 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rounds: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        listen(self.on_loop(self._on_news))

    def get(self, request_hash: str) -> CachedResponse | None:
        """The answer to a poll, if it is known."""
        cached = self._cache.get(request_hash)
        if cached is None:
            return None
        if (self._generation or cached.compared < self._changed) and not self._is_true(request_hash, cached):
            return None
        given = cached if cached.body else self._restore(request_hash, cached)
        cached.polled = self._round
        self._touch(request_hash)
        return given

    def look(self, request_hash: str) -> Looked:
        """Reads a build, in a thread. Raises what `Builds.look` raises."""
        shared = self._shared
        if shared is None:
            return Looked.of(self._builds.look(request_hash))
        since = shared.copies.mark()
        found = shared.find(request_hash)
        if found is None:
            view = self._builds.look(request_hash)
            found = Looked.of(view)
            shared.offer(found, view, since=since)
        return found

    def mark(self) -> tuple[int, int]:
        """To be taken before something is read that is then `put`."""
        self._loop = asyncio.get_running_loop()  # what is told from now on counts
        return self._changes, self._news

    def put(self, looked: Looked, since: tuple[int, int]) -> bool:
        """Keeps an answer that was read since that mark; False if it may be out of date already."""
        if self._changes != since[0]:
            return False
        self._keep(looked, self._round)
        if self._news != since[1] and looked.frame is not None:
            self._look_soon(looked.request_hash)  # the news may have been about this one
        return True

    def holds(self, request_hash: str) -> bool:
        """Whether an answer is known to be true."""
        cached = self._cache.get(request_hash)
        return cached is not None and cached.compared >= self._changed

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
        lately, slot = self._round - POLLED_ROUNDS, self._round % POLLED_ROUNDS
        entries = {
            name: cached
            for name, cached in self._cache.items()
            if cached.compared >= self._changed or (self._generation and cached.frame is None)
        }
        lives = {name: cached for name, cached in entries.items() if cached.frame and cached.polled >= lately}
        finals = {name: cached for name, cached in entries.items() if cached.frame is None}
        for name in entries.keys() - lives.keys() - finals.keys():
            self._cache.drop(name)  # its estimate grows old
        due, self._expires_at = self._expires_at, math.inf
        now = self._clock()
        read = partial(
            self._read_round, lives, finals, lately, slot, due=due <= now + ROUND_SECONDS, counts=self._counts
        )
        found = await self._ask(read, entries)
        if found is None:
            # Whatever has changed, the next round looks for it again.
            self._seen, self._changed = None, self._round
            self._expires_at = min(due, self._expires_at) if self._generation else -math.inf
            return
        if found.changed:
            self._changed = self._round
        if found.compared:
            due = math.inf if found.lasts is None else now + found.lasts.total_seconds()
        self._expires_at = min(self._expires_at, due)  # something may have come meanwhile
        if not self._counts:
            self._queue = None

    # How answers are kept.

    def _is_true(self, request_hash: str, cached: CachedResponse) -> bool:
        """Whether an answer that was not compared since something changed is still true; never waits.

        A final one is if its job is still the one that answers. For its files the next round looks.
        """
        if self._generation and cached.frame is None:
            return self._is_kept(request_hash, cached)
        if cached.compared >= self._changed:
            return True
        same = False
        if cached.frame is None:
            with contextlib.suppress(Exception):  # a thread can wait for it, or tells what is wrong
                same = self._builds.find_id(request_hash) == cached.job_id
        if not same or (cached.state is JobState.COMPLETED and self._builds.lost([request_hash], checked=())):
            self._cache.drop(request_hash)
            return False
        cached.compared, cached.files_due = self._round, True
        self._expires_at = -math.inf
        self._start_rounds()
        return True

    def _is_kept(self, request_hash: str, cached: CachedResponse) -> bool:
        """Whether a final answer whose end is told still counts, though nothing was asked about it lately."""
        now = self._clock()
        resting = self._rounds is None or self._rounds.done()
        # While rounds go on, they look for what expires.
        expired = resting and -math.inf < self._expires_at <= now
        if expired or now - cached.known_at >= TOLD_SECONDS:
            self._cache.drop(request_hash)
            return False
        self._start_rounds()
        return True

    def _keep(self, looked: Looked, polled: int) -> None:
        cached = prepare(looked.answer, self._standing_headers)
        cached.job_id, cached.state, cached.polled = looked.job_id, looked.state, polled
        cached.compared, cached.known_at = self._round, self._clock()
        cached.frame, cached.progress = looked.frame, looked.progress
        if looked.frame is None:
            self._expires_at = -math.inf
        self._cache.put(looked.request_hash, cached)
        self._start_rounds()

    def _restore(self, request_hash: str, cached: CachedResponse) -> CachedResponse:
        """The same with its body."""
        if cached.frame is not None and cached.progress is not None:
            rendered = prepare(render_live(cached.frame, cached.progress), self._standing_headers)
            cached.head, cached.body = rendered.head, rendered.body
            return cached
        body = zlib.decompress(cached.packed)
        if cached.polled == self._round:
            # Polled again within a second: that is worth its memory. To make room it may be emptied at once.
            self._cache.put(request_hash, replace(cached, body=body))
        return replace(cached, body=body)

    # How they are compared with what is true.

    def on_loop(self, call: Callable[[str], None]) -> Callable[[str], None]:
        """The same call, to be made from any thread; without effect before anything was read."""

        def tell(request_hash: str) -> None:
            loop = self._loop
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # it has been closed
                    loop.call_soon_threadsafe(call, request_hash)

        return tell

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
            entries = {name: cached for name in moved if (cached := self._cache.get(name)) is not None}
            await self._ask(partial(self._read_moved, entries, counts=self._counts), entries)

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
        self._round += 1
        self._changed = self._round  # from now on that is not known
        self._queue = None

    @property
    def _counts(self) -> bool:
        """Whether somebody wants to know lately how many wait."""
        return self._queue is not None and self._queue_asked >= self._round - POLLED_ROUNDS

    async def _ask(self, read: Callable[[], _Found], entries: Mapping[str, CachedResponse]) -> _Found | None:
        """Looks at these in the thread, and brings them up to date; None where nothing was found out.

        Where that is because the database does not answer, nothing is kept but answers whose end is told.
        """
        changes, read_at = self._changes, self._clock()
        try:
            async with asyncio.timeout(_LONGEST_ROUND):
                found = await self._thread.run(read)
        except Exception as error:  # noqa: BLE001 - polls then ask by themselves, and are told why
            if not isinstance(error, AsuError | TimeoutError):
                _log.exception("looking at builds again failed: a bug")
            self._let_go()
            return None
        if self._changes != changes:
            return None  # an operator has acted meanwhile, and this may have been read before
        still = {name: cached for name, cached in entries.items() if self._cache.get(name) is cached}
        for name in found.outdated:
            if name in still:
                self._cache.drop(name)
        for name in found.compared:
            if name in still:
                still[name].compared, still[name].known_at = self._round, read_at
        for name, looked in found.replaced.items():
            if name in still:
                self._keep(looked, still[name].polled)
        for name, progress in found.progress.items():
            if name in still:
                cached = still[name]
                cached.compared = self._round
                if cached.progress != progress:
                    cached.progress, cached.state, cached.body = progress, progress.standing.state, b""
        if found.pending is not None:
            self.note_queue_length(found.pending)
        return found

    def _let_go(self) -> None:
        """Keeps nothing that cannot be compared now, but for final answers whose end is told."""
        if self._generation is None:
            self.clear()
            return
        self._queue = None
        for name, cached in self._cache.items():
            if cached.frame is not None:
                self._cache.drop(name)

    # In the thread.

    def _read_round(
        self,
        lives: Mapping[str, CachedResponse],
        finals: Mapping[str, CachedResponse],
        lately: int,
        slot: int,
        *,
        due: bool,
        counts: bool,
    ) -> _Found:
        """What has become of everything: of what is final only if anything has changed, or it is `due`."""
        try:
            seen = self._generation() if self._generation else self._builds.changes()
        except AsuError:
            seen = None  # it cannot be told at this moment
        ended = seen is None or seen != self._seen
        self._seen = seen
        changed = ended or self._generation is not None  # which tells of nothing else
        found = self._read_moved(lives, counts=counts and changed)
        polled = {name: cached for name, cached in finals.items() if cached.polled >= lately}
        # Those whose end is told are answered from memory whether they were compared or not.
        all_finals = self._generation is not None or not changed
        job_ids = {name: cached.job_id for name, cached in (finals if all_finals else polled).items()}
        lasts = None
        outdated: list[str] = [*found.outdated]
        if job_ids and (ended or due or (self._generation and self._round % TOLD_ROUNDS == 0)):
            names, lasts = self._builds.outdated(job_ids)
            outdated += names
        else:
            # Refusals end with the documents they were judged by, and nothing is written then.
            refused = {name: job_id for name, job_id in job_ids.items() if job_id < 0}
            outdated += self._builds.outdated(refused)[0] if refused else ()
            job_ids = {}
        completed = [name for name, cached in polled.items() if cached.state is JobState.COMPLETED]
        checked = [name for name in completed if hash(name) % POLLED_ROUNDS == slot or polled[name].files_due]
        outdated += self._builds.lost(completed, checked=checked)
        for name in checked:
            polled[name].files_due = False
        return replace(found, outdated=outdated, compared=job_ids, lasts=lasts, changed=changed)

    def _read_moved(self, entries: Mapping[str, CachedResponse], *, counts: bool) -> _Found:
        """What has become of these; they are read again where their job is not the one that lived."""
        known = self._builds.progress(entries) if entries else {}
        progress: dict[str, Progress] = {}
        replaced: dict[str, Looked] = {}
        outdated: list[str] = []
        for name, cached in entries.items():
            found = known.get(name)
            if found is None:
                outdated.append(name)
            elif found.standing.job_id == cached.job_id and found.standing.state not in FINAL_STATES:
                progress[name] = found
            elif found.standing.job_id != cached.job_id or cached.frame is not None:
                try:
                    replaced[name] = self.look(name)
                except AsuError:
                    outdated.append(name)  # who polls it is told
        return _Found(progress, replaced, outdated, pending=self._builds.pending() if counts else None)


def _start(work: Coroutine[object, None, None]) -> asyncio.Task[None]:
    """A separate task, not one of the request in which it begins."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
