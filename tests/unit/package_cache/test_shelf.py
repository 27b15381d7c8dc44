"""The package cache: one download for all, nothing shared that was not promised, and disks that fail."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from adb_writer import package_file, package_metadata
from asu_builder.domain.package_index import PackageManager
from asu_builder.package_cache.promises import Promised
from asu_builder.package_cache.shelf import PackageCache, Part, Shelf, key_of
from asu_builder.proxy.fetching import Failed, Stream

ADDRESS = "https://downloads.example.org/feed/vim_1.ipk"
BODY = bytes(range(256)) * 1000


def promise(body: bytes = BODY) -> Promised:
    return Promised(PackageManager.OPKG, hashlib.sha256(body).hexdigest(), len(body))


class Server:
    """Answers and counts; a gate lets pieces through one by one."""

    def __init__(self, body: bytes = BODY, *, status: int = 200, tells_length: bool = True) -> None:
        self.body = body
        self.status = status
        self.tells_length = tells_length
        self.asked = 0
        self.closed = 0
        self.breaks_at: int | None = None
        self.gate: threading.Semaphore | None = None
        self.is_down = False

    def ask(self, headers: Mapping[str, str]) -> Stream:
        self.asked += 1
        if self.is_down:
            raise Failed("it does not answer")
        return Stream(
            self.status, {}, len(self.body) if self.tells_length else None, self._pieces(), close=self._close
        )

    def _pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self.body), 10_000):
            if self.gate is not None:
                assert self.gate.acquire(timeout=60)
            if self.breaks_at is not None and start >= self.breaks_at:
                raise Failed("it broke off")
            yield self.body[start : start + 10_000]

    def _close(self) -> None:
        self.closed += 1


def read(stream: Stream) -> bytes:
    try:
        return b"".join(stream.chunks)
    finally:
        stream.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "packages", 10 << 20)


@pytest.fixture
def cache(shelf: Shelf) -> PackageCache:
    return PackageCache(shelf)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], list[str]]:
    """What lies in the directory."""
    return lambda: sorted(path.name for path in (tmp_path / "packages").glob("*"))


def settled(cache: PackageCache) -> None:
    """Returns when nothing is on its way any more."""
    for thread in threading.enumerate():
        if thread.name == "package":
            thread.join(60)


def fetch(cache: PackageCache, server: Server, address: str = ADDRESS, body: bytes = BODY) -> bytes:
    found = read(cache.fetch(address, promise(body), server.ask))
    settled(cache)
    return found


def test_a_package_is_fetched_once(cache: PackageCache) -> None:
    server = Server()
    first = cache.fetch(ADDRESS, promise(), server.ask)
    assert not first.is_cached and read(first) == BODY
    settled(cache)
    second = cache.fetch(ADDRESS, promise(), server.ask)
    assert second.is_cached and second.length == len(BODY) and read(second) == BODY
    assert (server.asked, server.closed) == (1, 1)


def test_it_is_still_there_after_a_restart(cache: PackageCache, tmp_path: Path) -> None:
    server = Server()
    fetch(cache, server)
    assert fetch(PackageCache(Shelf(tmp_path / "packages", 10 << 20)), server) == BODY
    assert server.asked == 1


def test_another_address_another_hash_or_another_size_is_another_package(cache: PackageCache) -> None:
    fetch(cache, Server())
    other = Server()
    fetch(cache, other, "https://feed.example.org/vim_1.ipk")
    assert other.asked == 1
    assert len({key_of(ADDRESS, promise()), key_of(ADDRESS, promise(b"x")), key_of("y", promise())}) == 3


def test_all_who_wait_get_one_download_while_it_comes(cache: PackageCache) -> None:
    server = Server()
    server.gate = threading.Semaphore(1)
    first = cache.fetch(ADDRESS, promise(), server.ask)
    assert next(first.chunks) == BODY[:10_000]
    others = [cache.fetch(ADDRESS, promise(), server.ask) for _ in range(5)]
    # Before the rest has come, each of them has the beginning.
    assert {next(other.chunks) for other in others} == {BODY[:10_000]}
    server.gate.release(1000)
    with ThreadPoolExecutor(6) as pool:
        rests = list(pool.map(read, [first, *others]))
    assert set(rests) == {BODY[10_000:]} and server.asked == 1
    assert [other.is_cached for other in others] == [True] * 5


def test_others_go_on_when_the_first_one_leaves(cache: PackageCache) -> None:
    server = Server()
    server.gate = threading.Semaphore(1)
    first = cache.fetch(ADDRESS, promise(), server.ask)
    next(first.chunks)
    other = cache.fetch(ADDRESS, promise(), server.ask)
    first.close()
    server.gate.release(1000)
    assert read(other) == BODY and server.asked == 1
    settled(cache)
    assert fetch(cache, server) == BODY and server.asked == 1


def test_a_download_that_nobody_reads_is_stopped(cache: PackageCache, files: Callable[[], list[str]]) -> None:
    server = Server()
    server.gate = threading.Semaphore(1)
    first = cache.fetch(ADDRESS, promise(), server.ask)
    next(first.chunks)
    first.close()
    server.gate.release(2)
    settled(cache)
    assert server.closed == 1 and files() == []
    server.gate.release(1000)
    assert fetch(cache, server) == BODY and server.asked == 2


@pytest.mark.parametrize(
    ("sent", "why"),
    [(BODY[:-1] + b"x", "another digest"), (b"y" * len(BODY), "another digest")],
    ids=["one byte", "all bytes"],
)
def test_a_wrong_package_goes_to_who_asked_and_is_not_kept(
    cache: PackageCache,
    files: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    why: str,
) -> None:
    server = Server(sent)
    assert fetch(cache, server) == sent
    assert files() == [] and why in caplog.text
    good = Server()
    assert fetch(cache, good) == BODY and good.asked == 1


def test_official_metadata_with_other_data_is_not_kept(
    cache: PackageCache, files: Callable[[], list[str]]
) -> None:
    """An allowed foreign repository offers a package that has apk's digest of the official one."""
    good, evil = {"usr/bin": {"vim": b"good"}}, {"usr/bin": {"vim": b"evil"}}
    metadata = package_metadata(good)
    official, poisoned = package_file(metadata, good), package_file(metadata, evil)
    assert len(official) == len(poisoned)
    promised = Promised(PackageManager.APK, hashlib.sha256(metadata).hexdigest(), len(official))
    foreign = "https://feed.example.org/vim-9.1-r1.apk"
    assert read(cache.fetch(foreign, promised, Server(poisoned).ask)) == poisoned
    settled(cache)
    assert files() == []
    for address in (ADDRESS, foreign):
        assert read(cache.fetch(address, promised, Server(official).ask)) == official
        settled(cache)
    assert len(files()) == 2


