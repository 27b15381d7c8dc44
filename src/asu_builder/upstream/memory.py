"""What was seen of the download server: parsed in memory, and as bytes over restarts.

Both are bounded: in memory by bytes, in the database by bytes and by age.
"""

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.rows import to_micros
from asu_builder.domain.errors import AsuError
from asu_builder.domain.reading import DocumentState
from asu_builder.ports import SharedCopies
from asu_builder.upstream.formats import IndexFile

_log = logging.getLogger(__name__)

_MEMORY_BYTES, _FOREIGN_MEMORY_BYTES = 12 << 20, 1 << 20
"""Of the download server's documents, and of those of repositories that requests name."""
_STATES = 20_000
"""Documents of which it is known that they have not changed, about 300 bytes each."""
_OVERHEAD = 500
_STORED_BYTES, _FOREIGN_BYTES = 160 << 20, 32 << 20
"""Of all documents in the database, likewise; those that were confirmed longest ago go first."""
_PRUNE_EVERY = 4 << 20
"""After so many stored bytes the database is looked at, beside the regular looks."""
_OF_NO_USE = timedelta(days=31), timedelta(days=1)
"""How old a stored document, or the note that there is none, may be."""
_AT_ONCE = 200
_BYTES_EACH = 300
"""Of a list, that is of devices: they take twice what they take as text."""


FRESH_FOR = timedelta(minutes=5)
"""How long a document is not asked for again."""
MISSING_FOR = timedelta(minutes=1)
"""How long "upstream has no such document" is believed: a release appears without a restart."""
OWN = "own:"
"""Begins the names of rows that are notes of ours and no documents of upstream."""
_FOREIGN = "foreign:"
"""Begins those of documents of repositories that requests name."""
_STORE = (
    "INSERT INTO upstream_documents (path, etag, fetched_at, body) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (path) DO UPDATE"
    " SET etag = excluded.etag, fetched_at = excluded.fetched_at, body = excluded.body"
)
_TOO_MUCH = f"""
    SELECT path FROM (
        SELECT path, fetched_at, body IS NULL AS missing,
            sum(coalesce(length(body), 0) + {_OVERHEAD}) OVER (ORDER BY fetched_at DESC, path) AS total
        FROM upstream_documents
        WHERE path NOT LIKE :own || '%' AND path LIKE :foreign || '%' = :is_foreign
    ) AS summed WHERE total > :most OR fetched_at < :old OR (missing AND fetched_at < :missing)
    ORDER BY total DESC LIMIT {_AT_ONCE}
"""


_FRESH_SECONDS = FRESH_FOR.total_seconds()
_MISSING_SECONDS = MISSING_FOR.total_seconds()


class Document(Struct, frozen=True):
    """One document as upstream last had it."""

    checked: float
    """When upstream has last said so, in seconds of the clock that never leaps."""
    etag: str
    size: int
    """About how many bytes it takes."""
    parsed: Any
    """None when upstream said that there is no such document."""
    digest: bytes
    """Of the bytes: another one means another content."""

    @classmethod
    def of(cls, body: bytes | None, parsed: Any, *, etag: str, checked: float) -> "Document":
        """The document with these bytes; None for "there is no such document"."""
        import hashlib  # with OpenSSL, which a start does without

        digest = b"none" if body is None else hashlib.blake2b(body, digest_size=12).digest()
        return cls(checked, etag, size_of(body, parsed), parsed, digest)

    @property
    def fresh_for(self) -> float:
        """Seconds after which upstream is asked again."""
        return _MISSING_SECONDS if self.parsed is None else _FRESH_SECONDS


class _Confirmed(Struct, frozen=True, array_like=True):
    """What nodes tell each other of a document whose bytes lie in their database."""

    at: int
    """When upstream has said so, in microseconds by the database's clock."""
    digest: bytes


_DECODE_CONFIRMED = msgspec.msgpack.Decoder(_Confirmed).decode


