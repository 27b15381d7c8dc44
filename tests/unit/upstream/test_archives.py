"""Packed ImageBuilders: which one a signed list names, and when none is believed."""

import hashlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from asu_builder.app.runtimes import open_archives
from asu_builder.domain.errors import ArchiveRefused, BuildInterrupted, UpstreamUnavailable
from asu_builder.domain.release import MAIN, find_archive, parse_release
from asu_builder.ports import ArchiveSource
from asu_builder.settings import Settings, SettingsProblem
from asu_builder.signing.usign import SecretKey, make_key
from asu_builder.upstream.archives import ImageBuilderArchives
from asu_sample.server import DownloadServer

RELEASE, TARGET = parse_release("24.10.5"), "x86/64"
NAME = "openwrt-imagebuilder-24.10.5-x86-64.Linux-x86_64.tar.zst"
FOLDER = "releases/24.10.5/targets/x86/64"
CONTENT = b"an archive" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FAR = time.monotonic() + 3600


# --- which line of a list ------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("24.10.5", NAME),
        ("23.05.5", "openwrt-imagebuilder-23.05.5-x86-64.Linux-x86_64.tar.xz"),
        ("24.10-SNAPSHOT", "openwrt-imagebuilder-24.10-SNAPSHOT-x86-64.Linux-x86_64.tar.zst"),
        (MAIN, "openwrt-imagebuilder-x86-64.Linux-x86_64.tar.zst"),
    ],
)
def test_the_archive_of_a_version_and_target_is_found(version: str, name: str) -> None:
    sums = f"{'b' * 64} *openwrt-sdk-{name}\n{'a' * 64} *{name}\n{'c' * 64} *config.buildinfo\n"
    found = find_archive(sums, parse_release(version), TARGET)
    assert found is not None
    assert (found.digest, found.path.rpartition("/")[2]) == ("a" * 64, name)
    assert found.is_zstd is name.endswith("zst")


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"{'a' * 64} *openwrt-imagebuilder-24.10.4-x86-64.Linux-x86_64.tar.zst",
        f"{'a' * 64} *openwrt-imagebuilder-24.10.5-x86-generic.Linux-x86_64.tar.zst",
        f"{'a' * 64} *openwrt-imagebuilder-24x10.5-x86-64.Linux-x86_64.tar.zst",
        f"{'a' * 64} *openwrt-imagebuilder-24.10.5-x86-64.Linux-aarch64.tar.zst",
        f"{'a' * 64} *../{NAME}",
        f"{'a' * 63} *{NAME}",
        f"{'A' * 64} *{NAME}",
    ],
)
def test_a_list_that_was_signed_for_something_else_names_none(line: str) -> None:
    assert find_archive(f"{line}\n", RELEASE, TARGET) is None


# --- what is believed ------------------------------------------------------------


class Trusting:
    """Believes everything."""

    def __contains__(self, line: object) -> bool:
        return True

    def is_signed(self, line: str, message: bytes, signature: bytes) -> bool:
        return True


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return make_key()


@pytest.fixture
def mirror(tmp_path: Path, key: SecretKey) -> Iterator[DownloadServer]:
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    sign(folder, f"{DIGEST} *{NAME}\n".encode(), key)
    with DownloadServer(tmp_path) as server:
        yield server


def sign(folder: Path, sums: bytes, key: SecretKey) -> None:
    (folder / "sha256sums").write_bytes(sums)
    (folder / "sha256sums.sig").write_text(key.sign(sums).text())


def open_with(mirror: DownloadServer, key: SecretKey, line: str = "24.10") -> ArchiveSource:
    settings = Settings(
        upstream_url=mirror.url, imagebuilder_keys={line: key.public.text()}, imagebuilder_base="base:1"
    )
    archives = open_archives(settings)
    assert archives is not None
    return archives


def fetch(archives: ArchiveSource, ends: float = FAR, stop: Event | None = None) -> bytes:
    archive = archives.find(RELEASE, TARGET)
    assert archive is not None
    chunks: list[bytes] = []
    archives.fetch(archive, chunks.append, stop=stop or Event(), ends=ends)
    return b"".join(chunks)


def test_an_archive_is_fetched_by_its_signed_checksum(mirror: DownloadServer, key: SecretKey) -> None:
    archives = open_with(mirror, key)
    assert fetch(archives) == CONTENT
    assert fetch(archives) == CONTENT
    assert mirror.requests[f"/{FOLDER}/sha256sums"] == 1, "it was seen a moment ago"


def test_a_list_is_read_again_after_a_quarter_of_an_hour(mirror: DownloadServer, key: SecretKey) -> None:
    now = 0.0
    archives = ImageBuilderArchives(Settings(upstream_url=mirror.url), Trusting(), clock=lambda: now)
    archives.find(RELEASE, TARGET)
    now += timedelta(minutes=14).total_seconds()
    archives.find(RELEASE, TARGET)
    assert mirror.requests[f"/{FOLDER}/sha256sums"] == 1
    now += timedelta(minutes=2).total_seconds()
    archives.find(RELEASE, TARGET)
    assert mirror.requests[f"/{FOLDER}/sha256sums"] == 2


