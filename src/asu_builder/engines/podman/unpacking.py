"""Unpacks the archive of an ImageBuilder: a separate program, for the Python of a container.

Nothing but the standard library of Python 3.8. It looks at every member before the first is
unpacked, and writes one line: `ok`, or `refused` with a tab and why.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import IO, cast

HOST_PROGRAM = re.compile(r"/(?:usr/)?s?bin/[A-Za-z0-9._+-]+")
"""Where a link may lead outside: ImageBuilders call programs of their host by links to them."""
_CHUNK = 1 << 20


class Refused(Exception):
    """The archive is not unpacked; the text is the end of a sentence."""


class Counted:
    """A stream that gives no more than so many bytes."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        """`most` bytes can be read; the next ones raise `Refused`."""
        self._stream = stream
        self._left = most

    def read(self, size: int) -> bytes:
        """As a file does it."""
        chunk = self._stream.read(min(size, _CHUNK))
        self._left -= len(chunk)
        if self._left < 0:
            raise Refused("it unpacks to more than an ImageBuilder may have")
        return chunk


def require_member(member: tarfile.TarInfo, top: str, links: set[str]) -> None:
    """Refuses what does not belong into the one folder `top`; `links` are the names of links so far."""
    name = posixpath.normpath(member.name)
    shown = ascii(member.name[:100])
    if member.name.startswith("/") or name.split("/")[0] != top or ".." in member.name.split("/"):
        raise Refused(f"{shown} lies outside its folder")
    parts = name.split("/")
    if any("/".join(parts[:depth]) in links for depth in range(1, len(parts))):
        raise Refused(f"{shown} lies behind a link")
    if member.issym() or member.islnk():
        target = member.linkname
        start = "" if member.islnk() else posixpath.dirname(name)
        inner = posixpath.normpath(posixpath.join(start, target))
        is_program = member.issym() and HOST_PROGRAM.fullmatch(target)
        if not is_program and (target.startswith("/") or inner.split("/")[0] != top):
            raise Refused(f"the link {shown} leads outside, to {target[:100]!a}")
        if member.issym():
            links.add(name)
    elif not (member.isreg() or member.isdir()) or member.issparse():
        raise Refused(f"{shown} is no file, folder or link")


def require_plain(stream: IO[bytes], most_bytes: int, most_files: int) -> None:
    """Reads a whole tar archive and refuses one that is not an ImageBuilder's in form."""
    top, files = "", 0
    links: set[str] = set()
    counted = Counted(stream, most_bytes)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|") as archive:
            while (member := archive.next()) is not None:
                vars(archive)["members"].clear()  # it remembers each otherwise
                top = top or posixpath.normpath(member.name).split("/")[0]
                if top in ("", ".", ".."):
                    raise Refused("it does not hold one folder")
                files += 1
                if files > most_files:
                    raise Refused("it holds more files than an ImageBuilder may have")
                require_member(member, top, links)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise Refused("it is damaged or was cut off") from error
    if not files:
        raise Refused("it is empty, damaged or was cut off")
    # What follows the end is read too: a program that cannot write looks as if it had failed.
    while counted.read(_CHUNK):
        pass


def unpack(path: str, program: str, into: str, most_bytes: int, most_files: int) -> None:
    """Looks at the archive and then unpacks it. Raises `Refused`."""
    for needed in (program, "tar"):
        if shutil.which(needed) is None:
            raise Refused(f"imagebuilder_base has no program {needed}")
    command = [program, "-dc", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacker:
        assert unpacker.stdout
        try:
            require_plain(unpacker.stdout, most_bytes, most_files)
        except BaseException:
            unpacker.kill()
            raise
        if unpacker.wait():
            raise Refused("it is damaged or was cut off")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacker:
        options = ["--no-same-owner", "--strip-components=1", "-C", into]
        if subprocess.run(["tar", "-x", "-f", "-", *options], stdin=unpacker.stdout).returncode:
            raise Refused("tar could not unpack it")
    if not Path(into, "Makefile").is_file():
        raise Refused("it holds no ImageBuilder")


def main(path: str, program: str, into: str, most_bytes: str, most_files: str) -> int:
    """Says how it went."""
    try:
        unpack(path, program, into, int(most_bytes), int(most_files))
        Path(path).unlink()
    except Refused as reason:
        sys.stdout.write(f"refused\t{reason}\n")
        return 1
    sys.stdout.write("ok\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
