"""Indexes are compared with their server, served while it is down, and one copy serves a whole build."""

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from adb_writer import index, package, packages_text
from asu_builder.package_cache.build_files import FRESH, SNAPSHOT_STALE, STALE, BuildFiles, IndexCopies
from asu_builder.package_cache.shelf import PackageCache, Shelf
from asu_builder.proxy.fetching import Failed, Stream

FEED = "https://downloads.example.org/releases/24.10.1/packages/mips_24kc/base"
SNAPSHOTS = "https://downloads.example.org/snapshots/packages/mips_24kc/base"
VIM = b"the vim package"


def packages(content: bytes = VIM) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    named = {"Package": "vim", "Version": "1", "Filename": "vim.ipk", "SHA256sum": digest}
    return gzip.compress(packages_text({**named, "Size": str(len(content))}), mtime=0)


def settle() -> None:
    """Returns when no package is on its way any more."""
    for thread in threading.enumerate():
        if thread.name == "package":
            thread.join(60)


class Mirror:
    """Files by address, told by entity tags; what it was asked, and whether it was the same."""

    def __init__(self, **files: bytes) -> None:
        self.files = {f"{FEED}/{name.replace('_', '.')}": body for name, body in files.items()}
        self.asked: list[str] = []
        self.status = 0
        self.is_down = False
        self.tells_tags = True

    def ask_for(self, address: str) -> "Asking":
        return Asking(self, address)


class Asking:
    def __init__(self, mirror: Mirror, address: str) -> None:
        self.mirror = mirror
        self.address = address

    def __call__(self, headers: Mapping[str, str]) -> Stream:
        mirror = self.mirror
        mirror.asked.append(self.address.rpartition("/")[2])
        if mirror.is_down:
            raise Failed("it does not answer")
        body = mirror.files.get(self.address)
        status = mirror.status or (404 if body is None else 200)
        if body is None or status != 200:
            return Stream(status, {}, 2, iter([b"no"]))
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"' if mirror.tells_tags else ""
        if tag and headers.get("if-none-match") == tag:
            mirror.asked[-1] += " unchanged"
            return Stream(304, {}, 0, iter(()))
        return Stream(200, {"etag": tag}, len(body), iter([body[:5], body[5:]]))


