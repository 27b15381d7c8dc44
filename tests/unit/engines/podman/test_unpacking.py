"""What is unpacked of an archive, and what is refused before anything of it is written."""

import io
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Callable
from inspect import getsource
from pathlib import Path

import pytest

from asu_builder.engines.podman import unpacking
from asu_builder.engines.podman.unpacking import Refused, require_plain
from tools import require_tool

TOP = "openwrt-imagebuilder-pico-nine.Linux-x86_64"
MIB = 1 << 20

Change = Callable[[tarfile.TarInfo], None]


def kind(kind: bytes, target: str = "") -> Change:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = kind, target

    return change


SYMLINK, HARDLINK = tarfile.SYMTYPE, tarfile.LNKTYPE


def an_archive(*members: tuple[str, Change], size: int = 3, first: str = "Makefile") -> bytes:
    """A tar with a plain file and these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, change in ((f"{TOP}/{first}", kind(tarfile.REGTYPE)), *members):
            member = tarfile.TarInfo(name)
            change(member)
            member.size = size if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "member",
    [
        (f"{TOP}/scripts", kind(tarfile.DIRTYPE)),
        (f"{TOP}/bin/awk", kind(SYMLINK, "/usr/bin/gawk")),
        (f"{TOP}/lib/libfoo.so", kind(SYMLINK, "libfoo.so.1")),
        (f"{TOP}/a/b/up", kind(SYMLINK, "../../Makefile")),
        (f"{TOP}/again", kind(HARDLINK, f"{TOP}/Makefile")),
    ],
)
def test_what_imagebuilders_hold_is_accepted(member: tuple[str, Change]) -> None:
    require_plain(io.BytesIO(an_archive(member)), MIB, 10)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("/etc/passwd", kind(tarfile.REGTYPE))], "lies outside its folder"),
        ([(f"{TOP}/../../etc/x", kind(tarfile.REGTYPE))], "lies outside its folder"),
        ([("another/Makefile", kind(tarfile.REGTYPE))], "lies outside its folder"),
        ([(f"{TOP}/x", kind(SYMLINK, "/etc/passwd"))], "leads outside, to '/etc/passwd'"),
        ([(f"{TOP}/x", kind(SYMLINK, "/usr/bin/../../etc"))], "leads outside"),
        ([(f"{TOP}/x", kind(SYMLINK, "../../other"))], "leads outside"),
        ([(f"{TOP}/x", kind(HARDLINK, "etc/passwd"))], "leads outside"),
        ([(f"{TOP}/x", kind(HARDLINK, "/usr/bin/gawk"))], "leads outside"),
        (
            [(f"{TOP}/d", kind(SYMLINK, "scripts")), (f"{TOP}/d/x", kind(tarfile.REGTYPE))],
            "lies behind a link",
        ),
        ([(f"{TOP}/null", kind(tarfile.CHRTYPE))], "is no file, folder or link"),
        ([(f"{TOP}/disk", kind(tarfile.BLKTYPE))], "is no file, folder or link"),
        ([(f"{TOP}/pipe", kind(tarfile.FIFOTYPE))], "is no file, folder or link"),
        ([(f"{TOP}/{number}", kind(tarfile.REGTYPE)) for number in range(10)], "more files"),
    ],
)
def test_what_they_do_not_is_refused(members: list[tuple[str, Change]], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        require_plain(io.BytesIO(an_archive(*members)), MIB, 10)


@pytest.mark.parametrize("content", [b"", bytes(10240), b"no archive at all", an_archive()[:700]])
def test_what_is_no_whole_archive_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="damaged or was cut off"):
        require_plain(io.BytesIO(content), MIB, 10)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    content = an_archive(size=2 * MIB)
    with pytest.raises(Refused, match="more than an ImageBuilder may have"):
        require_plain(io.BytesIO(content), MIB, 10)
    with pytest.raises(Refused, match="more than an ImageBuilder may have"):
        require_plain(io.BytesIO(an_archive() + bytes(2 * MIB)), MIB, 10)


def run(archive: Path, into: Path, program: str, **variables: str) -> str:
    """What the program says in an environment of its own, as in a container."""
    command = [sys.executable, "-c", getsource(unpacking), str(archive), program, str(into), str(MIB), "10"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables or None)
    assert done.returncode == (0 if done.stdout == "ok\n" else 1)
    return done.stdout


@pytest.mark.process
@pytest.mark.parametrize("program", ["xz", "zstd"])
def test_both_kinds_of_archives_are_unpacked_and_cut_ones_refused(program: str, tmp_path: Path) -> None:
    require_tool(program)
    content = an_archive((f"{TOP}/bin/awk", kind(SYMLINK, "/usr/bin/gawk")))
    packed = subprocess.run([program, "-c"], input=content, check=True, capture_output=True).stdout
    archive = tmp_path / "archive"
    archive.write_bytes(packed[:-20])
    assert run(archive, tmp_path, program) == "refused\tit is damaged or was cut off\n"
    archive.write_bytes(packed)
    assert run(archive, tmp_path, program) == "ok\n"
    assert (tmp_path / "Makefile").read_text() == "xxx"
    assert (tmp_path / "bin/awk").readlink() == Path("/usr/bin/gawk")
    assert not archive.exists()


@pytest.mark.process
def test_what_the_container_lacks_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(lzma.compress(an_archive()))
    said = run(archive, tmp_path, "zstd", PATH=str(tmp_path))
    assert said == "refused\timagebuilder_base has no program zstd\n"
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.process
def test_an_archive_without_a_makefile_is_no_imagebuilder(tmp_path: Path) -> None:
    require_tool("xz")
    archive, into = tmp_path / "archive", tmp_path / "into"
    into.mkdir()
    archive.write_bytes(lzma.compress(an_archive(first="README")))
    assert run(archive, into, "xz") == "refused\tit holds no ImageBuilder\n"
