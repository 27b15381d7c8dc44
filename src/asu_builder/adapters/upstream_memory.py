"""What was seen of the download server: parsed in memory, and as bytes over restarts."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from math import inf
from typing import Any

import msgspec
from msgspec import Struct

from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import to_micros
from asu_builder.domain.errors import AsuError

_log = logging.getLogger(__name__)

_MEMORY_BYTES = 12 << 20
_BYTES_EACH = 300
"""Of a list, that is of devices: they take twice what they take as text."""


class Document(Struct, frozen=True):
    """One document as upstream last had it."""

    checked: float
    """When upstream has last said so, in seconds of the clock that never leaps."""
    etag: str
    size: int
    """About how many bytes it takes."""
    parsed: Any
    """None when upstream said that there is no such document."""


def size_of(body: bytes | None, parsed: Any) -> int:
    """About how many bytes a parsed document takes."""
    entries = len(parsed) if isinstance(parsed, tuple) else 0
    return max(len(body or b""), entries * _BYTES_EACH)


class DocumentMemory:
    """Documents by their address; safe to use from any thread."""

    def __init__(
        self, database: Database, *, now: Callable[[], datetime], clock: Callable[[], float]
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps."""
        self._database = database
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._size = 0
        self._closed = False

    def find(self, address: str, parse: Callable[[bytes], Any]) -> Document | None:
        """The document, from the database if need be; None when it was never seen or cannot be parsed.

        How old a stored one is only the clock on the wall can tell; one from the future is old.
        """
        if (document := self._documents.get(address)) is not None:
            return document
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT fetched_at, etag, body FROM upstream_documents WHERE path = ?", (address,)
            ).fetchone()
        if row is None:
            return None
        fetched_at, etag, body = row
        try:
            parsed = None if body is None else parse(body)
        except (msgspec.MsgspecError, ValueError):
            return None
        age = (to_micros(self._now()) - fetched_at) / 1_000_000
        document = Document(self._clock() - age if age >= 0 else -inf, etag, size_of(body, parsed), parsed)
        self._remember(address, document)
        return document

    def known(self, address: str) -> Document | None:
        """The document if it is in memory."""
        return self._documents.get(address)

    def stored(self, address: str) -> bytes | None:
        """The bytes as last seen; None when there were none."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT body FROM upstream_documents WHERE path = ?", (address,)
            ).fetchone()
        return None if row is None else row[0]

    def keep(self, address: str, document: Document, body: bytes | None, *, renewed: bool) -> None:
        """Remembers a document; `renewed` means that what is stored of it is still right."""
        self._remember(address, document)
        try:
            self._save(address, document, body, renewed=renewed)
        except AsuError as error:
            # It serves until the next start all the same.
            _log.warning("%s could not be stored: %s", address, error)

    def close(self) -> None:
        """Nothing is stored from now on."""
        with self._lock:
            self._closed = True

    def _remember(self, address: str, document: Document) -> None:
        with self._lock:
            former = self._documents.pop(address, None)
            self._size += document.size - (former.size if former else 0)
            self._documents[address] = document
            while self._size > _MEMORY_BYTES and len(self._documents) > 1:
                _, dropped = self._documents.popitem(last=False)
                self._size -= dropped.size

    def _save(self, address: str, document: Document, body: bytes | None, *, renewed: bool) -> None:
        fetched_at = to_micros(self._now())
        with self._lock:
            if self._closed:
                return
        with self._database.writing() as connection:
            if renewed:
                connection.execute(
                    "UPDATE upstream_documents SET fetched_at = ? WHERE path = ?", (fetched_at, address)
                )
                return
            connection.execute(
                "INSERT INTO upstream_documents (path, etag, fetched_at, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (path) DO UPDATE"
                " SET etag = excluded.etag, fetched_at = excluded.fetched_at, body = excluded.body",
                (address, document.etag, fetched_at, body),
            )