def test_without_a_key_for_the_line_nothing_is_asked(mirror: DownloadServer, key: SecretKey) -> None:
    with pytest.raises(ArchiveRefused, match=r"imagebuilder_keys has no key for 24\.10"):
        open_with(mirror, key, "23.05").find(RELEASE, TARGET)
    assert not mirror.requests


def test_a_target_without_an_archive_or_without_a_list_has_none(
    mirror: DownloadServer, key: SecretKey, tmp_path: Path
) -> None:
    assert open_with(mirror, key).find(RELEASE, "pico/nine") is None
    sign(tmp_path / FOLDER, b"", key)
    assert open_with(mirror, key).find(RELEASE, TARGET) is None


@pytest.mark.parametrize("wrong", ["another key", "another text", "no signature", "half a signature", "none"])
def test_a_list_without_a_signature_that_holds_is_not_believed(
    mirror: DownloadServer, key: SecretKey, tmp_path: Path, wrong: str
) -> None:
    sums, signature = tmp_path / FOLDER / "sha256sums", tmp_path / FOLDER / "sha256sums.sig"
    match wrong:
        case "another key":
            sign(tmp_path / FOLDER, sums.read_bytes(), make_key())
        case "another text":
            sums.write_bytes(sums.read_bytes().replace(b"a", b"b"))
        case "no signature":
            signature.write_bytes(b"<html>not found</html>")
        case "half a signature":
            signature.write_bytes(signature.read_bytes()[:80])
        case _:
            signature.unlink()
    with pytest.raises(ArchiveRefused, match=r"is not signed by the key|has no signature"):
        open_with(mirror, key).find(RELEASE, TARGET)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""])
def test_an_archive_with_another_checksum_is_refused_and_its_list_read_again(
    mirror: DownloadServer, key: SecretKey, tmp_path: Path, content: bytes
) -> None:
    archives = open_with(mirror, key)
    (tmp_path / FOLDER / NAME).write_bytes(content)
    with pytest.raises(ArchiveRefused, match="another checksum than its list says, or was cut off"):
        fetch(archives)
    sign(tmp_path / FOLDER, f"{hashlib.sha256(content).hexdigest()} *{NAME}\n".encode(), key)
    assert fetch(archives) == content


def test_an_archive_that_is_too_large_is_not_read_to_its_end(mirror: DownloadServer) -> None:
    archives = ImageBuilderArchives(
        Settings(upstream_url=mirror.url), Trusting(), most_bytes=len(CONTENT) - 1
    )
    with pytest.raises(ArchiveRefused, match="is larger than 0 MiB"):
        fetch(archives)


def test_a_stop_and_a_deadline_end_a_download(mirror: DownloadServer, key: SecretKey) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(BuildInterrupted):
        fetch(open_with(mirror, key), stop=stop)
    with pytest.raises(UpstreamUnavailable, match="did not arrive in time"):
        fetch(open_with(mirror, key), ends=time.monotonic() - 1)


def test_a_server_that_fails_is_the_world_s(mirror: DownloadServer, key: SecretKey, tmp_path: Path) -> None:
    archives = open_with(mirror, key)
    archive = archives.find(RELEASE, TARGET)
    assert archive is not None
    (tmp_path / FOLDER / NAME).unlink()
    with pytest.raises(UpstreamUnavailable, match="answered 404"):
        archives.fetch(archive, lambda _: None, stop=Event(), ends=FAR)
    mirror.broken = True
    with pytest.raises(UpstreamUnavailable, match="answered 500"):
        open_with(mirror, key).find(RELEASE, TARGET)


# --- keys ------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "one line", "file"])
def test_a_key_is_a_text_its_second_line_or_a_file(
    mirror: DownloadServer, key: SecretKey, tmp_path: Path, form: str
) -> None:
    text = key.public.text()
    (tmp_path / "key.pub").write_text(text)
    value = {"text": text, "one line": text.splitlines()[1], "file": str(tmp_path / "key.pub")}[form]
    settings = Settings(
        upstream_url=mirror.url, imagebuilder_keys={"24.10": value}, imagebuilder_base="base:1"
    )
    archives = open_archives(settings)
    assert archives is not None and fetch(archives) == CONTENT


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("/nowhere/at/all", "it cannot be read: No such file or directory"),
        ("RWQ", "it is nothing that usign has written"),
        (make_key().text(), "it is a secret key"),
    ],
)
def test_what_is_no_public_key_stops_the_start(value: str, sentence: str) -> None:
    with pytest.raises(SettingsProblem) as problem:
        open_archives(Settings(imagebuilder_keys={"24.10": value}, imagebuilder_base="base:1"))
    assert str(problem.value) == f"imagebuilder_keys.24.10: {sentence}"


def test_without_keys_there_is_no_source() -> None:
    assert open_archives(Settings()) is None
