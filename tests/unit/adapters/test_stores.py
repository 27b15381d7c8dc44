import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asu_builder.adapters.stores import LocalStore
from asu_builder.domain.errors import Unavailable

HASH = "a" * 64


def publish(store: LocalStore, text: str = "image") -> None:
    with store.scratch() as scratch:
        images = scratch / "images"
        images.mkdir()
        (images / "x.bin").write_text(text)
        store.publish(HASH, images)


def test_what_is_published_is_found_and_nothing_else(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert not store.holds(HASH)
    publish(store)
    assert store.holds(HASH)
    path = store.locate(HASH, "x.bin")
    assert path is not None
    assert path.read_text() == "image"
    assert store.locate(HASH, "y.bin") is None
    assert store.locate("b" * 64, "x.bin") is None


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (HASH, ".."), (HASH, "."), (HASH, ""), (HASH, "../x"), (HASH, "a/b"), (HASH, "link"),
        (HASH, "folder"), (HASH, "x.bin\n"), (HASH, "x\0"), (HASH, "y" * 300), (HASH, "pipe"),
        ("..", "secret"),
        ("c" * 64, "secret"), (HASH.upper(), "x.bin"), ("", "secret"),
    ],
)  # fmt: skip
def test_there_is_no_way_out_of_the_store(tmp_path: Path, directory: str, name: str) -> None:
    store = LocalStore(tmp_path / "store")
    publish(store)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / HASH / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "store" / HASH / "folder").mkdir()
    os.mkfifo(tmp_path / "store" / HASH / "pipe")
    (tmp_path / "store" / ("c" * 64)).symlink_to(tmp_path)
    assert store.locate(directory, name) is None


def test_a_directory_left_by_a_crash_before_completion_is_replaced_whole(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store, "old")
    (tmp_path / HASH / "leftover").write_text("")
    publish(store, "new")
    assert (tmp_path / HASH / "x.bin").read_text() == "new"
    assert not (tmp_path / HASH / "leftover").exists()


def test_scratch_is_gone_afterwards_and_never_looks_like_a_build(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.scratch() as scratch:
        assert store.locate(scratch.name, "x") is None
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_removed_images_are_gone_at_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store)
    store.remove(HASH)
    store.remove(HASH)
    assert not store.holds(HASH)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_sweep_takes_what_a_dead_process_left_and_leaves_what_a_living_one_uses(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\nfrom asu_builder.adapters.stores import LocalStore\n"
        "with LocalStore(pathlib.Path(sys.argv[1])).scratch() as s:\n"
        "    print(s, flush=True)\n    sys.stdin.read()"
    )
    dead = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with dead:
        assert dead.stdout is not None
        left = Path(dead.stdout.readline().strip())
        dead.kill()
    store = LocalStore(tmp_path)
    with store.scratch() as living:
        assert store.sweep() == 1
        assert living.is_dir()
    assert not left.exists()


def test_a_store_that_cannot_be_written_is_down_in_a_sentence_without_its_path(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("")
    verdict = store.check()
    assert verdict.status == "down"
    assert str(tmp_path) not in verdict.sentence
    with pytest.raises(Unavailable), store.scratch():
        pass


def test_a_store_with_room_is_fine(tmp_path: Path) -> None:
    assert LocalStore(tmp_path).check().status in ("ok", "degraded")


def test_many_builds_publish_at_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def work(number: int) -> None:
        with store.scratch() as scratch:
            (scratch / "images").mkdir()
            (scratch / "images" / "x").write_text(str(number))
            store.publish(f"{number:064x}", scratch / "images")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((tmp_path / f"{number:064x}" / "x").read_text() == str(number) for number in range(16))
