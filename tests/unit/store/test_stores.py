"""The local disk's own: files that are none, locks between processes, crashes, disks that are full."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from asu_builder.domain.errors import StillRead, StoreFull, StoreUnavailable, Unavailable
from asu_builder.domain.health import CheckResult
from asu_builder.files import lock_alone, locked, locked_with_others, opened
from asu_builder.store.local import LocalStore
from factories import eventually
from tools import require_tool, tool_missing

HASH, OTHER = "a" * 64, "b" * 64


def a_store(root: Path, floor: int = 0) -> LocalStore:
    return LocalStore(root, installation="ours", floor=floor)


def publish(store: LocalStore, text: str = "image", request_hash: str = HASH) -> None:
    with store.scratch() as scratch:
        images = scratch / "images"
        images.mkdir()
        (images / "x.bin").write_text(text)
        store.publish(request_hash, images)


@contextlib.contextmanager
def another_process(root: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `body` with a `store` on the same place until it has printed a line; then it is yielded."""
    program = (
        "import os, pathlib, shutil, sys\nfrom asu_builder.store.local import LocalStore\n"
        f"HASH = '{HASH}'\nstore = LocalStore(pathlib.Path(sys.argv[1]), installation='ours', floor=0)\n"
        "def wait(*_, **__):\n    print('here', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program + body, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def entries(root: Path) -> list[str]:
    """What lies in a store and among its scratch directories, apart from its lock and its mark."""
    places = [*root.iterdir(), *(root / ".staging").glob("*")]
    return sorted(path.name for path in places if path.name not in (".lock", ".staging", ".store-of-ours"))


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (HASH, ".."), (HASH, "."), (HASH, ""), (HASH, "../x"), (HASH, "a/b"), (HASH, "link"),
        (HASH, "folder"), (HASH, "x.bin\n"), (HASH, "x\0"), (HASH, "y" * 300), (HASH, "pipe"),
        (HASH, ".installation"), ("..", "secret"),
        ("c" * 64, "secret"), (HASH.upper(), "x.bin"), ("", "secret"),
    ],
)  # fmt: skip
def test_there_is_no_way_out_of_the_store(tmp_path: Path, directory: str, name: str) -> None:
    store = a_store(tmp_path / "store")
    publish(store)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / HASH / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / HASH / "folder").mkdir()
    os.mkfifo(tmp_path / "store" / HASH / "pipe")
    (tmp_path / "store" / ("c" * 64)).symlink_to(tmp_path)
    assert store.locate(directory, name) is None


def test_a_published_directory_carries_a_plain_mark_and_can_be_read_by_all(tmp_path: Path) -> None:
    publish(a_store(tmp_path))
    assert (tmp_path / HASH / ".installation").read_text() == "ours\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / HASH).iterdir()}
    assert modes == {".installation": 0o644, "x.bin": 0o644}
    assert (tmp_path / HASH).stat().st_mode & 0o777 == 0o755


def test_scratch_and_removed_directories_leave_nothing(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.scratch():
        pass
    publish(store)
    publish(store)
    store.remove(HASH)
    assert entries(tmp_path) == []


def _put(root: Path, name: str, mark: str | None) -> Path:
    (root / name).mkdir()
    (root / name / "x.bin").write_text("theirs")
    if mark is not None:
        (root / name / ".installation").write_text(mark)
    return root / name / "x.bin"


def test_what_others_have_put_beside_ours_is_served_but_never_ours_nor_removed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store)
    predecessors = _put(tmp_path, "1" * 64, None)
    others = _put(tmp_path, "2" * 64, "another\n")
    cut = _put(tmp_path, "3" * 64, "our")
    short = _put(tmp_path, "4" * 24, "ours\n")
    (tmp_path / ("5" * 64)).symlink_to(tmp_path / HASH)
    (tmp_path / ("6" * 64)).write_text("a file")
    (tmp_path / ("7" * 64)).mkdir()
    (tmp_path / ("7" * 64) / ".installation").mkdir()
    assert [name for name in entries(tmp_path) if store.owns(name)] == [HASH]
    for name in entries(tmp_path):
        if name != HASH:
            store.remove(name)
    assert all(path.read_text() == "theirs" for path in (predecessors, others, cut, short))
    assert len(entries(tmp_path)) == 8
    assert store.locate("1" * 64, "x.bin") == predecessors


