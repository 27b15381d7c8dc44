"""Packed ImageBuilders on the download server, believed only by a signature over their checksums."""

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Lock
from typing import Protocol

from asu_builder.domain.errors import ArchiveRefused
from asu_builder.domain.release import Archive, Release, find_archive
from asu_builder.settings import Settings
from asu_builder.upstream.server import UpstreamServer

_MOST_BYTES = 2 << 30
"""Of an archive; the largest of OpenWrt have some 400 MiB."""
_KNOWN_SECONDS = timedelta(minutes=15).total_seconds()


class LineKeys(Protocol):
    """Keys that sign lists of checksums, by the release line."""

    def __contains__(self, line: object) -> bool:
        """Whether there is one."""

    def is_signed(self, line: str, message: bytes, signature: bytes) -> bool:
        """Whether the line's key made what the file of a signature says."""


class ImageBuilderArchives:
    """Fulfils `ports.ArchiveSource`; every thread may use it."""

    def __init__(
        self,
        settings: Settings,
        keys: LineKeys,
        *,
        most_bytes: int = _MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts seconds: what a target's checksums say is believed for a quarter of an hour."""
        self._server = UpstreamServer(settings.upstream_url, redirect_hosts=settings.upstream_redirect_hosts)
        self._keys = keys
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = Lock()
        self._known: dict[tuple[str, str], tuple[float, Archive | None]] = {}

    def find(self, release: Release, target: str) -> Archive | None:
        """Asks for the list and its signature, unless they were seen a moment ago."""
        place, now = (release.path, target), self._clock()
        with self._lock:
            until, known = self._known.get(place, (now, None))
        if now < until:
            return known
        if release.branch not in self._keys:
            raise ArchiveRefused(f"imagebuilder_keys has no key for {release.branch}")
        folder = f"{release.path}/targets/{target}"
        sums = self._server.get(f"{folder}/sha256sums", etag="")
        signature = self._server.get(f"{folder}/sha256sums.sig", etag="")
        found = None
        if sums.status == 200:
            if signature.status != 200:
                raise ArchiveRefused(f"{folder}/sha256sums has no signature beside it")
            if not self._keys.is_signed(release.branch, sums.body, signature.body):
                raise ArchiveRefused(
                    f"{folder}/sha256sums is not signed by the key that imagebuilder_keys has for "
                    f"{release.branch}"
                )
            found = find_archive(sums.body.decode(errors="replace"), release, target)
        with self._lock:
            self._known = {where: it for where, it in self._known.items() if now < it[0]}
            self._known[place] = (now + _KNOWN_SECONDS, found)
        return found

    def fetch(self, archive: Archive, write: Callable[[bytes], object], *, stop: Event, ends: float) -> None:
        """Counts and hashes what arrives."""
        digest = hashlib.sha256()

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            write(chunk)

        self._server.download(archive.path, take, most=self._most_bytes, stop=stop, ends=ends)
        if digest.hexdigest() != archive.digest:
            # A mirror between two states, or an archive that was cut off: the list is read again.
            with self._lock:
                self._known.clear()
            raise ArchiveRefused(f"{archive.path} has another checksum than its list says, or was cut off")
