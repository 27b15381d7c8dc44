"""A store together with what results name, as the service has both: for the tests of every store."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Lock

from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import StoredFiles
from asu_builder.ports import RemoteFile, Store
from asu_builder.settings import Settings
from asu_builder.store.bucket import SIGNED_FOR, Bucket, Timeouts
from asu_builder.store.objects import ObjectStore
from asu_builder.store.scratch import ScratchSpace
from object_storage import s3_server

HASH = "a" * 64
_TIMEOUTS = Timeouts(quick=timedelta(seconds=2), read=timedelta(seconds=5), write=timedelta(seconds=20))


class Rows:
    """The results of one database."""

    def __init__(self) -> None:
        self._rows: dict[str, list[StoredFiles | None]] = {}
        self._lock = Lock()

    def complete(self, request_hash: str, files: StoredFiles | None) -> None:
        """A job of this hash is completed."""
        with self._lock:
            self._rows.setdefault(request_hash, []).append(files)

    def of(self, request_hash: str) -> list[StoredFiles | None]:
        """All of one hash, the newest last."""
        with self._lock:
            return list(self._rows.get(request_hash, ()))

    def named(self, request_hash: str) -> StoredFiles | None:
        """What the newest names."""
        rows = self.of(request_hash)
        return rows[-1] if rows else None

    def delete(self, request_hash: str, rows: list[StoredFiles | None]) -> None:
        """These go, and no newer one."""
        with self._lock:
            left = self._rows.get(request_hash, [])[len(rows) :]
            if left:
                self._rows[request_hash] = left
            else:
                self._rows.pop(request_hash, None)

    def known(self) -> bool:
        """Whether there is any."""
        return bool(self._rows)


class Shelf:
    """The store as the service uses it: what is published is named by a row, and goes with it."""

    def __init__(self, store: Store, rows: Rows) -> None:
        self.store = store
        self._rows = rows
        self.scratch: Callable[[], AbstractContextManager[Path]] = store.scratch
        self.locate = store.locate
        self.holds: Callable[[str], bool] = store.holds
        self.absent: Callable[[Sequence[str]], Sequence[str]] = store.absent
        self.owns: Callable[[str], bool] = store.owns
        self.hold = store.hold
        self.room: Callable[[], int] = store.room
        self.sweep: Callable[[], int] = store.sweep
        self.check: Callable[[], CheckResult] = store.check

    def publish(self, request_hash: str = HASH, text: str = "image", **more: str) -> int:
        """Publishes `x.bin`, and more with a dot for each underscore; how many bytes."""
        with self.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            for name, content in {"x.bin": text, **more}.items():
                (images / name.replace("_", ".")).write_text(content)
            published = self.store.publish(request_hash, images)
        self._rows.complete(request_hash, published.files)
        return published.stored_bytes

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = lambda: True) -> bool:
        """Removes files and rows as `delete_with_files` does."""
        doomed = self._rows.of(request_hash)

        def confirm_all() -> bool:
            return self._rows.of(request_hash) == doomed and confirm()

        if not self.store.remove(request_hash, confirm=confirm_all):
            return False
        self._rows.delete(request_hash, doomed)
        return True

    def published(self) -> Iterator[str]:
        """The names in the store."""
        yield from self.store.published()

    def open(self, request_hash: str = HASH, name: str = "x.bin") -> Callable[[], str] | None:
        """What reads a file from now on; None where there is none."""
        located = self.locate(request_hash, name)
        if isinstance(located, Path):
            file = located.open()

            def read() -> str:
                with file:
                    return file.read()

            return read
        return (lambda: read_remote(located).decode()) if located else None

    def read(self, request_hash: str = HASH, name: str = "x.bin") -> str | None:
        """The text of a file; None where there is none."""
        read = self.open(request_hash, name)
        return read() if read else None


def read_remote(file: RemoteFile) -> bytes:
    """A whole file."""
    return bytes(asyncio.run(file.read(0, file.size))) if file.size else b""


def object_store(
    bucket: str,
    folder: Path,
    rows: Rows,
    *,
    installation: str = "ours",
    floor: int = 0,
    outlives: timedelta = SIGNED_FOR,
    options: Mapping[str, str] | None = None,
    names_handed_over: Callable[[str, str], bool] = lambda request_hash, folder: False,
) -> ObjectStore:
    """A store in a bucket of the S3 server, quick to give up; `options` differ from those that work."""
    settings = Settings(store_url=bucket, store_options=s3_server().options(**options or {}))
    return ObjectStore(
        Bucket(settings, _TIMEOUTS),
        ScratchSpace(folder / "store", floor=floor),
        installation=installation,
        named=rows.named,
        expects_results=rows.known,
        longest_build=timedelta(0),
        names_handed_over=names_handed_over,
        outlives=outlives,
    )