@pytest.mark.parametrize("tells_length", [True, False])
def test_half_a_package_breaks_off_and_is_not_kept(
    cache: PackageCache, files: Callable[[], list[str]], tells_length: bool
) -> None:
    server = Server(tells_length=tells_length)
    server.breaks_at = 100_000
    stream = cache.fetch(ADDRESS, promise(), server.ask)
    assert b"".join(next(stream.chunks) for _ in range(1))
    with pytest.raises(Failed, match="broke off"):
        read(stream)
    settled(cache)
    assert files() == []


@pytest.mark.parametrize(
    ("body", "why"), [(BODY[:1000], "shorter than its index says"), (BODY + b"more", "longer than")]
)
def test_a_body_of_another_length_than_promised_fails_where_the_server_tells_none(
    cache: PackageCache, files: Callable[[], list[str]], body: bytes, why: str
) -> None:
    stream = cache.fetch(ADDRESS, promise(), Server(body, tells_length=False).ask)
    with pytest.raises(Failed, match=why):
        read(stream)
    settled(cache)
    assert files() == []


def test_a_file_of_another_length_is_passed_on_as_it_is(
    cache: PackageCache, files: Callable[[], list[str]]
) -> None:
    """A snapshot has moved on: its package manager says what that means."""
    assert fetch(cache, Server(b"newer")) == b"newer" and files() == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_is_no_package_is_passed_on_and_not_kept(
    cache: PackageCache, files: Callable[[], list[str]], status: int
) -> None:
    server = Server(b"no", status=status)
    for asked in (1, 2):
        stream = cache.fetch(ADDRESS, promise(), server.ask)
        assert (stream.status, read(stream)) == (status, b"no") and server.asked == asked
    assert files() == []


def test_a_server_that_does_not_answer_is_told_to_who_asked(cache: PackageCache) -> None:
    server = Server()
    server.is_down = True
    with pytest.raises(Failed, match="does not answer"):
        cache.fetch(ADDRESS, promise(), server.ask)
    server.is_down = False
    assert fetch(cache, server) == BODY


def test_who_waits_asks_itself_where_the_first_one_fails(cache: PackageCache) -> None:
    """The first one may have met limits of its own."""
    entered, leave = threading.Event(), threading.Event()

    def refused(headers: Mapping[str, str]) -> Stream:
        entered.set()
        assert leave.wait(60)
        raise PermissionError("this build may not")

    server = Server()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.fetch, ADDRESS, promise(), refused)
        assert entered.wait(60)
        second = pool.submit(lambda: read(cache.fetch(ADDRESS, promise(), server.ask)))
        leave.set()
        with pytest.raises(PermissionError):
            first.result()
        assert second.result() == BODY and server.asked == 1


def test_who_waits_goes_on_by_itself_where_the_first_one_breaks_off(cache: PackageCache) -> None:
    broken, whole = Server(), Server()
    broken.gate, broken.breaks_at = threading.Semaphore(1), 20_000
    first = cache.fetch(ADDRESS, promise(), broken.ask)
    second = cache.fetch(ADDRESS, promise(), whole.ask)
    assert next(second.chunks) == BODY[:10_000]
    broken.gate.release(1000)
    with pytest.raises(Failed):
        read(first)
    assert read(second) == BODY[10_000:] and whole.asked == 1


