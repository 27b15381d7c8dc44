"""Images onto this disk: verified, whole or not at all, and resumed where a download broke off."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from msgspec import Struct

from asu_builder.domain.errors import AsuError, Conflict, ServerMistake, Unavailable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~@:=,-]{0,249}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 6
"""How often a download that brings nothing more is begun again."""
_PAUSE_SECONDS = 0.5

Report = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes are here, and how many there are."""


class Announced(Struct, frozen=True):
    """A file as the build's document announces it; `size` is in bytes, None where an old server is silent."""

    name: str
    sha256: str
    size: int | None = None


class Stretch(Struct, frozen=True):
    """The rest of a file from `start` on."""

    start: int
    chunks: Iterator[bytes]


Source = Callable[[str, int], AbstractContextManager[Stretch]]
"""Opens a file by its name, from this byte on or, where that cannot be, from its beginning."""


def is_file_name(name: str) -> bool:
    """Whether nothing of this name can lie outside of a folder."""
    return _NAME.fullmatch(name) is not None


def announced_images(document: Mapping[str, object]) -> list[Announced]:
    """The files of a finished build. Raises `ServerMistake` for what could lie outside a folder."""
    images = document.get("images")
    found = []
    for image in images if isinstance(images, list) else []:
        entry = image if isinstance(image, dict) else {}
        name, sha256, size = entry.get("name"), entry.get("sha256"), entry.get("size")
        if not (isinstance(name, str) and is_file_name(name)):
            raise ServerMistake(f"The answer names an image that is no plain file name: {name!r}")
        if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            raise ServerMistake(f"The answer has no SHA-256 for {name}, so it cannot be verified.")
        found.append(Announced(name, sha256, size if isinstance(size, int) and size >= 0 else None))
    return found


def fetch(
    image: Announced,
    folder: Path,
    source: Source,
    *,
    report: Report = lambda *_: None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """The verified file in `folder`; one that is there already and right is not fetched again.

    What has arrived lies in `NAME.part` until then, and the next call goes on from there. Raises
    `Unavailable` when it breaks off for good, `ServerMistake` when it is not what was announced,
    `Conflict` when another process fetches the same.
    """
    target, part = folder / image.name, folder / f"{image.name}.part"
    if target.is_file() and not target.is_symlink():
        with target.open("rb") as file:
            if _is_right(file, image):
                report(image.name, target.stat().st_size, target.stat().st_size)
                return target
    folder.mkdir(parents=True, exist_ok=True)
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Another process is fetching {part}.") from None
        resumed = file.seek(0, os.SEEK_END) > 0
        _receive(image, file, source, report=report, pause=pause)
        if resumed and not _is_right(file, image):
            # What lay there was of something else: once more, from the beginning.
            file.truncate(0)
            _receive(image, file, source, report=report, pause=pause)
        if not _is_right(file, image):
            part.unlink()
            raise ServerMistake(
                f"{image.name} has not the SHA-256 that was announced ({image.sha256}); nothing was kept. "
                "Something between the server and here, or its disk, has changed it."
            )
        os.fsync(file.fileno())
        part.replace(target)
    return target


def _receive(
    image: Announced, file: IO[bytes], source: Source, *, report: Report, pause: Callable[[float], None]
) -> None:
    """Appends until the file is as long as announced; begins again while something more comes."""
    vain = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        if image.size is not None and before == image.size and before:
            return
        broken: AsuError | None = None
        try:
            with source(image.name, before) as stretch:
                if stretch.start != before:
                    file.truncate(stretch.start)
                got = file.seek(0, os.SEEK_END)
                for chunk in stretch.chunks:
                    got += len(chunk)
                    if image.size is not None and got > image.size:
                        file.truncate(0)
                        raise ServerMistake(f"{image.name} is longer than the {image.size} bytes announced.")
                    file.write(chunk)
                    report(image.name, got, image.size or got)
            file.flush()
        except Unavailable as error:
            broken = error
        got = file.seek(0, os.SEEK_END)
        if broken is None and (image.size is None or got >= image.size):
            return
        vain = 0 if got > before else vain + 1
        if vain >= _TRIES:
            raise broken or Unavailable(
                f"{image.name} breaks off after {got} of {image.size} bytes. They are kept; the same command "
                "goes on from there."
            )
        pause(_PAUSE_SECONDS * 2**vain)


def _is_right(file: IO[bytes], image: Announced) -> bool:
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest() == image.sha256  # type: ignore[arg-type]
