"""What leaves a container: hostile archives and hostile directories."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import pytest

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason, Unavailable
from asu_builder.engines import transfer
from asu_builder.engines.guard import Limits

LIMITS = Limits(collected_files=3, collected_size=100)


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


DIRECTORY = entry("out", tarfile.DIRTYPE)


def a_tar(*members: tarfile.TarInfo) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for member in members:
            made.addfile(member, io.BytesIO(b"x" * member.size))
    buffer.seek(0)
    return buffer


def refused(stream: IO[bytes], into: Path) -> str:
    with pytest.raises(BuildFailed) as failure:
        transfer.unpack(stream, into, limits=LIMITS)
    assert failure.value.reason == FailureReason.UNTRUSTED_OUTPUT
    assert failure.value.detail.startswith("Error: ")
    return failure.value.detail


def test_plain_files_arrive_with_their_contents(tmp_path: Path) -> None:
    stream = a_tar(DIRECTORY, entry("out/a.bin", size=3), entry("out/b+c_1-2.img", size=0))
    assert transfer.unpack(stream, tmp_path, limits=LIMITS) == ["a.bin", "b+c_1-2.img"]
    assert (tmp_path / "a.bin").read_bytes() == b"xxx"
    assert (tmp_path / "b+c_1-2.img").read_bytes() == b""


def test_an_empty_directory_has_no_names(tmp_path: Path) -> None:
    assert transfer.unpack(a_tar(DIRECTORY), tmp_path, limits=LIMITS) == []


@pytest.mark.parametrize(
    "member",
    [
        entry("out/link", tarfile.SYMTYPE, link="/etc/passwd"),
        entry("out/link", tarfile.LNKTYPE, link="/etc/passwd"),
        entry("out/device", tarfile.CHRTYPE),
        entry("out/device", tarfile.BLKTYPE),
        entry("out/pipe", tarfile.FIFOTYPE),
        entry("out/inner", tarfile.DIRTYPE),
        entry("out/inner/file"),
        entry("out/../file"),
        entry("../file"),
        entry("/etc/file"),
        entry("elsewhere/file"),
        entry("outer"),
        entry("out/"),
        entry("out/.hidden"),
        entry("out/-rf"),
        entry("out/two words"),
        entry("out/new\nline"),
        entry("out/grün"),
        entry("out/" + "n" * 256),
    ],
    ids=lambda member: f"{member.name[:20]!r} of type {member.type!r}",
)
def test_whatever_is_no_plain_file_with_a_plain_name_is_refused(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    refused(a_tar(DIRECTORY, member), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in refused(a_tar(DIRECTORY, entry("out/a"), entry("out/a")), tmp_path)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    assert "more than 3" in refused(a_tar(DIRECTORY, *(entry(f"out/{n}") for n in range(4))), tmp_path)


def test_too_many_bytes_are_refused_before_they_are_written(tmp_path: Path) -> None:
    detail = refused(a_tar(DIRECTORY, entry("out/a", size=60), entry("out/b", size=41)), tmp_path)
    assert "larger than 100 bytes" in detail
    assert not (tmp_path / "b").exists()


def test_an_announced_size_is_refused_without_waiting_for_the_bytes(tmp_path: Path) -> None:
    header = entry("out/a", size=1 << 40).tobuf(format=tarfile.GNU_FORMAT)
    refused(io.BytesIO(a_tar(DIRECTORY).getvalue()[:512] + header), tmp_path)


def test_a_link_that_waits_in_the_target_directory_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("keep")
    into = tmp_path / "into"
    into.mkdir()
    (into / "a").symlink_to(secret)
    with pytest.raises(Unavailable):
        transfer.unpack(a_tar(DIRECTORY, entry("out/a", size=1)), into, limits=LIMITS)
    assert secret.read_text() == "keep"


@pytest.mark.parametrize("keep", [512, 700, 1024, 1024 + 10, 1024 + 512, 2048])
def test_an_archive_that_breaks_off_is_the_engine_s_fault(tmp_path: Path, keep: int) -> None:
    whole = a_tar(DIRECTORY, entry("out/a", size=90)).getvalue()
    assert len(whole) > keep
    with pytest.raises(EngineUnavailable):
        transfer.unpack(io.BytesIO(whole[:keep]), tmp_path, limits=LIMITS)


def test_an_archive_of_a_single_file_is_no_directory(tmp_path: Path) -> None:
    refused(a_tar(entry("out", size=1)), tmp_path)


def test_a_packed_file_reads_back_and_carries_no_directories() -> None:
    packed = transfer.pack({"keys/a": "1", "b": "ü"})
    with tarfile.open(fileobj=io.BytesIO(packed)) as found:
        members = {member.name: (member.type, member.mode, member.uid) for member in found}
    assert members == {"keys/a": (tarfile.REGTYPE, 0o644, 0), "b": (tarfile.REGTYPE, 0o644, 0)}
    assert transfer.read_one(io.BytesIO(transfer.pack({"b": "ü"})), limit=10) == "ü".encode()


def test_a_text_is_refused_when_it_is_too_long_or_no_plain_file() -> None:
    for stream in (a_tar(entry("a", size=11)), a_tar(DIRECTORY), a_tar()):
        with pytest.raises(BuildFailed):
            transfer.read_one(stream, limit=10)


# --- directories of this host ------------------------------------------------------------------------


def test_a_directory_is_gathered_by_the_same_rules(tmp_path: Path) -> None:
    source, into = _two_directories(tmp_path)
    (source / "a.bin").write_bytes(b"abc")
    assert transfer.gather(source, into, limits=LIMITS) == ["a.bin"]
    assert (into / "a.bin").read_bytes() == b"abc"
    assert (into / "a.bin").stat().st_ino != (source / "a.bin").stat().st_ino


@pytest.mark.parametrize(
    "spoil",
    [
        lambda source: (source / "a").symlink_to("/etc/passwd"),
        lambda source: (source / "a").hardlink_to(source.parent / "secret"),
        lambda source: (source / "a").mkdir(),
        lambda source: os.mkfifo(source / "a"),
        lambda source: (source / ".a").touch(),
        lambda source: (source / "a b").touch(),
        lambda source: (source / "a").write_bytes(bytes(101)),
        lambda source: [(source / str(number)).touch() for number in range(4)],
    ],
    ids=["link", "hard link", "directory", "pipe", "hidden", "odd name", "too big", "too many"],
)
def test_a_spoilt_directory_is_refused(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    source, into = _two_directories(tmp_path)
    (tmp_path / "secret").write_text("secret")
    spoil(source)
    with pytest.raises(BuildFailed) as failure:
        transfer.gather(source, into, limits=LIMITS)
    assert failure.value.reason == FailureReason.UNTRUSTED_OUTPUT


def test_a_plain_text_has_a_limit_and_is_never_a_link(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("0123456789")
    (tmp_path / "link").symlink_to(text)
    assert transfer.read_plain(text, limit=10) == b"0123456789"
    with pytest.raises(BuildFailed):
        transfer.read_plain(text, limit=9)
    with pytest.raises(Unavailable):
        transfer.read_plain(tmp_path / "link", limit=10)


def _two_directories(tmp_path: Path) -> tuple[Path, Path]:
    source, into = tmp_path / "source", tmp_path / "into"
    source.mkdir()
    into.mkdir()
    return source, into


def test_short_reads_do_no_harm(tmp_path: Path) -> None:
    stream = cast(IO[bytes], _Drip(a_tar(DIRECTORY, entry("out/a", size=5)).getvalue()))
    assert transfer.unpack(stream, tmp_path, limits=LIMITS) == ["a"]


class _Drip:
    """Gives what tarfile asks for, but never more than a few bytes of it at once."""

    def __init__(self, content: bytes) -> None:
        self._rest = content

    def read(self, size: int) -> bytes:
        part, self._rest = self._rest[: min(size, 100)], self._rest[min(size, 100) :]
        return part