def test_the_rest_may_be_refused_to_who_goes_on_by_itself(cache: PackageCache) -> None:
    broken = Server()
    broken.gate, broken.breaks_at = threading.Semaphore(1), 20_000
    first = cache.fetch(ADDRESS, promise(), broken.ask)
    second = cache.fetch(ADDRESS, promise(), Server(status=404).ask)
    assert next(second.chunks) == BODY[:10_000]
    broken.gate.release(1000)
    with pytest.raises(Failed, match="404"):
        read(second)
    with pytest.raises(Failed, match="broke off"):
        read(first)


def test_what_a_package_manager_has_refused_is_forgotten(
    cache: PackageCache, files: Callable[[], list[str]]
) -> None:
    server = Server()
    fetch(cache, server)
    cache.drop(ADDRESS, promise())
    assert files() == []
    server.gate = threading.Semaphore(1)
    on_its_way = cache.fetch(ADDRESS, promise(), server.ask)
    cache.drop(ADDRESS, promise())
    server.gate.release(1000)
    assert read(on_its_way) == BODY
    settled(cache)
    assert files() == []


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "packages", 5000)
    cache = PackageCache(shelf)
    bodies = [bytes([number]) * 1500 for number in range(3)]
    for number, body in enumerate(bodies):
        fetch(cache, Server(body), str(number), body)
        os.utime(tmp_path / "packages" / key_of(str(number), promise(body)), (number, number))
    # The first is used again; then there is no room for a fourth one.
    fetch(cache, Server(b""), "0", bodies[0])
    fetch(cache, Server(b"z" * 1500), "3", b"z" * 1500)
    left = {path.name for path in (tmp_path / "packages").iterdir()}
    kept = {key_of("0", promise(bodies[0])), key_of("3", promise(b"z" * 1500))}
    assert kept <= left and key_of("1", promise(bodies[1])) not in left
    assert sum(path.stat().st_size for path in (tmp_path / "packages").iterdir()) <= 5000


def test_what_is_larger_than_the_budget_is_not_kept(tmp_path: Path) -> None:
    for most in (0, len(BODY) - 1):
        cache = PackageCache(Shelf(tmp_path / "packages", most))
        server = Server()
        assert [fetch(cache, server), fetch(cache, server)] == [BODY, BODY] and server.asked == 2
    assert not (tmp_path / "packages").exists()


def test_a_crash_in_mid_write_leaves_nothing_behind(
    shelf: Shelf, tmp_path: Path, files: Callable[[], list[str]]
) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    dead = folder / ".part-0123456789abcdef"
    dead.write_bytes(b"half")
    os.utime(dead, (1, 1))
    # A name without its content, as a power cut may leave it.
    (folder / key_of(ADDRESS, promise())).write_bytes(b"")
    alive = shelf.begin(10)
    assert alive is not None and dead.name not in files()
    cache = PackageCache(Shelf(folder, 10 << 20))
    server = Server()
    assert fetch(cache, server) == BODY and server.asked == 1
    # What another process still writes is left alone.
    assert alive.path.name in files()
    alive.discard()
    assert files() == [key_of(ADDRESS, promise())]


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full:
    """A file that takes some bytes, and then no more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.close = file.close
        self.flush = file.flush

    def write(self, piece: bytes) -> int:
        return full() if self.file.tell() > 30_000 else self.file.write(piece)


@pytest.mark.parametrize("fails", ["statvfs", "write", "fsync", "mkdir"])
def test_builds_go_on_without_a_disk(
    cache: PackageCache,
    files: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails: str,
) -> None:
    if fails == "write":
        begin = Shelf.begin

        def begin_on_a_full_disk(shelf: Shelf, size: int) -> Part | None:
            part = begin(shelf, size)
            if part is not None:
                monkeypatch.setattr(part, "file", Full(part.file))
            return part

        monkeypatch.setattr(Shelf, "begin", begin_on_a_full_disk)
    elif fails == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    else:
        monkeypatch.setattr(os, fails, full)
    server = Server()
    assert [fetch(cache, server), fetch(cache, server)] == [BODY, BODY]
    assert caplog.text.count("are not kept in") == 1, "it is said once a minute"
    monkeypatch.undo()
    assert files() == []
    assert fetch(cache, server) == BODY and len(files()) == 1


def test_the_floor_of_the_disk_is_left_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = PackageCache(Shelf(tmp_path / "packages", 10 << 20, floor=1 << 60))
    assert fetch(cache, Server()) == BODY
    assert "No space left" in caplog.text


def test_a_broken_disk_is_no_reason_to_fail(cache: PackageCache, tmp_path: Path) -> None:
    (tmp_path / "packages").write_text("a file where the directory should be")
    assert fetch(cache, Server()) == BODY


def test_many_builds_at_once_get_what_they_asked_for(cache: PackageCache, tmp_path: Path) -> None:
    bodies = [os.urandom(50_000) for _ in range(8)]
    servers = [Server(body) for body in bodies]

    def one(number: int) -> bool:
        which = number % len(bodies)
        body = read(cache.fetch(str(which), promise(bodies[which]), servers[which].ask))
        return body == bodies[which]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(200)))
    settled(cache)
    assert [server.asked for server in servers] == [1] * 8
