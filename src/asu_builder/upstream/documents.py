"""Documents of the download server: remembered, revalidated, kept warm, stale rather than none."""

import contextlib
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from asu_builder.database.dialect import SqlDatabase
from asu_builder.domain.errors import AsuError
from asu_builder.domain.reading import AGAIN_SECONDS, BESIDE_SECONDS, FIRST_SECONDS, current_reading
from asu_builder.ports import SharedCopies
from asu_builder.upstream.fetches import Asking, Fetches, on_its_way
from asu_builder.upstream.formats import IndexFile
from asu_builder.upstream.memory import FRESH_FOR, OWN, Document, DocumentMemory
from asu_builder.upstream.server import UpstreamServer

KEPT_SECONDS = 7 * 86400.0
"""How long a document is kept warm from when it was last asked for."""
_MOST = 2000
_NOTED_AGAIN_SECONDS = 60.0


class WarmPaths:
    """Paths by when they were last asked for; safe to use from any thread.

    `now` counts seconds on the wall, since it is compared with what a former life of this process
    has noted; `clock` counts seconds and never leaps.
    """

    def __init__(self, *, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, float] = OrderedDict()
        """On the wall; the one asked for longest ago comes first."""
        self._due: dict[str, float] = {}
        self.changed = False
        """Whether there is anything to be saved."""

    def note(self, path: str) -> None:
        """Notes that a caller wants it."""
        now = self._now()
        # Without the lock: most notes are repetitions.
        if abs(now - self._asked.get(path, 0.0)) < _NOTED_AGAIN_SECONDS:
            return
        with self._lock:
            self._asked[path] = now
            self._asked.move_to_end(path)
            self.changed = True
            while len(self._asked) > _MOST:
                self._drop(next(iter(self._asked)))

    def forget(self, path: str) -> None:
        """It is not there any more."""
        with self._lock:
            if path in self._asked:
                self._drop(path)

    def due(self) -> str | None:
        """The one that should be looked at next, if it is time; `rest` says when again."""
        with self._lock:
            now = self._now()
            while self._asked and now - next(iter(self._asked.values())) > KEPT_SECONDS:
                self._drop(next(iter(self._asked)))
            path = min(self._asked, key=lambda path: self._due.get(path, 0.0), default=None)
            return path if path is not None and self._due.get(path, 0.0) <= self._clock() else None

    def rest(self, path: str, seconds: float) -> None:
        """It need not be looked at for so long."""
        with self._lock:
            if path in self._asked:
                self._due[path] = self._clock() + seconds

    def to_save(self) -> Mapping[str, float]:
        """What a later life of this process should know."""
        with self._lock:
            self.changed = False
            return dict(self._asked)

    def restore(self, asked: Mapping[str, float]) -> None:
        """What a former life has noted; times that have not come yet are taken for now."""
        now = self._now()
        with self._lock:
            for path, at in sorted(asked.items(), key=lambda entry: entry[1])[-_MOST:]:
                self._asked.setdefault(path, min(at, now))

    def _drop(self, path: str) -> None:
        del self._asked[path]
        self._due.pop(path, None)
        self.changed = True


LISTS_STALE = timedelta(days=7)
"""How old a copy may be at most that is still served: of versions, targets and devices."""
RELEASE_STALE = timedelta(days=30)
"""Of profiles and packages of what is released: they hardly change."""
SNAPSHOT_STALE = timedelta(days=1)
"""Of profiles and packages of what moves: an old copy names packages that are gone."""
MISSING_STALE = timedelta(hours=1)
"""Of "upstream has no such document"."""
_EARLY = 0.8
"""After this part of its fresh time a document is asked for again that is kept warm."""
_EARLIEST = 0.65
"""The same for one of several nodes at the earliest: one asks before the others, which it tells."""
_LOOKS = 20
"""At most so many documents are looked at to find the one to be asked for again."""
_WARM = msgspec.json.Decoder(dict[str, float])
_PLAIN_PATH = re.compile(r"(?:[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*/)*\.?[A-Za-z0-9_+~-][A-Za-z0-9._+~-]*")
"""What names a document below upstream's address and nothing else."""

Parsed = TypeVar("Parsed")
Parse = Callable[[bytes], Parsed]