def test_what_is_published_is_listed_bit_by_bit(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    listing = iter(store.published())
    publish(store)  # after the call: nothing has been read before somebody asks
    assert next(listing) == HASH


class Listing:
    """Counts what is listed of directories: how many entries of each, and how many are in memory at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[str] = Counter()
        self.alive = self.most_alive = 0
        self._scandir = os.scandir
        monkeypatch.setattr("asu_builder.store.local.os.scandir", self._list)

    def _list(self, folder: Path | int) -> AbstractContextManager[Iterator[Any]]:
        # Whoever deletes a tree lists it by its descriptor.
        return self._noted(folder) if isinstance(folder, Path) else self._scandir(folder)

    @contextlib.contextmanager
    def _noted(self, folder: Path) -> Iterator[Iterator["Entry"]]:
        with self._scandir(folder) as entries:
            yield (Entry(entry.name, self, folder) for entry in entries)


class Entry:
    """An entry of a listing."""

    def __init__(self, name: str, listing: Listing, folder: Path) -> None:
        self.name, self._listing = name, listing
        listing.seen[folder.name] += 1
        listing.alive += 1
        listing.most_alive = max(listing.most_alive, listing.alive)

    def __del__(self) -> None:
        self._listing.alive -= 1


def test_ten_thousand_results_are_listed_once_for_what_was_left_and_never_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    with store.scratch():
        pass
    for number in range(10_000):
        (tmp_path / f"{number:064x}").mkdir()
    listing = Listing(monkeypatch)
    (tmp_path / ".scratch-by-a-former-version").mkdir()
    assert store.sweep() == 1
    assert listing.seen[tmp_path.name] > 10_000
    listing.seen.clear()
    (tmp_path / ".staging" / ".scratch-left").mkdir()
    assert [store.sweep() for _ in range(3)] == [1, 0, 0]
    assert listing.seen == {".staging": 1}
    assert sum(1 for _ in store.published()) == 10_000
    assert listing.most_alive <= 2


def test_a_sweep_with_nothing_to_look_at_takes_no_lock(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store)
    with locked(tmp_path):
        assert store.sweep() == 0


def test_a_sweep_leaves_what_it_did_not_put_there(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store)
    for place in (tmp_path, tmp_path / ".staging"):
        (place / "somebody's").mkdir()
        (place / ".scratch-file").write_text("a file")
        (place / ".scratch-link").symlink_to(tmp_path / HASH)
    before = entries(tmp_path)
    assert [store.sweep(), store.sweep()] == [0, 0]
    assert entries(tmp_path) == before


def test_results_are_removed_where_no_directory_for_scratch_can_be_made(tmp_path: Path) -> None:
    """As on a disk without a free block, in a store of a former version."""
    store = a_store(tmp_path)
    publish(store)
    (tmp_path / ".staging").rmdir()
    (tmp_path / ".staging").write_text("in the way")
    assert store.remove(HASH)
    publish(store, "again")
    assert store.locate(HASH, "x.bin") is not None
    assert entries(tmp_path) == [HASH]


@pytest.mark.process
def test_a_crash_beside_the_directory_for_scratch_is_swept_by_the_next_process(tmp_path: Path) -> None:
    publish(a_store(tmp_path))
    (tmp_path / ".staging").rmdir()
    with another_process(tmp_path, "shutil.rmtree = wait\nstore.remove(HASH)"):
        assert a_store(tmp_path).sweep() == 0
    assert a_store(tmp_path).sweep() == 1
    assert entries(tmp_path) == []


@pytest.mark.process
def test_the_sweep_takes_what_a_dead_process_left_and_leaves_what_a_living_one_uses(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with another_process(tmp_path, "with store.scratch() as scratch:\n    wait()"):
        left = entries(tmp_path)
        assert store.sweep() == 0
    with store.scratch() as living:
        assert store.sweep() == 1
        assert entries(tmp_path) == [living.name]
    assert len(left) == 1


@pytest.mark.process
def test_a_process_that_reads_keeps_the_images_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store)
    with another_process(tmp_path, "with store.hold(HASH):\n    wait()"):
        with pytest.raises(StillRead):
            store.remove(HASH)
        assert store.locate(HASH, "x.bin") is not None
    store.remove(HASH)
    assert entries(tmp_path) == []


@pytest.mark.process
def test_a_crash_between_renaming_and_deleting_leaves_scratch_for_the_sweep(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store)
    with another_process(tmp_path, "shutil.rmtree = wait\nstore.remove(HASH)"):
        assert not store.holds(HASH)
        assert store.sweep() == 0  # the one who removes is alive
        assert len(entries(tmp_path)) == 1
    assert store.sweep() == 1
    assert entries(tmp_path) == []


@pytest.mark.process
def test_a_crash_after_replacing_leaves_the_new_images_and_the_old_for_the_sweep(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store, "old")
    replacing = (
        "shutil.rmtree = wait\nwith store.scratch() as scratch:\n    images = scratch / 'images'\n"
        "    images.mkdir()\n    (images / 'x.bin').write_text('new')\n    store.publish(HASH, images)"
    )
    with another_process(tmp_path, replacing):
        pass
    assert (tmp_path / HASH / "x.bin").read_text() == "new"
    assert store.sweep() == 2
    assert entries(tmp_path) == [HASH]


def test_a_former_directory_that_is_still_read_is_not_swept_under_the_reader(tmp_path: Path) -> None:
    with locked_with_others(tmp_path / "none") as there:
        assert not there
    store = a_store(tmp_path)
    former = tmp_path / ".staging" / ".scratch-former"
    former.mkdir(parents=True)
    with locked_with_others(former) as there:
        assert there
        assert store.sweep() == 0
    assert store.sweep() == 1


def test_a_hold_is_on_the_directory_that_has_the_name_when_the_lock_is_there(tmp_path: Path) -> None:
    """Replaced between opening and locking: a lock on the former directory would keep nothing."""
    store = a_store(tmp_path)
    publish(store, "old")
    held, leave = threading.Event(), threading.Event()

    def read() -> None:
        with store.hold(HASH):
            held.set()
            leave.wait(60)

    with opened(tmp_path / HASH) as descriptor:
        assert lock_alone(descriptor)
        reader = threading.Thread(target=read)
        reader.start()
        assert eventually(lambda: _waits_for(os.fstat(descriptor).st_ino))
        publish(store, "new")
    try:
        assert held.wait(60)
        with pytest.raises(StillRead):
            store.remove(HASH)
    finally:
        leave.set()
        reader.join(60)
    store.remove(HASH)
    assert entries(tmp_path) == []


def _waits_for(inode: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in lines)


def test_a_store_that_cannot_be_used_says_so_in_a_sentence_without_its_path(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    (tmp_path / "store" / ".lock").unlink(missing_ok=True)
    (tmp_path / "store").rmdir()
    with pytest.raises(StoreUnavailable, match="cannot be read"):  # which does not mean that it is full
        store.room()
    (tmp_path / "store").write_text("")
    result = store.check()
    assert result.status == "error"
    acts: list[Callable[[], object]] = [
        lambda: publish(store),
        lambda: store.publish(HASH, tmp_path / "missing"),
        lambda: store.remove(HASH),
        lambda: list(store.published()),
        store.sweep,
    ]
    sentences = [result.sentence]
    for act in acts:
        with pytest.raises(StoreUnavailable) as caught:
            act()
        sentences.append(str(caught.value))
    for sentence in sentences:
        assert str(tmp_path) not in sentence
        assert sentence.endswith((": File exists.", ": Not a directory.", ": No such file or directory."))


def test_a_store_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "deep" / "store"):
        with pytest.raises(
            StoreUnavailable, match=r"is a file where a directory is needed.*public_path"
        ) as told:
            a_store(root)
        assert f"{tmp_path / 'file'} is a file" in str(told.value)


@pytest.mark.parametrize(
    ("number", "meant"),
    [
        (errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreUnavailable),
        (errno.EROFS, StoreUnavailable), (errno.ENOENT, FileNotFoundError), (errno.ECONNRESET, OSError),
    ],
)  # fmt: skip
def test_only_what_the_disk_refuses_during_a_build_is_the_stores(
    tmp_path: Path, number: int, meant: type[Exception]
) -> None:
    with pytest.raises(meant), a_store(tmp_path).scratch():
        raise OSError(number, os.strerror(number))
    assert entries(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two mebibytes."""
    require_tool("mount", "mount", "umount")
    if os.geteuid() != 0:
        tool_missing("mount", "only root may mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True
    )
    if mounting.returncode:
        tool_missing("mount", f"mount says {mounting.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(1024):  # what is written may be less than asked, then comes the error
            file.write(b"x" * 65536)
    assert os.statvfs(disk).f_bavail == 0


@pytest.mark.process
def test_a_build_that_fills_the_disk_fails_alone(small_disk: Path) -> None:
    store = a_store(small_disk / "store", floor=1 << 20)
    publish(store)
    assert store.room() > 0
    with pytest.raises(StoreFull, match="full"):
        publish(store, "x" * (3 << 20), OTHER)
    assert entries(small_disk / "store") == [HASH]
    assert store.room() > 0
    publish(store, "again", OTHER)


@pytest.mark.process
def test_nothing_is_half_published_on_a_full_disk_and_what_is_there_can_be_read_and_removed(
    small_disk: Path,
) -> None:
    store = a_store(small_disk / "store", floor=1 << 20)
    publish(store, "x" * (1 << 19))
    with pytest.raises(StoreFull, match="full"), store.scratch() as scratch:
        (scratch / "images").mkdir()
        (scratch / "images" / "x.bin").write_text("y")
        _fill(small_disk)
        store.publish(OTHER, scratch / "images")
    _fill(small_disk)
    assert entries(small_disk / "store") == [HASH]
    assert store.room() <= 0
    result = store.check()
    assert (result.status, "full" in result.sentence) == ("error", True)
    with store.hold(HASH):
        assert store.locate(HASH, "x.bin") is not None
    store.remove(HASH)
    assert entries(small_disk / "store") == []
    assert os.statvfs(small_disk).f_bavail > 0


@pytest.mark.process
def test_below_the_floor_the_figures_are_named(small_disk: Path) -> None:
    store = a_store(small_disk / "store", floor=1 << 20)
    publish(store, "x" * ((1 << 20) + 1))
    result = store.check()
    assert result.status == "warning"
    assert "has 0 MiB left" in result.sentence
    assert "more than 1 MiB" in result.sentence


@pytest.fixture
def expected(tmp_path: Path) -> LocalStore:
    """A store below `public` with one result, of whose results somebody knows."""
    store = LocalStore(tmp_path / "public", installation="ours", floor=0, expects_results=lambda: True)
    publish(a_store(tmp_path / "public"))
    return store


def test_a_mount_point_without_its_disk_takes_nothing_and_is_known_again(
    expected: LocalStore, tmp_path: Path
) -> None:
    public, disk = tmp_path / "public", tmp_path / "disk"
    expected.require_root()
    assert (expected.check().status, expected.missing()) == ("ok", "")

    public.rename(disk)
    public.mkdir()
    result = expected.check()
    assert (result.status, result.sentence) == ("error", expected.missing())
    assert "is its disk mounted?" in result.sentence and str(tmp_path) not in result.sentence
    with pytest.raises(StoreUnavailable, match="mounted"):
        publish(expected)
    with pytest.raises(StoreUnavailable, match="mounted"):
        expected.require_root()
    assert list(public.iterdir()) == [], "the mount point stays as it was"

    public.rmdir()
    disk.rename(public)
    assert (expected.check().status, expected.missing()) == ("ok", "")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("no directory")])