def size_of(body: bytes | None, parsed: Any) -> int:
    """About how many bytes a parsed document takes."""
    if isinstance(parsed, IndexFile):
        return _OVERHEAD
    entries = len(parsed) if isinstance(parsed, tuple) else 0
    return _OVERHEAD + max(len(body or b""), entries * _BYTES_EACH)


class DocumentMemory:
    """Documents by their address; safe to use from any thread."""

    def __init__(
        self,
        database: SqlDatabase,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        is_foreign: bool = False,
        copies: SharedCopies | None = None,
    ) -> None:
        """`now` is the time on the wall, `clock` counts seconds and never leaps.

        Foreign documents have bounds of their own. By `copies` nodes tell each other what upstream has said.
        """
        self._database = database
        self._copies = copies
        self._prefix = _FOREIGN if is_foreign else ""
        self._most_bytes = _FOREIGN_MEMORY_BYTES if is_foreign else _MEMORY_BYTES
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._states: OrderedDict[str, DocumentState] = OrderedDict()
        self._size = 0
        self._closed = False
        self._stored_since = 0

    def find(self, address: str, parse: Callable[[bytes], Any]) -> Document | None:
        """The document, from the database if need be; None when it was never seen or cannot be parsed.

        How old a stored one is only the clock on the wall can tell; one from the future is old.
        """
        if (document := self._documents.get(address)) is not None:
            return document
        row = self._stored("fetched_at, etag, body", address)
        if row is None:
            return None
        fetched_at, etag, body = row
        try:
            parsed = None if body is None else parse(body)
        except (msgspec.MsgspecError, ValueError):
            return None
        age = (to_micros(self._now()) - fetched_at) / 1_000_000
        document = Document.of(body, parsed, etag=etag, checked=self._clock() - age)
        if age < 0:
            document = replace(document, checked=self._clock() - document.fresh_for - 1)
        self._remember(address, document)
        return document

    def known(self, address: str) -> Document | None:
        """The document if it is in memory."""
        return self._documents.get(address)

    def state(self, address: str, document: Document) -> DocumentState:
        """What follows the document as it changes."""
        state = self._states.get(address)
        if state is None:
            with self._lock:
                state = self._follow(address, document)
        return state

    def stored(self, address: str) -> bytes | None:
        """The bytes as last seen; None when there were none."""
        row = self._stored("body", address)
        return None if row is None else row[0]

    def etag(self, address: str) -> str:
        """What tells upstream which content is here; "" where there is none."""
        if (document := self._documents.get(address)) is not None:
            return document.etag if document.parsed is not None else ""
        row = self._stored("etag, body IS NOT NULL", address)
        return str(row[0]) if row is not None and row[1] else ""

    def age(self, address: str) -> float | None:
        """Seconds since upstream has confirmed it; None when it was never seen."""
        if (state := self._states.get(address)) is not None:
            return state.age
        row = self._stored("fetched_at", address)
        return None if row is None else (to_micros(self._now()) - row[0]) / 1_000_000

    def confirm(self, address: str) -> None:
        """Upstream has said that nothing has changed of what is stored, whether or not it is in memory."""
        with self._lock:
            checked = self._clock()
            if (document := self._documents.get(address)) is not None:
                self._documents[address] = replace(document, checked=checked)
            if (state := self._states.get(address)) is not None:
                state.checked = checked
        self._write(
            "UPDATE upstream_documents SET fetched_at = ? WHERE path = ?",
            (to_micros(self._now()), self._prefix + address),
        )
        self._announce(address)

    @property
    def is_shared(self) -> bool:
        """Whether other nodes tell what upstream has said to them."""
        return self._copies is not None

    def take_confirmed(self, address: str, parse: Callable[[bytes], Any]) -> Document | None:
        """The document as another node has just had it from upstream; None where none has."""
        content = self._copies.get(self._shared_name(address)) if self._copies else None
        if content is None:
            return None
        try:
            confirmed = _DECODE_CONFIRMED(content)
            age = max(0, self._database.now() - confirmed.at) / 1_000_000
            document = self._documents.get(address)
            if document is None or document.digest != confirmed.digest:
                row = self._stored("etag, body", address)
                if row is None:
                    return None
                etag, body = row
                parsed = None if body is None else parse(body)
                document = Document.of(body, parsed, etag=etag, checked=0.0)
        except (AsuError, msgspec.MsgspecError, ValueError):
            return None  # upstream is asked
        if document.digest != confirmed.digest or age > document.fresh_for / 2:
            return None
        document = replace(document, checked=self._clock() - age)
        self._remember(address, document)
        return document

    def _announce(self, address: str) -> None:
        """Spares the other nodes from asking upstream for what was confirmed just now."""
        state = self._states.get(address)
        if self._copies is None or state is None or not state.digest:
            return
        with contextlib.suppress(AsuError):
            confirmed = _Confirmed(self._database.now(), state.digest)
            name, since = self._shared_name(address), self._copies.mark()
            self._copies.put(name, msgspec.msgpack.encode(confirmed), since=since)

    def _shared_name(self, address: str) -> str:
        return f"document:{self._prefix}{address}"

    def prune(self) -> int:
        """Takes away what is too old or too much; how many documents."""
        at = to_micros(self._now())
        old, missing = (at - span // timedelta(microseconds=1) for span in _OF_NO_USE)
        gone = 0
        while True:
            with self._database.writing() as connection:
                rows = connection.execute(
                    _TOO_MUCH,
                    {
                        "own": OWN,
                        "foreign": _FOREIGN,
                        "is_foreign": bool(self._prefix),
                        "old": old,
                        "missing": missing,
                        "most": _FOREIGN_BYTES if self._prefix else _STORED_BYTES,
                    },
                ).fetchall()
                connection.executemany("DELETE FROM upstream_documents WHERE path = ?", rows)
            with self._lock:
                for (row,) in rows:
                    name = row.removeprefix(self._prefix)
                    if (document := self._documents.pop(name, None)) is not None:
                        self._size -= document.size
                    if (state := self._states.pop(name, None)) is not None:
                        state.digest = b""
            gone += len(rows)
            if len(rows) < _AT_ONCE:
                return gone

    def keep(self, address: str, document: Document, body: bytes | None) -> None:
        """Remembers a document."""
        self._remember(address, document)
        self.store(address, document.etag, body)
        self._announce(address)

    def store(self, address: str, etag: str, body: bytes | None) -> None:
        """Puts it where the next start finds it."""
        self._write(_STORE, (self._prefix + address, etag, to_micros(self._now()), body))
        self._stored_since += len(body or b"") + _OVERHEAD
        if self._stored_since > _PRUNE_EVERY:
            self._stored_since = 0
            with contextlib.suppress(AsuError):
                self.prune()

    def close(self) -> None:
        """Nothing is stored from now on."""
        with self._lock:
            self._closed = True

    def _stored(self, columns: str, address: str) -> tuple[Any, ...] | None:
        with self._database.reading() as connection:
            row: tuple[Any, ...] | None = connection.execute(
                f"SELECT {columns} FROM upstream_documents WHERE path = ?", (self._prefix + address,)
            ).fetchone()
        return row

    def _remember(self, address: str, document: Document) -> None:
        with self._lock:
            former = self._documents.pop(address, None)
            self._size += document.size - (former.size if former else 0)
            self._documents[address] = document
            self._follow(address, document)
            while self._size > self._most_bytes and len(self._documents) > 1:
                _, dropped = self._documents.popitem(last=False)
                self._size -= dropped.size

    def _follow(self, address: str, document: Document) -> DocumentState:
        state = self._states.get(address)
        if state is None:
            state = self._states[address] = DocumentState(self._clock)
        self._states.move_to_end(address)
        state.checked, state.fresh_for, state.digest = document.checked, document.fresh_for, document.digest
        while len(self._states) > _STATES:
            _, forgotten = self._states.popitem(last=False)
            forgotten.digest = b""
        return state

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._lock:
            if self._closed:
                return
        try:
            with self._database.writing() as connection:
                connection.execute(statement, values)
        except AsuError as error:
            # It serves until the next start all the same.
            _log.warning("A document of upstream could not be stored: %s", error)
