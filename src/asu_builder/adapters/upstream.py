"""The download server's metadata over HTTP: cached in the database, revalidated, stale rather than none.

Layout: facts on the ImageBuilder, §5. A request waits for upstream only when nothing usable was
ever seen; everything older is renewed in the background.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from asu_builder.adapters.database import Database
from asu_builder.adapters.job_rows import to_micros
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.release import Release
from asu_builder.ports import TargetProfiles

if TYPE_CHECKING:
    import urllib3

_log = logging.getLogger(__name__)

FRESH_FOR = timedelta(minutes=5)
MISSING_FOR = timedelta(minutes=1)
"""How long "upstream has no such document" is believed: a release appears without a restart."""
_TIMEOUT_SECONDS = 10.0
"""The slowest client gives up after 15 seconds."""
_MAX_DOCUMENT_BYTES = 32 << 20
_PARSED_DOCUMENTS = 64

_Parsed = TypeVar("_Parsed")


class _Versions(msgspec.Struct):
    versions_list: list[str] = []


class _Profile(msgspec.Struct):
    supported_devices: list[str] = []


class _ProfilesJson(msgspec.Struct):
    version_code: str
    arch_packages: str = ""
    profiles: dict[str, _Profile] = {}
    default_packages: list[str] = []


@dataclass(frozen=True, slots=True)
class _Document:
    fetched_at: int
    etag: str
    parsed: Any
    """None when upstream said that there is no such document."""


class HttpUpstream:
    """Reads a server of the layout of downloads.openwrt.org; safe to use from any thread."""

    def __init__(self, url: str, database: Database, *, now: Callable[[], datetime]) -> None:
        self._url = url.rstrip("/")
        self._database = database
        self._now = now
        self._documents: OrderedDict[str, _Document] = OrderedDict()
        self._lock = threading.Lock()
        self._renewing: set[str] = set()
        self._fetching: dict[str, threading.Lock] = {}
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="upstream")
        self._pool: urllib3.PoolManager | None = None

    def versions(self) -> Sequence[str]:
        """See `ports.Upstream.versions`."""
        found = self._get(
            ".versions.json", lambda body: msgspec.json.decode(body, type=_Versions).versions_list
        )
        return found or []

    def targets(self, release: Release) -> Mapping[str, str] | None:
        """See `ports.Upstream.targets`."""
        return self._get(
            f"{release.path}/.targets.json", lambda body: msgspec.json.decode(body, type=dict[str, str])
        )

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """See `ports.Upstream.target_profiles`."""
        return self._get(f"{release.path}/targets/{target}/profiles.json", _parse_profiles_json)

    def close(self) -> None:
        """Ends background work; nothing is half-written."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._pool is not None:
            self._pool.clear()

    def _get(self, path: str, parse: Callable[[bytes], _Parsed]) -> _Parsed | None:
        document = self._documents.get(path) or self._load(path, parse)
        if document is None:
            document = self._fetch_once(path, parse)
        elif self._is_old(document):
            self._renew_later(path, parse)
        parsed: _Parsed | None = document.parsed
        return parsed

    def _is_old(self, document: _Document) -> bool:
        fresh_for = MISSING_FOR if document.parsed is None else FRESH_FOR
        return document.fetched_at + _span(fresh_for) < to_micros(self._now())

    def _fetch_once(self, path: str, parse: Callable[[bytes], _Parsed]) -> _Document:
        """Many who ask for the same unknown document cause one request."""
        with self._lock:
            turn = self._fetching.setdefault(path, threading.Lock())
        with turn:
            known = self._documents.get(path)
            if known is not None:
                return known
            return self._fetch(path, parse, None)

    def _renew_later(self, path: str, parse: Callable[[bytes], _Parsed]) -> None:
        with self._lock:
            if path in self._renewing:
                return
            self._renewing.add(path)
        try:
            self._executor.submit(self._renew, path, parse)
        except RuntimeError:  # shutting down
            self._renewing.discard(path)

    def _renew(self, path: str, parse: Callable[[bytes], _Parsed]) -> None:
        try:
            self._fetch(path, parse, self._documents.get(path))
        except Unavailable as error:
            _log.warning("using the last known %s: %s", path, error)
            # Asked again after the same time as if it had been renewed: a dead upstream is not hammered.
            if (stale := self._documents.get(path)) is not None:
                self._remember(path, _Document(to_micros(self._now()), stale.etag, stale.parsed))
        finally:
            self._renewing.discard(path)

    def _fetch(self, path: str, parse: Callable[[bytes], _Parsed], known: _Document | None) -> _Document:
        status, etag, body = self._request(path, known.etag if known and known.parsed is not None else "")
        fetched_at = to_micros(self._now())
        if status == 304 and known is not None:
            document = _Document(fetched_at, known.etag, known.parsed)
        elif status == 404:
            document, body = _Document(fetched_at, "", None), None
        else:
            try:
                document = _Document(fetched_at, etag, parse(body or b""))
            except msgspec.DecodeError as error:
                raise Unavailable(f"{self._url}/{path} is not what it should be: {error}") from error
        self._remember(path, document)
        self._save(path, document, body, renewed=status == 304)
        return document

    def _request(self, path: str, etag: str) -> tuple[int, str, bytes | None]:
        import urllib3  # costs 50 ms, and the first answer needs none of it

        with self._lock:
            if self._pool is None:
                self._pool = urllib3.PoolManager(
                    maxsize=4,
                    timeout=urllib3.Timeout(connect=5.0, read=_TIMEOUT_SECONDS),
                    retries=urllib3.Retry(total=1, redirect=3, backoff_factor=0.2),
                )
        try:
            headers = {"If-None-Match": etag} if etag else {}
            answer = self._pool.request("GET", f"{self._url}/{path}", headers=headers, preload_content=False)
            try:
                body = answer.read(_MAX_DOCUMENT_BYTES + 1)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"The download server {self._url} does not answer: {error}") from error
        if answer.status not in (200, 304, 404) or len(body) > _MAX_DOCUMENT_BYTES:
            raise Unavailable(f"The download server {self._url} answered {answer.status} for {path}")
        return answer.status, answer.headers.get("ETag", ""), body

    def _remember(self, path: str, document: _Document) -> None:
        with self._lock:
            self._documents[path] = document
            self._documents.move_to_end(path)
            while len(self._documents) > _PARSED_DOCUMENTS:
                self._documents.popitem(last=False)

    def _load(self, path: str, parse: Callable[[bytes], _Parsed]) -> _Document | None:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT fetched_at, etag, body FROM upstream_documents WHERE path = ?",
                (f"{self._url}/{path}",),
            ).fetchone()
        if row is None:
            return None
        try:
            document = _Document(row[0], row[1], None if row[2] is None else parse(row[2]))
        except msgspec.DecodeError:
            return None
        self._remember(path, document)
        return document

    def _save(self, path: str, document: _Document, body: bytes | None, *, renewed: bool) -> None:
        key = f"{self._url}/{path}"
        with self._database.writing() as connection:
            if renewed:
                connection.execute(
                    "UPDATE upstream_documents SET fetched_at = ? WHERE path = ?", (document.fetched_at, key)
                )
            else:
                connection.execute(
                    "INSERT INTO upstream_documents (path, etag, fetched_at, body) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (path) DO UPDATE"
                    " SET etag = excluded.etag, fetched_at = excluded.fetched_at, body = excluded.body",
                    (key, document.etag, document.fetched_at, body),
                )


def _span(span: timedelta) -> int:
    """A span of time in microseconds, the unit of the rows."""
    return int(span.total_seconds() * 1_000_000)


def _parse_profiles_json(body: bytes) -> TargetProfiles:
    described = msgspec.json.decode(body, type=_ProfilesJson)
    profiles = {name: tuple(profile.supported_devices) for name, profile in described.profiles.items()}
    return TargetProfiles(
        described.version_code, described.arch_packages, profiles, tuple(described.default_packages)
    )
