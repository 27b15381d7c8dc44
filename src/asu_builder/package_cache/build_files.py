"""What one build reads: the same copy of each index all the time, and packages by what it promises."""

import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

from asu_builder.domain.package_index import PackageManager
from asu_builder.package_cache.promises import Promised, read_promises
from asu_builder.package_cache.shelf import OK, Ask, PackageCache, Shelf
from asu_builder.proxy.child import main
from asu_builder.proxy.fetching import Direct, Failed, Job, Stream
from asu_builder.upstream.lenient import Unreadable

_log = logging.getLogger(__name__)

FRESH = timedelta(seconds=30)
"""After which upstream is asked whether an index has changed."""
STALE, SNAPSHOT_STALE = timedelta(days=30), timedelta(days=1)
"""How long an index serves that cannot be compared with upstream's."""
_DOWN = timedelta(seconds=30)
"""For how long a host that does not answer is not asked where there is a copy."""
_INDEXES: Mapping[str, PackageManager | None] = {
    "packages.adb": PackageManager.APK,
    "Packages": PackageManager.OPKG,
    "Packages.gz": PackageManager.OPKG,
    "Packages.sig": None,
}
_MOST_BYTES = 32 << 20
"""Of an index; those of feeds have some hundred thousand."""
_MOST_SIGNATURE = 4 << 10
_MOST_IN_MEMORY = 2 << 20
_MOST_ADDRESSES = 4096
_SHARE_OF_INDEXES = 8
"""Of the budget, the part that is for indexes is one in so many."""
_CONDITIONS = {"etag": "if-none-match", "last-modified": "if-modified-since"}
"""By what a server tells whether an index is still the same."""
_UNCHANGED, _TOO_MANY, _BROKEN = 304, 429, 500


class IndexCopy:
    """The bytes of an index, or of its signature, as they were fetched. Equal ones are one object."""

    def __init__(self, body: bytes, manager: PackageManager | None) -> None:
        self.body = body
        self.is_readable = True
        self.promises: Mapping[str, Promised] = {}
        """By the names of files, as seen from the directory of the index."""
        if manager is None:
            self.is_readable = len(body) <= _MOST_SIGNATURE
            return
        try:
            self.promises = read_promises(manager, body)
        except Unreadable as error:
            self.is_readable = False
            _log.info("The packages of an index are not kept, because %s", error)


