"""The images of an installation on their way from a directory to a bucket, or back.

One result after the other: its files are compared with the digests that its row names, published in the other
store, read back from there and compared, and then named by the row. What is there already is left, so a move
that was killed goes on where it was. Nothing is taken away from where it came from.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from asu_builder.domain.errors import StoreUnavailable
from asu_builder.domain.job import StoredFiles
from asu_builder.store.bucket import Bucket, Found
from asu_builder.store.local import LocalStore
from asu_builder.store.objects import ObjectStore


class ResultFiles(Protocol):
    """What rows say about the files of results."""

    def completed_hashes(self) -> Iterable[str]:
        """Every hash with a result."""

    def stored_files(self, request_hash: str) -> StoredFiles | None:
        """What the newest result names in a bucket."""

    def image_digests(self, request_hash: str) -> Mapping[str, str]:
        """Of the newest result each image with its SHA-256."""

    def name_files(self, request_hash: str, files: StoredFiles) -> None:
        """Lets the newest result name these."""


class Tally(Struct):
    """What became of the results."""

    moved: int = 0
    there: int = 0
    """Whose files were in the other store already."""
    lacking: int = 0
    """Whose files are not, or not whole, where they should be; their requests are built again."""
    bytes: int = 0


def to_bucket(
    root: Path, local: LocalStore, objects: ObjectStore, bucket: Bucket, rows: ResultFiles
) -> Tally:
    """Copies what lies in `local`, below `root`. Raises `Unavailable`; run again it goes on."""
    tally = Tally()
    for request_hash in dict.fromkeys(rows.completed_hashes()):
        files = rows.stored_files(request_hash)
        if files is not None and objects.has_whole(request_hash, files):
            tally.there += 1
            continue
        with objects.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            if local.holds(request_hash):
                for path in sorted((root / request_hash).iterdir()):
                    if local.locate(request_hash, path.name):
                        _link(path, images / path.name)
            digests = _whole(images, rows.image_digests(request_hash))
            if not digests:
                tally.lacking += 1
                continue
            published = objects.publish(request_hash, images)
            assert published.files
            written = _listed(bucket, request_hash, published.files)
            for name, digest in digests.items():
                back = scratch / "back"
                _fetch(written[name], back, bucket)
                _require_same(back, digest, f"{bucket.url}/{request_hash}/{name}")
            rows.name_files(request_hash, published.files)
            tally.moved += 1
            tally.bytes += published.stored_bytes
    return tally


def to_directory(bucket: Bucket, local: LocalStore, rows: ResultFiles) -> Tally:
    """Copies what results name in the bucket. Raises `Unavailable`; run again it goes on."""
    tally = Tally()
    for request_hash in dict.fromkeys(rows.completed_hashes()):
        if local.owns(request_hash):
            tally.there += 1  # a directory is published whole, by one rename
            continue
        files = rows.stored_files(request_hash)
        with local.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            there = _listed(bucket, request_hash, files) if files else {}
            for name, found in there.items():
                _fetch(found, images / name, bucket)
            whole = _whole(images, rows.image_digests(request_hash))
            if files is None or whole.keys() != files.sizes.keys():
                tally.lacking += 1
                continue
            tally.bytes += local.publish(request_hash, images).stored_bytes
            tally.moved += 1
    return tally


def _listed(bucket: Bucket, request_hash: str, files: StoredFiles) -> Mapping[str, Found]:
    """The objects of a publication by their names; those of another size than its row says are left out."""
    listed = {found.key.rpartition("/")[2]: found for found in bucket.list(f"{request_hash}/{files.folder}")}
    return {name: found for name, found in listed.items() if found.size == files.sizes.get(name)}


def _fetch(found: Found, path: Path, bucket: Bucket) -> None:
    if not bucket.download(found, path, require_time=lambda: None):
        raise StoreUnavailable(f"{bucket.url}/{found.key} went while it was read.")


def _whole(folder: Path, known: Mapping[str, str]) -> Mapping[str, str]:
    """The digest of each file; none where an image lacks or is not what its row says."""
    digests = {path.name: digest_of(path) for path in folder.iterdir()}
    return digests if all(digests.get(name) == digest for name, digest in known.items()) else {}


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_same(path: Path, digest: str, name: str) -> None:
    if digest_of(path) != digest:
        raise StoreUnavailable(f"{name} was read back with other bytes than were written.")


def _link(path: Path, to: Path) -> None:
    """The same file under another name; a copy where that is on another disk."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)