class UpstreamDocuments:
    """Documents below one address; safe to use from any thread. What was seen survives restarts."""

    def __init__(
        self,
        server: UpstreamServer,
        memory: DocumentMemory,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        fetches: Fetches | None = None,
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps.

        `memory` and `fetches` may be shared with others.
        """
        self._memory = memory
        self._clock = clock
        self._warm = WarmPaths(now=lambda: now().timestamp(), clock=clock)
        self._early = random.uniform(_EARLIEST, _EARLY) if memory.is_shared else _EARLY
        self._restored = False
        self._server = server
        self.asking = Asking(server, memory, on_missing=self._warm.forget, clock=clock, fetches=fetches)
        self.address = server.address

    def get(self, path: str, parse: Parse[Parsed], *, wait: bool = True) -> Parsed | None:
        """The parsed document, or None when upstream has none.

        Raises `Unavailable` when it is not here: within a `Reading` at once, else when it has not
        come within ten seconds. It is `UpstreamUnavailable` when asking for it has failed. Without
        `wait` the answer can be made without it: five seconds at most, and none after a failure.
        """
        return self.look(path, parse, wait=wait)[0]

    def look(self, path: str, parse: Parse[Parsed], *, wait: bool = False) -> tuple[Parsed | None, bool]:
        """The same, and whether it is as upstream has it, as far as the fresh time of a document goes."""
        if not _PLAIN_PATH.fullmatch(path):
            return None, True
        document = self._find(path, parse)
        age = 0.0 if document is None else self._clock() - document.checked
        if document is not None and age <= document.fresh_for:  # which is never longer than it may be used
            self._note(path, document)
            return document.parsed, True
        if document is None or age > _longest_stale(path, document).total_seconds():
            document = self._first(path, parse, document, wait=wait)
        else:
            document = self._again(path, parse, document)
        self._note(path, document)
        return document.parsed, self._clock() - document.checked <= document.fresh_for

    def want(self, path: str, parse: Parse[Any]) -> None:
        """Has a document fetched that will be asked for in a moment, beside others; never waits."""
        reading = current_reading()
        if reading is None or not _PLAIN_PATH.fullmatch(path):
            return
        document = self._find(path, parse)
        if document is None and not reading.over and not reading.refusal() and self.asking.may_ask(path):
            reading.await_first(self.asking.ask(path, parse, instead_of=None).future)

    def start(self, path: str, parse: Parse[Any]) -> None:
        """Has a document fetched, unless it is here and fresh, before it is waited for in this thread.

        Within a `Reading` there is nothing to do: it waits for all that it lacks at once.
        """
        if current_reading() is not None or not _PLAIN_PATH.fullmatch(path):
            return
        document = self._find(path, parse)
        is_fresh = document is not None and self._clock() - document.checked <= document.fresh_for
        if not is_fresh and self.asking.may_ask(path):
            self.asking.ask(path, parse, instead_of=document)

    def known(self, path: str, parse: Parse[Parsed]) -> Parsed | None:
        """The document as last seen, however old; None when it was never, or upstream has none."""
        document = self._find(path, parse)
        if document is not None:
            self._note(path, document)
        parsed: Parsed | None = None if document is None else document.parsed
        return parsed

    def stored(self, path: str) -> bytes | None:
        """The bytes of a document as last seen; None when it was never, or upstream has none."""
        return self._memory.stored(self._server.address(path))

    def read_index(self, path: str, digest: str) -> bytes | None:
        """The bytes of an index, as long as those with this SHA-256 are stored."""
        body = self.stored(path)
        return body if body is not None and IndexFile.of(body).digest == digest else None

    def keep_warm(self, parser_of: Callable[[str], Parse[Any] | None]) -> None:
        """Asks for one document again that was asked for of late; to be called once a second."""
        self._restore()
        soon = self._early * FRESH_FOR.total_seconds()
        for _ in range(_LOOKS):
            path = self._warm.due()
            if path is None:
                return
            parse = parser_of(path)
            age = self._memory.age(self._server.address(path))
            if parse is None or age is None:
                self._warm.forget(path)
            elif 0 <= age < soon:
                self._warm.rest(path, soon - age)
            else:
                self._warm.rest(path, soon)
                if self.asking.may_ask(path):
                    current = self._memory.known(self._server.address(path))
                    self.asking.ask(path, parse, instead_of=current)
                return

    def tidy(self) -> None:
        """Keeps what is stored within its bounds, and notes for the next start what is asked for."""
        self._memory.prune()
        self._save()

    def _save(self) -> None:
        self._restore()
        if self._warm.changed:
            self._memory.store(self._note_of_ours, "", msgspec.json.encode(self._warm.to_save()))

    def _restore(self) -> None:
        if not self._restored:
            self._restored = True
            body = self._memory.stored(self._note_of_ours)
            with contextlib.suppress(msgspec.MsgspecError):
                self._warm.restore(_WARM.decode(body or b"{}"))

    @property
    def _note_of_ours(self) -> str:
        return f"{OWN}asked {self._server.url}"

    def close(self) -> None:
        """Ends background work; what is still on its way is dropped."""
        with contextlib.suppress(AsuError):
            self._save()
        self._memory.close()
        self.asking.close()

    def _find(self, path: str, parse: Parse[Any]) -> Document | None:
        return self._memory.find(self._server.address(path), parse)

    def _note(self, path: str, document: Document) -> None:
        reading = current_reading()
        if reading is not None:
            address = self._server.address(path)
            reading.note(address, self._memory.state(address, document))
            if document.parsed is not None and not _is_list(path) and not self._server.is_foreign:
                self._warm.note(path)

    def _again(self, path: str, parse: Parse[Any], old: Document) -> Document:
        """What to use of a document past its fresh time: the old copy if upstream fails or is slow."""
        reading = current_reading()
        if (reading is not None and reading.refusal()) or not self.asking.may_ask(path):
            return old
        fetch = self.asking.ask(path, parse, instead_of=old)
        # Counted from the first caller: a slow upstream makes each caller wait once, not every time.
        until = fetch.since + AGAIN_SECONDS
        if reading is None:
            with contextlib.suppress(TimeoutError, AsuError):
                fetch.future.result(timeout=max(0.0, until - time.monotonic()))
                return self._find(path, parse) or old
            return old
        if time.monotonic() < until and not reading.again_over:
            reading.await_again(fetch.future)
        return old

    def _first(self, path: str, parse: Parse[Any], old: Document | None, *, wait: bool) -> Document:
        """Raises `Unavailable`, unless it may wait here and the document comes."""
        reading = current_reading()
        if reading is not None and (refusal := reading.refusal()):
            raise refusal
        failed_before = self.asking.failed_before(path)
        if (reading is not None and reading.over) or not self.asking.may_ask(path):
            raise self.asking.refusal(path)
        fetch = self.asking.ask(path, parse, instead_of=old)
        if reading is None:
            # What is beside the point is waited for once, together with all else that was started.
            beside = max(0.0, fetch.since + BESIDE_SECONDS - time.monotonic())
            with contextlib.suppress(TimeoutError):
                fetch.future.result(timeout=FIRST_SECONDS if wait else beside)
                if (document := self._find(path, parse)) is not None:
                    return document
        elif wait:
            reading.await_first(fetch.future)
        elif not (failed_before or reading.beside_over or time.monotonic() > fetch.since + BESIDE_SECONDS):
            reading.await_beside(fetch.future)
        raise on_its_way(path)


_MOST_SERVERS = 64
_FOREIGN_FETCHES = 16


class RepositoryDocuments:
    """Documents of servers that requests name; safe to use from any thread. None is kept warm.

    Only for addresses that `require_allowed` has let pass.
    """

    def __init__(
        self,
        upstream_url: str,
        database: SqlDatabase,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        copies: SharedCopies | None = None,
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps. `copies` are shared."""
        self._upstream_url = upstream_url
        self._now = now
        self._clock = clock
        self._memory = DocumentMemory(database, now=now, clock=clock, is_foreign=True, copies=copies)
        self._fetches = Fetches(most=_FOREIGN_FETCHES)
        self._lock = threading.Lock()
        self._servers: OrderedDict[str, UpstreamDocuments] = OrderedDict()

    def at(self, url: str) -> UpstreamDocuments:
        """What one server has; `url` is its address without a path."""
        with self._lock:
            documents = self._servers.get(url)
            if documents is None:
                server = UpstreamServer(url, clock=self._clock, around=self._upstream_url)
                documents = self._servers[url] = UpstreamDocuments(
                    server, self._memory, now=self._now, clock=self._clock, fetches=self._fetches
                )
            self._servers.move_to_end(url)
            while len(self._servers) > _MOST_SERVERS:
                self._servers.popitem(last=False)
        return documents

    def tidy(self) -> None:
        """Keeps what is stored within its bounds."""
        self._memory.prune()

    def close(self) -> None:
        """Ends background work; what is still on its way is dropped."""
        self._memory.close()
        self._fetches.close()


def _longest_stale(path: str, document: Document) -> timedelta:
    """How old this copy may be at most that is still served."""
    if document.parsed is None:
        return MISSING_STALE
    if _is_list(path):
        return LISTS_STALE
    return SNAPSHOT_STALE if path.startswith("snapshots/") or "-SNAPSHOT/" in path else RELEASE_STALE


def _is_list(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")