class IndexCopies:
    """Indexes by address: compared with upstream's every half minute, stale rather than none.

    A stale index cannot forge an image: package managers check its signature.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is the wall clock that times of files are of; both in seconds."""
        self._shelf = shelf
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._checked_at: OrderedDict[str, float] = OrderedDict()
        self._failed_at: OrderedDict[str, float] = OrderedDict()
        self._alive: WeakValueDictionary[str, IndexCopy] = WeakValueDictionary()
        self._latest: OrderedDict[str, IndexCopy] = OrderedDict()

    def fetch(
        self, address: str, ask: Ask, *, log_line: Callable[[str], None] = lambda _: None
    ) -> tuple[IndexCopy, bool] | Stream:
        """A copy and whether it was here, or what else the server answers.

        `log_line` takes a sentence about a copy that cannot be compared. Raises as `ask` does where there is
        none.
        """
        kept = self._read(address)
        if kept is None:
            return self._take_over(address, ask({}))
        copy, conditions = kept
        if self._is_recent(self._checked_at, address, FRESH):
            return copy, True
        host = urlsplit(address).netloc
        if self._is_recent(self._failed_at, host, _DOWN):
            log_line(f"{address} is the copy of before, because its server has failed moments ago")
            return copy, True
        try:
            stream = ask(conditions)
            if stream.status == _TOO_MANY or stream.status >= _BROKEN:
                stream.close()
                raise Failed(f"its server answered with {stream.status}")
            if stream.status != _UNCHANGED:
                return self._take_over(address, stream)
            stream.close()
            self._shelf.touch(_key(address))
            self._note(self._checked_at, address)
        except Failed as error:
            self._note(self._failed_at, host)
            log_line(f"{address} is the copy of before, because it cannot be compared: {error}")
        return copy, True

    def drop(self, address: str) -> None:
        """Forgets a copy, so that the next build fetches it."""
        with self._lock:
            self._checked_at.pop(address, None)
        self._shelf.drop(_key(address))

    def _read(self, address: str) -> tuple[IndexCopy, dict[str, str]] | None:
        """The copy that is kept, if it may still serve, with what upstream compares it by."""
        file = self._shelf.take(_key(address))
        if file is None:
            return None
        try:
            with file:
                content = file.read()
                age = self._now() - self._shelf.used_at(_key(address))
            head, _, body = content.partition(b"\n")
            described = json.loads(head)
            if described["digest"] != hashlib.sha256(body).hexdigest():
                raise ValueError("it is broken")
            conditions = {
                ask: str(described[name]) for name, ask in _CONDITIONS.items() if described.get(name)
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._shelf.drop(_key(address))
            return None
        moves = "/snapshots/" in address or "-SNAPSHOT/" in address
        if age > (SNAPSHOT_STALE if moves else STALE).total_seconds():
            return None
        return self._copy_of(body, address), conditions

    def _take_over(self, address: str, stream: Stream) -> tuple[IndexCopy, bool] | Stream:
        if stream.status != OK:
            return stream
        body = bytearray()
        try:
            for piece in stream.chunks:
                body += piece
                if len(body) > _MOST_BYTES:
                    raise Failed("a package index is much too large")
        finally:
            stream.close()
        copy = self._copy_of(bytes(body), address)
        if not copy.is_readable:
            # It is passed on, for the package manager to refuse, and does not take a good one's place.
            return copy, False
        validators = {name: stream.headers[name] for name in _CONDITIONS if stream.headers.get(name)}
        head = json.dumps({"digest": hashlib.sha256(body).hexdigest(), "address": address, **validators})
        content = head.encode() + b"\n" + body
        part = self._shelf.begin(len(content))
        if part is not None and part.write(content, self._shelf) and self._shelf.keep(part, _key(address)):
            self._note(self._checked_at, address)
        return copy, False

    def _copy_of(self, body: bytes, address: str) -> IndexCopy:
        """Equal bytes are kept in memory once, while a build reads them and a while longer."""
        name = address.rpartition("/")[2]
        key = f"{name} {hashlib.sha256(body).hexdigest()}"
        with self._lock:
            copy = self._alive.get(key)
        if copy is None:
            copy = IndexCopy(body, _INDEXES.get(name))
        with self._lock:
            self._alive[key] = copy
            self._latest[key] = copy
            self._latest.move_to_end(key)
            while sum(len(kept.body) for kept in self._latest.values()) > _MOST_IN_MEMORY:
                self._latest.popitem(last=False)
        return copy

    def _note(self, times: OrderedDict[str, float], name: str) -> None:
        with self._lock:
            times[name] = self._monotonic()
            times.move_to_end(name)
            while len(times) > _MOST_ADDRESSES:
                times.popitem(last=False)

    def _is_recent(self, times: OrderedDict[str, float], name: str, span: timedelta) -> bool:
        with self._lock:
            noted = times.get(name)
        return noted is not None and self._monotonic() - noted < span.total_seconds()


class BuildFiles:
    """Answers the GETs of one build, from any thread."""

    def __init__(
        self,
        packages: PackageCache,
        indexes: IndexCopies,
        *,
        log_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`log_line` takes sentences for the build's log."""
        self._packages = packages
        self._indexes = indexes
        self._log_line = log_line
        self._lock = threading.Lock()
        self._copies: dict[str, IndexCopy] = {}
        self._had: set[tuple[str, Promised]] = set()

    def fetch(self, address: str, ask: Ask) -> Stream:
        """What is at an address: an index, a package that one promises, or whatever the server answers.

        Every goal of a build sees the same copy of an index. Raises as `ask` does.
        """
        if address.rpartition("/")[2] in _INDEXES:
            return self._fetch_index(address, ask)
        promised = self._promised(address)
        if promised is None:
            return ask({})
        with self._lock:
            self._had.add((address, promised))
        return self._packages.fetch(address, promised, ask)

    def drop(self) -> None:
        """Forgets all that this build has read, because its package manager has refused some of it."""
        with self._lock:
            packages, indexes = tuple(self._had), tuple(self._copies)
        for address, promised in packages:
            self._packages.drop(address, promised)
        for address in indexes:
            self._indexes.drop(address)

    def _fetch_index(self, address: str, ask: Ask) -> Stream:
        with self._lock:
            copy, is_cached = self._copies.get(address), True
        if copy is None:
            found = self._indexes.fetch(address, ask, log_line=self._log_line)
            if isinstance(found, Stream):
                return found
            copy, is_cached = found
            with self._lock:
                copy = self._copies.setdefault(address, copy)
        return Stream(OK, {}, len(copy.body), iter([copy.body]), is_cached=is_cached)

    def _promised(self, address: str) -> Promised | None:
        """What the indexes of this build say of a file in their directories."""
        with self._lock:
            copies = tuple(self._copies.items())
        for place, copy in copies:
            directory = place.rpartition("/")[0] + "/"
            if address.startswith(directory) and (
                promised := copy.promises.get(unquote(address[len(directory) :]))
            ):
                return promised
        return None


class CachedFetcher:
    """Answers builds from what was fetched before, and fetches the rest; every thread may use it."""

    def __init__(self, direct: Direct, directory: Path, most_bytes: int, *, floor: int = 0) -> None:
        """`directory` keeps up to `most_bytes`, where the disk then has `floor` bytes left."""
        self._direct = direct
        indexes = most_bytes // _SHARE_OF_INDEXES
        self._packages = PackageCache(Shelf(directory / "packages", most_bytes - indexes, floor=floor))
        self._indexes = IndexCopies(Shelf(directory / "indexes", indexes, floor=floor))

    def fetch(self, job: Job, url: str) -> Stream:
        """The answer to a GET of an address that the job may have. Raises `Refused` or `Failed`."""
        with job.lock:
            if not isinstance(job.read, BuildFiles):
                job.read = BuildFiles(self._packages, self._indexes, log_line=job.tell)
            files = job.read
        return files.fetch(url, lambda headers: self._direct.fetch(job, url, headers=headers))


def serve() -> None:
    """The process that fetches for builds, with what it keeps."""
    main(
        lambda direct, given: CachedFetcher(
            direct, Path(given["packages"]), given["most_bytes"], floor=given["floor"]
        )
    )


def _key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()
