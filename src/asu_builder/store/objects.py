"""Published images in object storage: written once under a name of their own, published by the job's row.

There is no rename there. A publication writes its files to `<hash>/<folder>/<name>`, where no other
publication has the same folder, and returns the folder's name; the job's result that names it is the one step
that publishes. What is removed is only noted, under `.removed/`, and goes when no signed address leads to it
any more and no build that began before can still name it.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct

from asu_builder.domain.addresses import attachment
from asu_builder.domain.errors import BuildNotFound, HandedOverGone, StoreUnavailable, Unavailable
from asu_builder.domain.health import Breaker, CheckResult, worst
from asu_builder.domain.job import Published, StoredFiles
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.ports import RemoteFile
from asu_builder.store.bucket import SIGNED_FOR, Bucket, Found, NoBucket
from asu_builder.store.scratch import HANDED_OVER, UNNAMED_FOR, ScratchSpace

_MARK = ".store-of-"
_REMOVED = ".removed"
_UNSIGNED = ".unsigned"
"""Where files lie that another process is to sign, as `<hash>/<folder>/<name>`."""
_PROBE = ".probe-of-"
_CLOCKS_DIFFER = timedelta(minutes=15)
"""At most, between this machine and the bucket: S3 refuses requests that are farther off."""
_SEEN_SECONDS, _MOST_SEEN = 60.0, 10_000
_LISTED_SECONDS = 60.0
_NOT_LISTED: tuple[float, frozenset[str]] = (float("-inf"), frozenset())
_WRITTEN_SECONDS = 600.0
_MISSING = (
    "The bucket of store_url is not the one that results were put into. Nothing is built and nothing is "
    "forgotten until store_url leads there again. If the results are really gone, "
    "`asu-builder gc --adopt-store` begins a new store."
)


class ObjectFile(Struct, frozen=True):
    """Fulfils `ports.RemoteFile`."""

    bucket: Bucket
    key: str
    size: int
    etag: str
    modified_at: datetime
    on_lost: Callable[[], None]

    async def read(self, start: int, count: int) -> memoryview:
        found = await self.bucket.read(self.key, start, count)
        if found is None:
            self.on_lost()
            raise BuildNotFound("This file is gone from the store. Please request the build again.")
        body, size = found
        if size != self.size or len(body) != count:
            self.on_lost()
            raise StoreUnavailable(
                f"The object {self.key} has {size} bytes, and {len(body)} of {count} came; its result tells "
                f"{self.size}."
            )
        return body

    def signed_url(self) -> str:
        return self.bucket.sign(self.key)


class ObjectStore:
    """A store in one bucket, and the scratch directories on a disk of this host."""

    keeps_on_disk = False

    def __init__(
        self,
        bucket: Bucket,
        scratch: ScratchSpace,
        *,
        installation: str,
        named: Callable[[str], StoredFiles | None],
        expects_results: Callable[[], bool],
        longest_build: timedelta,
        names_handed_over: Callable[[str, str], bool] = lambda request_hash, folder: False,
        outlives: timedelta = SIGNED_FOR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`named` tells which files the newest result of a hash names.

        `expects_results` tells whether any result was ever put into the store and is not forgotten.
        `names_handed_over` tells whether a job names files that were handed over.
        Removed files stay for `outlives`, and longer than the longest build. `clock` counts seconds.
        """
        self._bucket = bucket
        self._scratch = scratch
        self._mark = f"{_MARK}{installation}"
        self._probe = f"{_PROBE}{installation}"
        self._ours = f"{installation}."
        self._named = named
        self._expects_results = expects_results
        self._names_handed_over = names_handed_over
        self._stays = max(outlives, longest_build) + _CLOCKS_DIFFER if outlives else timedelta(0)
        self._clock = clock
        self._missing = ""
        self._breaker = Breaker(clock=clock, longest=timedelta(seconds=10))
        self._seen: dict[tuple[str, str], float] = {}
        """Until when files that were all there count as such, the oldest first."""
        self._listed = _NOT_LISTED
        """When the bucket was listed, and the published hashes."""
        self._write_at = float("-inf")
        """When a check has to write again to know that it can."""

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        # What could not be published is not built.
        self.require_root()
        with self._scratch.directory() as path:
            yield path

    def publish(
        self, request_hash: str, scratch: Path, *, require_time: Callable[[], None] = lambda: None
    ) -> Published:
        # Some servers create a missing bucket when it is written to, so check first that ours is still there.
        is_marked = self._find_mark()
        folder = f"{self._ours}{os.urandom(8).hex()}"
        former = self._folders(request_hash)
        files = sorted(scratch.iterdir())
        sizes = {path.name: path.stat().st_size for path in files}
        for path in files:
            require_time()
            attributes = {
                "Content-Type": "application/octet-stream",
                "Content-Disposition": attachment(path.name),
            }
            self._bucket.upload(f"{request_hash}/{folder}/{path.name}", path, attributes=attributes)
        if self._sizes(request_hash, folder) != sizes:
            raise StoreUnavailable(
                f"The bucket {self._bucket.url} does not list what was written to it just now."
            )
        if not is_marked:
            self._bucket.put(self._mark)
        for name in former:
            # Once the result of this one is there; the sweep looks whether another is named still.
            self._note_removed(request_hash, name)
        self._write_at = self._clock() + _WRITTEN_SECONDS
        now = datetime.now(UTC).replace(microsecond=0)
        return Published(sum(sizes.values()), StoredFiles(folder, sizes, now))

    def hand_over(
        self, request_hash: str, scratch: Path, *, require_time: Callable[[], None] = lambda: None
    ) -> str:
        self.require_root()
        folder = os.urandom(8).hex()
        for path in sorted(scratch.iterdir()):
            require_time()
            self._bucket.upload(f"{_UNSIGNED}/{request_hash}/{folder}/{path.name}", path, attributes={})
        return folder

    def take_over(
        self, request_hash: str, folder: str, into: Path, *, require_time: Callable[[], None] = lambda: None
    ) -> None:
        found = list(self._handed_over(request_hash, folder))
        if not found:
            raise HandedOverGone("What was handed over to be signed is not in the bucket.")
        for entry in found:
            path = into / entry.key.rpartition("/")[2]
            if not self._bucket.download(entry, path, require_time=require_time):
                raise HandedOverGone("What was handed over to be signed has just been removed.")

    def discard(self, request_hash: str, folder: str) -> None:
        self._bucket.delete([entry.key for entry in self._handed_over(request_hash, folder)])

    def locate(self, request_hash: str, name: str) -> RemoteFile | None:
        files = self._named(request_hash) if REQUEST_HASH.fullmatch(request_hash) else None
        size = files.sizes.get(name) if files else None
        if files is None or size is None:
            return None
        self._bucket.load()  # reading on the event loop must not
        return ObjectFile(
            bucket=self._bucket,
            key=f"{request_hash}/{files.folder}/{name}",
            size=size,
            etag=f"{files.folder.rpartition('.')[2]}-{size:x}",
            modified_at=files.at,
            on_lost=lambda: self._doubt(request_hash, files.folder),
        )

    def holds(self, request_hash: str) -> bool:
        """Whether a result names files and they are there, as seen within a minute.

        While nothing has been asked of the bucket yet, and while it does not answer, they are taken to be
        there: nothing was lost, as far as is known.
        """
        files = self._named(request_hash) if REQUEST_HASH.fullmatch(request_hash) else None
        if files is None:
            return False
        key = request_hash, files.folder
        if not self._bucket.is_loaded or self._clock() < self._seen.get(key, float("-inf")):
            return True  # the first answer does not wait for the library; the first check loads it
        if not self._breaker.admits():
            return True
        try:
            there = self._sizes(request_hash, files.folder) == files.sizes
        except Unavailable as error:
            self._breaker.failed(str(error))
            return True
        self._breaker.worked()
        if there:
            self._seen[key] = self._clock() + _SEEN_SECONDS
            if len(self._seen) > _MOST_SEEN:
                with contextlib.suppress(KeyError, RuntimeError):  # another thread has done it
                    del self._seen[next(iter(self._seen))]
        return there

    def has_whole(self, request_hash: str, files: StoredFiles) -> bool:
        """Whether these are there now, each with its size. Raises `Unavailable` where that cannot be told."""
        return self._sizes(request_hash, files.folder) == files.sizes

    def absent(self, request_hashes: Sequence[str]) -> Sequence[str]:
        # One listing for all: a thousand names with each request, where each hash alone would be one.
        listed_at, names = self._listed
        if self._clock() - listed_at > _LISTED_SECONDS:
            names = frozenset(self.published())
            self._listed = self._clock(), names
        return [name for name in request_hashes if name not in names]

    def owns(self, request_hash: str) -> bool:
        return bool(REQUEST_HASH.fullmatch(request_hash)) and bool(self._folders(request_hash))

    def hold(self, request_hash: str, *, wait: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = lambda: True) -> bool:
        if not REQUEST_HASH.fullmatch(request_hash):
            return confirm()
        self.require_root()
        for folder in self._folders(request_hash):
            self._note_removed(request_hash, folder)
        self._listed = _NOT_LISTED
        return confirm()

    def published(self) -> Iterator[str]:
        removed = {entry.key.split("/")[1] for entry in self._bucket.list(_REMOVED)}
        last = ""
        for entry in self._bucket.list():
            name = entry.key.partition("/")[0]
            # What is removed lies there for a while, and may have been published again since.
            is_new = name != last and REQUEST_HASH.fullmatch(name)
            if is_new and (name not in removed or self._named(name)):
                yield name
            last = name

    def require_root(self) -> None:
        self._find_mark()

    def _find_mark(self) -> bool:
        """Whether the mark is there, where the bucket may be without it; raises as `require_root`."""
        if self._bucket.exists(self._mark):
            self._missing = ""
            return True
        try:
            self._bucket.require()  # the whole bucket may not be there
        except NoBucket as error:
            self._missing = str(error)
            raise
        # The first result may have come since: it is known only after its mark.
        if self._expects_results() and not self._bucket.exists(self._mark):
            self._missing = _MISSING
            raise StoreUnavailable(_MISSING)
        self._missing = ""
        return False

    def missing(self) -> str:
        return self._missing

    def adopt(self) -> None:
        self._bucket.require()
        self._bucket.put(self._mark)

    def room(self) -> int:
        return self._scratch.room()

    def sweep(self) -> int:
        swept = self._scratch.sweep()
        self._listed = _NOT_LISTED
        before = datetime.now(UTC) - self._stays
        # Read whole, because it changes below.
        for noted in list(self._bucket.list(_REMOVED)):
            request_hash, _, folder = noted.key.removeprefix(f"{_REMOVED}/").partition("/")
            if noted.modified_at > before or not folder.startswith(self._ours):
                continue
            files = self._named(request_hash)
            if files is None or files.folder != folder:
                self._bucket.delete([entry.key for entry in self._bucket.list(f"{request_hash}/{folder}")])
                swept += 1
            self._bucket.delete([noted.key])
        return swept + self._sweep_unsigned()

    def check(self) -> CheckResult:
        return worst([self._check_bucket(), self._scratch.check()])

    def _check_bucket(self) -> CheckResult:
        try:
            self.require_root()
            if self._clock() >= self._write_at:
                self._bucket.put(self._probe)
                self._bucket.delete([self._probe])
                self._write_at = self._clock() + _WRITTEN_SECONDS
        except Unavailable as error:
            self._write_at = float("-inf")
            return CheckResult("error", str(error))
        self._breaker.worked()
        return CheckResult("ok", f"Images can be stored in {self._bucket.url}.")

    def _handed_over(self, request_hash: str, folder: str) -> Iterator[Found]:
        if HANDED_OVER.fullmatch(folder):
            yield from self._bucket.list(f"{_UNSIGNED}/{request_hash}/{folder}")

    def _sweep_unsigned(self) -> int:
        before = datetime.now(UTC) - UNNAMED_FOR - _CLOCKS_DIFFER
        old = {
            (parts[1], parts[2])
            for entry in self._bucket.list(_UNSIGNED)
            if len(parts := entry.key.split("/")) == 4 and entry.modified_at < before
        }
        unnamed = [names for names in sorted(old) if not self._names_handed_over(*names)]
        for names in unnamed:
            self.discard(*names)
        return len(unnamed)

    def _folders(self, request_hash: str) -> list[str]:
        """What this installation has written under a hash and not removed."""
        written = {entry.key.split("/")[1] for entry in self._bucket.list(request_hash)}
        if not written:
            return []
        removed = {entry.key.rpartition("/")[2] for entry in self._bucket.list(f"{_REMOVED}/{request_hash}")}
        return sorted(name for name in written - removed if name.startswith(self._ours))

    def _sizes(self, request_hash: str, folder: str) -> dict[str, int]:
        found = self._bucket.list(f"{request_hash}/{folder}")
        return {entry.key.rpartition("/")[2]: entry.size for entry in found}

    def _note_removed(self, request_hash: str, folder: str) -> None:
        self._bucket.put(f"{_REMOVED}/{request_hash}/{folder}")

    def _doubt(self, request_hash: str, folder: str) -> None:
        self._seen.pop((request_hash, folder), None)
