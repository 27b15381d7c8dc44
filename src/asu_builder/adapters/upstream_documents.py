"""Documents of the download server: remembered, revalidated behind, stale rather than none.

Nobody waits for upstream when anything usable was ever seen, and nobody waits long when not: the
document is fetched behind, and the asker is told to come back.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import to_micros
from asu_builder.domain.errors import Unavailable

if TYPE_CHECKING:
    import urllib3

_log = logging.getLogger(__name__)

FRESH_FOR = timedelta(minutes=5)
MISSING_FOR = timedelta(minutes=1)
"""How long "upstream has no such document" is believed: a release appears without a restart."""
FAILED_FOR = timedelta(seconds=5)
"""How long a failed fetch is not repeated: a dead upstream is not hammered."""
_PATIENCE_SECONDS = 0.08
"""How long an asker waits for a document that was never seen: a near mirror answers in less."""
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_WHOLE_SECONDS = 60.0
_MAX_DOCUMENT_BYTES = 32 << 20
_MEMORY_BYTES = 12 << 20
_THREADS = 4

Parsed = TypeVar("Parsed")
Parse = Callable[[bytes], Parsed]


@dataclass(frozen=True, slots=True)
class _Document:
    fetched_at: int
    etag: str
    size: int
    parsed: Any
    """None when upstream said that there is no such document."""


class UpstreamDocuments:
    """Documents below one address; safe to use from any thread. What was seen survives restarts."""

    def __init__(self, url: str, database: Database, *, now: Callable[[], datetime]) -> None:
        self._url = url.rstrip("/")
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._documents: OrderedDict[str, _Document] = OrderedDict()
        self._size = 0
        self._fetching: dict[str, Future[_Document]] = {}
        self._failed_until: dict[str, tuple[int, str]] = {}
        self._answers = True
        self._work: queue.SimpleQueue[tuple[str, Parse[Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._pool: urllib3.PoolManager | None = None

    def get(self, path: str, parse: Parse[Parsed], *, wait: bool = True) -> Parsed | None:
        """The parsed document, or None when upstream has none.

        Raises `Unavailable` when it was never seen and does not come: within a tenth of a second,
        or at once without `wait`.
        """
        document = self._documents.get(path) or self._load(path, parse)
        if document is None:
            document = self._await_first(path, parse, _PATIENCE_SECONDS if wait else 0.0)
        elif self._is_old(path, document):
            self._fetch_behind(path, parse)
        parsed: Parsed | None = document.parsed
        return parsed

    def stored(self, path: str) -> bytes | None:
        """The bytes of a document as last seen; None when it was never, or upstream has none."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT body FROM upstream_documents WHERE path = ?", (f"{self._url}/{path}",)
            ).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        """Ends background work; what is still on its way is dropped."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._work.put(None)

    def _is_old(self, path: str, document: _Document) -> bool:
        now = to_micros(self._now())
        fresh_for = MISSING_FOR if document.parsed is None else FRESH_FOR
        failed_until, _ = self._failed_until.get(path, (0, ""))
        return document.fetched_at + _micros(fresh_for) < now and failed_until < now

    def _await_first(self, path: str, parse: Parse[Any], patience: float) -> _Document:
        failed_until, sentence = self._failed_until.get(path, (0, ""))
        if to_micros(self._now()) < failed_until:
            raise Unavailable(sentence, retry_after=int(FAILED_FOR.total_seconds()))
        try:
            return self._fetch_behind(path, parse).result(timeout=patience)
        except TimeoutError:
            raise Unavailable(
                f"{path} was never asked for before and is being fetched from the download server. "
                "Try again in a few seconds.",
                retry_after=3,
            ) from None

    def _fetch_behind(self, path: str, parse: Parse[Any]) -> "Future[_Document]":
        with self._lock:
            fetch = self._fetching.get(path)
            if fetch is None:
                fetch = self._fetching[path] = Future()
                self._work.put((path, parse))
                if len(self._threads) < min(_THREADS, len(self._fetching)):
                    name = f"upstream-{len(self._threads) + 1}"
                    # Daemons: a slow download must not hold up the end of the process.
                    thread = threading.Thread(target=self._fetch_all, name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()
        return fetch

    def _fetch_all(self) -> None:
        while (work := self._work.get()) is not None:
            path, parse = work
            try:
                document = self._fetch(path, parse)
            except Unavailable as error:
                self._note_failure(path, error)
            except Exception as error:  # noqa: BLE001 - whoever waits must learn of it
                _log.exception("reading %s failed", path)
                self._end(path).set_exception(error)
            else:
                self._note_answer(path)
                self._end(path).set_result(document)

    def _end(self, path: str) -> "Future[_Document]":
        with self._lock:
            return self._fetching.pop(path)

    def _note_failure(self, path: str, error: Unavailable) -> None:
        if self._answers:
            self._answers = False
            _log.warning("%s Answering from what was seen before", error)
        self._failed_until[path] = (to_micros(self._now() + FAILED_FOR), str(error))
        self._end(path).set_exception(error)

    def _note_answer(self, path: str) -> None:
        self._failed_until.pop(path, None)
        if not self._answers:
            self._answers = True
            _log.warning("The download server %s answers again", self._url)

    def _fetch(self, path: str, parse: Parse[Any]) -> _Document:
        known = self._documents.get(path)
        status, etag, body = self._request(path, known.etag if known and known.parsed is not None else "")
        fetched_at = to_micros(self._now())
        if status == 304 and known is not None:
            document = _Document(fetched_at, known.etag, known.size, known.parsed)
        elif status == 404:
            document = _Document(fetched_at, "", 0, None)
        else:
            try:
                document = _Document(fetched_at, etag, len(body), parse(body))
            except (msgspec.MsgspecError, ValueError) as error:
                raise Unavailable(f"{self._url}/{path} is not what it should be: {error}.") from error
        self._remember(path, document)
        self._save(path, document, None if status == 404 else body, renewed=status == 304)
        return document

    def _request(self, path: str, etag: str) -> tuple[int, str, bytes]:
        import urllib3  # costs 50 ms, and the first answer needs none of it

        with self._lock:
            if self._pool is None:
                timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
                retries = urllib3.Retry(total=1, redirect=3, backoff_factor=0.2)
                self._pool = urllib3.PoolManager(maxsize=_THREADS, timeout=timeout, retries=retries)
        headers = {"If-None-Match": etag} if etag else {}
        try:
            answer = self._pool.request("GET", f"{self._url}/{path}", headers=headers, preload_content=False)
            try:
                body = _read(answer)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"The download server {self._url} does not answer: {error}.") from error
        if answer.status not in (200, 304, 404):
            raise Unavailable(f"The download server {self._url} answered {answer.status} for {path}.")
        return answer.status, answer.headers.get("ETag", ""), body

    def _remember(self, path: str, document: _Document) -> None:
        with self._lock:
            former = self._documents.pop(path, None)
            self._size += document.size - (former.size if former else 0)
            self._documents[path] = document
            while self._size > _MEMORY_BYTES and len(self._documents) > 1:
                _, dropped = self._documents.popitem(last=False)
                self._size -= dropped.size

    def _load(self, path: str, parse: Parse[Any]) -> _Document | None:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT fetched_at, etag, body FROM upstream_documents WHERE path = ?",
                (f"{self._url}/{path}",),
            ).fetchone()
        if row is None:
            return None
        fetched_at, etag, body = row
        try:
            document = _Document(fetched_at, etag, len(body or b""), None if body is None else parse(body))
        except (msgspec.MsgspecError, ValueError):
            return None
        self._remember(path, document)
        return document

    def _save(self, path: str, document: _Document, body: bytes | None, *, renewed: bool) -> None:
        key = f"{self._url}/{path}"
        with self._lock:
            if self._closed:
                return
        with self._database.writing() as connection:
            if renewed:
                connection.execute(
                    "UPDATE upstream_documents SET fetched_at = ? WHERE path = ?", (document.fetched_at, key)
                )
                return
            connection.execute(
                "INSERT INTO upstream_documents (path, etag, fetched_at, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (path) DO UPDATE"
                " SET etag = excluded.etag, fetched_at = excluded.fetched_at, body = excluded.body",
                (key, document.etag, document.fetched_at, body),
            )


def _read(answer: "urllib3.BaseHTTPResponse") -> bytes:
    """The whole body; a server that trickles for ever is one that does not answer."""
    until = time.monotonic() + _WHOLE_SECONDS
    chunks: list[bytes] = []
    while chunk := answer.read(1 << 16):
        chunks.append(chunk)
        if time.monotonic() > until:
            raise TimeoutError(f"still sending after {_WHOLE_SECONDS:.0f} seconds")
        if len(chunks) << 16 > _MAX_DOCUMENT_BYTES:
            raise OSError(f"the document is larger than {_MAX_DOCUMENT_BYTES >> 20} MiB")
    return b"".join(chunks)


def _micros(span: timedelta) -> int:
    return int(span.total_seconds() * 1_000_000)