class Clock:
    """Both clocks of the copies."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def now(self) -> float:
        return time.time() + self.passed.total_seconds()

    def monotonic(self) -> float:
        return 1000 + self.passed.total_seconds()


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.mirror = Mirror(Packages_gz=packages(), Packages_sig=b"untrusted comment: x\n", vim_ipk=VIM)
        self.told: list[str] = []
        self.cache = PackageCache(Shelf(root / "packages", 1 << 20))
        self.restart()

    def restart(self) -> None:
        shelf = Shelf(self.root / "indexes", 1 << 20)
        self.copies = IndexCopies(shelf, now=self.clock.now, monotonic=self.clock.monotonic)

    def build(self) -> BuildFiles:
        return BuildFiles(self.cache, self.copies, log_line=self.told.append)

    def read(self, build: BuildFiles, name: str = "Packages.gz", feed: str = FEED) -> tuple[int, bytes, bool]:
        address = f"{feed}/{name}"
        stream = build.fetch(address, self.mirror.ask_for(address))
        try:
            return stream.status, b"".join(stream.chunks), stream.is_cached
        finally:
            stream.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_index_is_compared_after_half_a_minute(world: World) -> None:
    assert world.read(world.build()) == (200, packages(), False)
    assert world.read(world.build()) == (200, packages(), True)
    assert world.mirror.asked == ["Packages.gz"]
    world.clock.passed += FRESH
    assert world.read(world.build()) == (200, packages(), True)
    assert world.mirror.asked == ["Packages.gz", "Packages.gz unchanged"]
    world.mirror.files[f"{FEED}/Packages.gz"] = packages(b"newer")
    assert world.read(world.build())[1] == packages()
    world.clock.passed += FRESH
    assert world.read(world.build()) == (200, packages(b"newer"), False)


def test_all_goals_of_one_build_see_the_same_copy(world: World) -> None:
    build = world.build()
    world.read(build)
    world.mirror.files[f"{FEED}/Packages.gz"] = packages(b"newer")
    world.clock.passed += timedelta(hours=1)
    assert world.read(build) == (200, packages(), True)
    assert world.read(world.build()) == (200, packages(b"newer"), False)
    assert world.read(build)[1] == packages()


def test_a_server_without_tags_is_asked_for_the_whole(world: World) -> None:
    world.mirror.tells_tags = False
    for _ in range(2):
        assert world.read(world.build()) == (200, packages(), False)
        world.clock.passed += FRESH
    assert world.mirror.asked == ["Packages.gz", "Packages.gz"]


def test_a_package_is_kept_by_what_the_index_of_this_build_promises(world: World) -> None:
    for is_cached in (False, True):
        build = world.build()
        world.read(build)
        assert world.read(build, "vim.ipk") == (200, VIM, is_cached)
        settle()
    # No index promises it to a build that has read none.
    assert world.read(world.build(), "vim.ipk") == (200, VIM, False)


def test_names_in_addresses_may_be_encoded(world: World) -> None:
    odd = {"Package": "g++", "Version": "1~2", "Filename": "g++_1~2.ipk", "Size": str(len(VIM))}
    digest = hashlib.sha256(VIM).hexdigest()
    world.mirror.files[f"{FEED}/Packages"] = packages_text({**odd, "SHA256sum": digest})
    world.mirror.files[f"{FEED}/g%2B%2B_1%7E2.ipk"] = VIM
    build = world.build()
    world.read(build, "Packages")
    world.read(build, "g%2B%2B_1%7E2.ipk")
    settle()
    assert world.read(build, "g%2B%2B_1%7E2.ipk")[2]


def test_builds_complete_while_the_server_is_down(world: World) -> None:
    first = world.build()
    for name in ("Packages.gz", "Packages.sig", "vim.ipk"):
        world.read(first, name)
    settle()
    world.mirror.is_down = True
    world.clock.passed += timedelta(days=29)
    world.restart()
    second = world.build()
    for name in ("Packages.gz", "Packages.sig", "vim.ipk"):
        assert world.read(second, name)[0::2] == (200, True)
    assert any("cannot be compared: it does not answer" in told for told in world.told)
    # Once it has failed it is not asked for each file.
    assert world.mirror.asked[3:] == ["Packages.gz"]
    world.clock.passed += timedelta(minutes=1)
    world.mirror.is_down = False
    assert world.read(world.build())[2] and world.mirror.asked[-1] == "Packages.gz unchanged"


@pytest.mark.parametrize(("feed", "bound"), [(FEED, STALE), (SNAPSHOTS, SNAPSHOT_STALE)])
def test_a_copy_serves_only_so_long_without_its_server(world: World, feed: str, bound: timedelta) -> None:
    world.mirror.files[f"{feed}/Packages.gz"] = packages()
    world.read(world.build(), feed=feed)
    world.mirror.is_down = True
    world.clock.passed += bound - timedelta(minutes=1)
    assert world.read(world.build(), feed=feed)[0] == 200
    world.clock.passed += timedelta(minutes=2)
    with pytest.raises(Failed):
        world.read(world.build(), feed=feed)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_has_trouble_is_a_server_that_is_down(world: World, status: int) -> None:
    world.read(world.build())
    world.clock.passed += FRESH
    world.mirror.status = status
    assert world.read(world.build()) == (200, packages(), True)


@pytest.mark.parametrize("status", [403, 404])
def test_an_index_that_is_gone_is_gone(world: World, status: int) -> None:
    world.read(world.build())
    world.clock.passed += FRESH
    world.mirror.status = status
    assert world.read(world.build()) == (status, b"no", False)


def test_an_index_that_breaks_off_is_the_one_of_before(world: World) -> None:
    world.read(world.build())
    world.clock.passed += FRESH

    def ask(headers: Mapping[str, str]) -> Stream:
        def pieces() -> Iterator[bytes]:
            yield b"half"
            raise Failed("it broke off")

        return Stream(200, {}, None, pieces())

    stream = world.build().fetch(f"{FEED}/Packages.gz", ask)
    assert b"".join(stream.chunks) == packages()
    with pytest.raises(Failed, match="broke off"):
        world.build().fetch(f"{FEED}/packages.adb", ask)


def test_an_index_that_cannot_be_read_does_not_take_the_place_of_a_good_one(world: World) -> None:
    world.read(world.build())
    world.clock.passed += FRESH
    portal = b"<html>please log in</html>" * 1000
    for name in ("Packages.gz", "Packages.sig", "packages.adb"):
        world.mirror.files[f"{FEED}/{name}"] = portal
        assert world.read(world.build(), name) == (200, portal, False)
    world.mirror.is_down = True
    assert world.read(world.build())[1] == packages()
    with pytest.raises(Failed):
        world.read(world.build(), "packages.adb")


def test_a_copy_that_is_spoilt_on_the_disk_is_fetched_again(world: World) -> None:
    for spoil in (b"", b"{}\n", b"[]\n", b'{"digest": "x"}\nbody', b"\xff\xff\n\xff"):
        world.read(world.build())
        (copy,) = (world.root / "indexes").iterdir()
        copy.write_bytes(spoil)
        world.mirror.asked.clear()
        assert world.read(world.build()) == (200, packages(), False)
        assert world.mirror.asked == ["Packages.gz"]
    content = copy.read_bytes()
    assert json.loads(content.partition(b"\n")[0])["address"] == f"{FEED}/Packages.gz"
    copy.write_bytes(content[:-1])
    assert world.read(world.build()) == (200, packages(), False)


def test_what_a_build_has_read_is_dropped_with_its_indexes(world: World) -> None:
    build, other = world.build(), world.build()
    for name in ("Packages.gz", "vim.ipk"):
        world.read(build, name)
        world.read(other, name)
    settle()
    build.drop()
    assert not [*(world.root / "packages").iterdir(), *(world.root / "indexes").iterdir()]
    world.mirror.asked.clear()
    again = world.build()
    assert [world.read(again, name)[2] for name in ("Packages.gz", "vim.ipk")] == [False, False]


def test_a_foreign_index_promises_nothing_of_the_official_files(world: World) -> None:
    foreign = "https://feed.example.org/vim"
    world.mirror.files[f"{foreign}/Packages.gz"] = packages(b"evil package!!!")
    world.mirror.files[f"{foreign}/vim.ipk"] = b"evil package!!!"
    build = world.build()
    for feed, content in ((foreign, b"evil package!!!"), (FEED, VIM)):
        world.read(build, feed=feed)
        assert world.read(build, "vim.ipk", feed) == (200, content, False)


def test_an_index_of_apk_is_one_too(world: World) -> None:
    data = index(package(name="vim", version="1", hash=hashlib.sha256(VIM).digest(), size=len(VIM)))
    world.mirror.files |= {f"{FEED}/packages.adb": data, f"{FEED}/vim-1.apk": VIM}
    for is_cached in (False, True):
        build = world.build()
        assert world.read(build, "packages.adb") == (200, data, is_cached)
        assert world.read(build, "vim-1.apk") == (200, VIM, is_cached)
        settle()


def test_other_files_are_never_kept(world: World) -> None:
    world.mirror.files[f"{FEED}/sha256sums"] = b"sums"
    build = world.build()
    world.read(build)
    for _ in range(2):
        assert world.read(build, "sha256sums") == (200, b"sums", False)