def test_a_store_that_is_no_directory_any_more_is_missing(
    expected: LocalStore, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (tmp_path / "public").rename(tmp_path / "disk")
    make(tmp_path / "public")
    assert expected.check().status == "error"
    assert "is its disk mounted?" in expected.missing()


def test_the_mark_of_another_installation_says_nothing(expected: LocalStore, tmp_path: Path) -> None:
    root = tmp_path / "other"
    theirs = LocalStore(root, installation="theirs", floor=0)
    publish(theirs)
    ours = LocalStore(root, installation="ours", floor=0, expects_results=lambda: True)
    assert theirs.check().status == "ok"
    assert ours.check().status == "error"


def test_a_store_without_a_mark_is_known_by_a_directory_of_ours(expected: LocalStore, tmp_path: Path) -> None:
    mark = tmp_path / "public" / ".store-of-ours"
    mark.unlink()
    expected.require_root()
    assert mark.exists()


def test_a_fresh_store_is_marked_when_something_is_published_and_not_before(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    assert store.check().status == "ok"
    store.require_root()
    mark = tmp_path / ".store-of-ours"
    assert not mark.exists(), "its disk may still be mounted over it"
    publish(store)
    store.remove(HASH)
    assert mark.read_text() == "ours\n"
    assert store.locate(HASH, mark.name) is None


def test_a_mount_point_that_was_seen_before_the_first_result_is_missed_later(tmp_path: Path) -> None:
    known: list[bool] = []
    public, disk = tmp_path / "public", tmp_path / "disk"
    store = LocalStore(public, installation="ours", floor=0, expects_results=lambda: bool(known))
    assert store.check().status == "ok"
    public.rename(tmp_path / "mount point")
    publish(store)
    known.append(True)
    public.rename(disk)
    (tmp_path / "mount point").rename(public)
    assert store.check().status == "error"


def test_an_adopted_store_is_the_store_whatever_lies_in_it(expected: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "public").rename(tmp_path / "disk")
    assert expected.check().status == "error"
    expected.adopt()
    assert (expected.check().status, expected.missing()) == ("ok", "")


def test_a_database_that_cannot_say_whether_there_are_results_leaves_the_store_down(tmp_path: Path) -> None:
    def ask() -> bool:
        raise Unavailable("The database cannot be used.")

    store = LocalStore(tmp_path, installation="ours", floor=0, expects_results=ask)
    assert store.check() == CheckResult("error", "The database cannot be used.")
    assert store.missing() == ""


def test_what_is_held_is_not_removed_before_the_last_one_has_let_go(tmp_path: Path) -> None:
    store, other = (LocalStore(tmp_path / "store", installation="ours") for _ in range(2))
    publish(store)
    with store.hold(HASH):
        with other.hold(HASH):
            pass
        with pytest.raises(StillRead) as caught:
            other.remove(HASH)
        assert HASH not in str(caught.value)
        assert store.locate(HASH, "x.bin") is not None
    store.remove(HASH)
    assert not store.holds(HASH)


def test_who_may_not_wait_is_told_while_a_result_is_being_removed(tmp_path: Path) -> None:
    store, other = (LocalStore(tmp_path / "store", installation="ours") for _ in range(2))
    publish(store)

    def confirm() -> bool:
        with pytest.raises(BlockingIOError), other.hold(HASH, wait=False):
            pytest.fail("it is held")
        return False

    assert not store.remove(HASH, confirm=confirm)
    with store.hold(HASH, wait=False), pytest.raises(StillRead):
        other.remove(HASH)
    with store.hold(OTHER, wait=False):
        store.remove(HASH)
