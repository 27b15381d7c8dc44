"""What every store must do; run against each adapter of the port."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asu_builder.domain.errors import StillRead
from asu_builder.store.local import LocalStore
from object_storage import s3_server
from shelves import Rows, Shelf, object_store

HASH, OTHER = "a" * 64, "b" * 64

Open = Callable[..., Shelf]
"""Another look at the same place, as another process or installation has it."""


@pytest.fixture(params=["local", "s3"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    bucket = "" if request.param == "local" else s3_server().place(tmp_path.name)
    databases: dict[str, Rows] = {}

    def make(installation: str = "ours", floor: int = 0) -> Shelf:
        rows = databases.setdefault(installation, Rows())
        if bucket:
            return Shelf(object_store(bucket, tmp_path, rows, installation=installation, floor=floor), rows)
        return Shelf(LocalStore(tmp_path / "store", installation=installation, floor=floor), rows)

    return make


@pytest.fixture
def store(open_store: Open) -> Shelf:
    return open_store()


def test_what_is_published_is_found_and_nothing_else(store: Shelf) -> None:
    assert not store.holds(HASH)
    store.publish()
    assert store.holds(HASH)
    assert store.read() == "image"
    assert store.read(name="y.bin") is None
    assert store.read(OTHER) is None
    assert not store.holds(OTHER)
    assert store.owns(HASH)
    assert not store.owns(OTHER)
    assert not store.owns("..")


def test_those_that_are_not_published_are_told_in_their_order(store: Shelf) -> None:
    store.publish()
    assert list(store.absent([])) == []
    assert list(store.absent([OTHER, HASH, "c" * 64])) == [OTHER, "c" * 64]
    store.remove(HASH)
    assert list(store.absent([HASH])) == [HASH]


def test_publishing_says_how_many_bytes_the_files_have(store: Shelf) -> None:
    assert store.publish(text="12345", y_manifest="123") == 8
    assert store.publish(OTHER, text="") == 0


def test_a_directory_left_by_a_crash_before_completion_is_replaced_whole(store: Shelf) -> None:
    store.publish(text="old", leftover_bin="")
    store.publish(text="new")
    assert store.read() == "new"
    assert store.read(name="leftover.bin") is None


def test_scratch_is_gone_afterwards_and_never_looks_like_a_build(store: Shelf) -> None:
    with store.scratch() as scratch, store.scratch() as second:
        assert scratch != second
        (scratch / "x").write_text("")
        assert store.locate(scratch.name, "x") is None
        assert list(store.published()) == []
    assert not scratch.exists()
    assert store.sweep() == 0


def test_scratch_is_gone_when_the_build_fails(store: Shelf) -> None:
    with pytest.raises(ZeroDivisionError), store.scratch() as scratch:
        (scratch / "x").write_text(str(1 / 0))
    assert not scratch.exists()


def test_a_sweep_leaves_what_is_in_use_and_what_is_published(store: Shelf, open_store: Open) -> None:
    store.publish()
    with store.scratch() as scratch:
        assert open_store().sweep() == 0
        assert scratch.is_dir()
    assert store.read() == "image"


def test_removed_images_are_gone_at_once_and_removing_nothing_is_nothing(store: Shelf) -> None:
    store.publish()
    store.remove(HASH)
    assert not store.holds(HASH)
    assert store.read() is None
    store.remove(HASH)
    store.remove("..")
    assert store.sweep() == 0


def test_what_was_located_is_read_to_its_end_whatever_is_removed_meanwhile(
    store: Shelf, open_store: Open
) -> None:
    store.publish()
    with store.hold(HASH):
        read = store.open()
        assert read is not None
        with contextlib.suppress(StillRead):
            open_store().remove(HASH)
        open_store().sweep()
        assert read() == "image"
    store.remove(HASH)
    assert not store.holds(HASH)


def test_a_hold_ends_when_reading_fails(store: Shelf) -> None:
    store.publish()
    with pytest.raises(FileNotFoundError), store.hold(HASH):
        raise FileNotFoundError
    store.remove(HASH)
    assert not store.holds(HASH)


def test_holding_one_result_keeps_no_other(store: Shelf) -> None:
    store.publish()
    store.publish(OTHER)
    with store.hold(HASH):
        store.remove(OTHER)
    assert [*store.published()] == [HASH]


@pytest.mark.parametrize("request_hash", [HASH, "..", "", "x\0"])
def test_holding_what_is_not_there_holds_nothing_and_hinders_nobody(store: Shelf, request_hash: str) -> None:
    with store.hold(request_hash):
        store.publish()
        store.remove(HASH)
        assert not store.holds(HASH)


def test_publishing_replaces_even_what_is_held_and_what_was_located_stays_readable(store: Shelf) -> None:
    store.publish(text="old")
    with store.hold(HASH):
        read = store.open()
        assert read is not None
        store.publish(text="new")
        assert read() == "old"
        assert store.read() == "new"
    assert store.sweep() == 0


def test_an_installation_sees_and_removes_only_its_own(store: Shelf, open_store: Open) -> None:
    theirs = open_store("theirs")
    store.publish()
    theirs.publish(OTHER)
    assert (store.owns(HASH), store.owns(OTHER)) == (True, False)
    assert (theirs.owns(HASH), theirs.owns(OTHER)) == (False, True)
    assert {*store.published()} == {*theirs.published()} == {HASH, OTHER}
    store.remove(OTHER)
    assert theirs.read(OTHER) == "image"


def test_what_is_published_may_be_removed_while_it_is_listed(store: Shelf) -> None:
    names = {f"{number:064x}" for number in range(50)}
    for name in names:
        store.publish(name)
    seen = set()
    for name in store.published():
        seen.add(name)
        store.remove(name)
    assert seen == names
    assert [*store.published()] == []


def test_there_is_room_above_the_floor_only(open_store: Open) -> None:
    assert open_store(floor=0).room() > 0
    assert open_store(floor=1 << 62).room() < 0


def test_a_store_below_its_floor_is_degraded_and_says_what_to_do(open_store: Open) -> None:
    assert open_store().check().status == "ok"
    result = open_store(floor=1 << 62).check()
    assert result.status == "warning"
    assert f"{1 << 42} MiB" in result.sentence
    assert "new builds are refused" in result.sentence


def test_below_the_floor_what_is_there_can_be_read_and_taken_away(open_store: Open) -> None:
    open_store().publish()
    store = open_store(floor=1 << 62)
    with store.hold(HASH):
        assert store.read() == "image"
    store.remove(HASH)
    assert not store.holds(HASH)


def test_many_builds_publish_at_once(store: Shelf) -> None:
    names = [f"{number:064x}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.publish(name, text=name), names))
    assert [store.read(name) for name in names] == names


def _take_away(store: Shelf, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(StillRead):
            store.remove(HASH)
        over.wait(0.0005)


def _look(store: Shelf, over: threading.Event, seen: list[str]) -> None:
    while not over.is_set():
        with store.hold(HASH):
            text = store.read()  # would be missing if it were removed in here
            if text is not None:
                seen.append(text)
        over.wait(0.001)


def test_whoever_holds_while_others_publish_and_remove_sees_whole_files(open_store: Open) -> None:
    over, store = threading.Event(), open_store()
    texts = [f"{number % 10}" * 50_000 for number in range(3000)]
    seen: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(_take_away, open_store(), over)]
        running += [pool.submit(_look, open_store(), over, seen) for _ in range(2)]
        try:
            for number, text in enumerate(texts):
                # On a busy machine it takes longer until somebody looks in the right moment.
                if number >= 30 and seen:
                    break
                store.publish(text=text)
                for _ in range(5000):
                    if not store.holds(HASH):
                        break
                    over.wait(0.001)
                assert not store.holds(HASH)
        finally:
            over.set()
        for each in running:
            each.result(60)
    assert seen
    assert set(seen) <= set(texts)
    assert store.sweep() == 0
