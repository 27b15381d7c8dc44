"""What is kept within a number of bytes: anything, and answers about builds, ready to be sent."""

import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from asu_builder.core.submit import Progress
from asu_builder.domain.job import JobState
from asu_builder.http.api.wire import BuildFrame, RenderedResponse
from asu_builder.http.door import Headers

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

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


class LruByteCache(Generic[K, V]):
    """The most recently used values; the longest unused go first when `budget` bytes are full.

    A value that would take more than `largest` bytes is not kept, and none much longer than
    `seconds`: what is too old to be used is forgotten when others come. For one thread.
    """

    def __init__(
        self,
        *,
        budget: int,
        largest: int,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._budget = budget
        self._largest = largest
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[K, tuple[V, int, float]] = OrderedDict()
        self.size = 0

    def get(self, key: K) -> V | None:
        """The value, if it is still kept; counts as a use."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, cost: int) -> None:
        """Keeps a value that takes about `cost` bytes, in place of any former one."""
        self.size -= self._entries.pop(key, (None, 0, 0.0))[1]
        if cost > self._largest:
            return
        now = self._clock()
        self._entries[key] = (value, cost, now)
        self.size += cost
        while True:
            longest_unused, (_, freed, since) = next(iter(self._entries.items()))
            if self.size <= self._budget and now - since <= self._seconds:
                break
            del self._entries[longest_unused]
            self.size -= freed

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.size = 0

    def drop(self, key: K) -> None:
        """Forgets the value, if there is one."""
        self.size -= self._entries.pop(key, (None, 0, 0.0))[1]


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
    files_due: bool = False
    """Whether the next round looks for its files, whosever turn it is."""
    compared: int = 0
    """The last round in which it was read, or compared with the database."""
    known_at: float = 0.0
    """When that was, in seconds."""
    polled: int = 0
    """The last round in which somebody polled it."""
    spared: int = 0
    """The round up to which that has kept it from being pushed out."""
    size: int = 0


def prepare(answer: RenderedResponse, standing_headers: Headers) -> CachedResponse:
    """An answer as it is sent, with everything but the id of the request."""
    head = b"%bcontent-type: application/json\r\ncontent-length: %d\r\n" % (
        STATUS_LINE[answer.status],
        len(answer.body),
    )
    for header in (*answer.headers, *standing_headers):
        head += b"%b: %b\r\n" % header
    return CachedResponse(answer.status, head, answer.body)


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
