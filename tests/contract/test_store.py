"""What every store must do; run against each adapter of the port."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asu_builder.domain.errors import StillRead
from asu_builder.ports import Store
from asu_builder.store.local import LocalStore

HASH, OTHER = "a" * 64, "b" * 64

Open = Callable[..., Store]
"""Another look at the same place, as another process or installation has it."""


@pytest.fixture(params=["local"])
def open_store(tmp_path: Path) -> Open:
    def make(installation: str = "ours", floor: int = 0) -> Store:
        return LocalStore(tmp_path / "store", installation=installation, floor=floor)

    return make


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


def publish(store: Store, request_hash: str = HASH, text: str = "image", **more: str) -> int:
    with store.scratch() as scratch:
        images = scratch / "images"
        images.mkdir()
        for name, content in {"x.bin": text, **more}.items():
            (images / name.replace("_", ".")).write_text(content)
        return store.publish(request_hash, images)


def read(store: Store, request_hash: str = HASH, name: str = "x.bin") -> str | None:
    path = store.locate(request_hash, name)
    return path.read_text() if path else None


def test_what_is_published_is_found_and_nothing_else(store: Store) -> None:
    assert not store.holds(HASH)
    publish(store)
    assert store.holds(HASH)
    assert read(store) == "image"
    assert read(store, name="y.bin") is None
    assert read(store, OTHER) is None
    assert not store.holds(OTHER)
    assert store.owns(HASH)
    assert not store.owns(OTHER)
    assert not store.owns("..")


def test_those_that_are_not_published_are_told_in_their_order(store: Store) -> None:
    publish(store)
    assert list(store.absent([])) == []
    assert list(store.absent([OTHER, HASH, "c" * 64])) == [OTHER, "c" * 64]
    store.remove(HASH)
    assert list(store.absent([HASH])) == [HASH]


def test_publishing_says_how_many_bytes_the_files_have(store: Store) -> None:
    assert publish(store, text="12345", y_manifest="123") == 8
    assert publish(store, OTHER, text="") == 0


def test_a_directory_left_by_a_crash_before_completion_is_replaced_whole(store: Store) -> None:
    publish(store, text="old", leftover_bin="")
    publish(store, text="new")
    assert read(store) == "new"
    assert read(store, name="leftover.bin") is None


def test_scratch_is_gone_afterwards_and_never_looks_like_a_build(store: Store) -> None:
    with store.scratch() as scratch, store.scratch() as second:
        assert scratch != second
        (scratch / "x").write_text("")
        assert store.locate(scratch.name, "x") is None
        assert list(store.published()) == []
    assert not scratch.exists()
    assert store.sweep() == 0


def test_scratch_is_gone_when_the_build_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.scratch() as scratch:
        (scratch / "x").write_text(str(1 / 0))
    assert not scratch.exists()


def test_a_sweep_leaves_what_is_in_use_and_what_is_published(store: Store, open_store: Open) -> None:
    publish(store)
    with store.scratch() as scratch:
        assert open_store().sweep() == 0
        assert scratch.is_dir()
    assert read(store) == "image"


def test_removed_images_are_gone_at_once_and_removing_nothing_is_nothing(store: Store) -> None:
    publish(store)
    store.remove(HASH)
    assert not store.holds(HASH)
    assert read(store) is None
    store.remove(HASH)
    store.remove("..")
    assert store.sweep() == 0


def test_what_is_held_is_not_removed_before_the_last_one_has_let_go(store: Store, open_store: Open) -> None:
    publish(store)
    with store.hold(HASH):
        with open_store().hold(HASH):
            pass
        with pytest.raises(StillRead) as caught:
            open_store().remove(HASH)
        assert HASH not in str(caught.value)
        assert read(store) == "image"
    store.remove(HASH)
    assert not store.holds(HASH)


def test_a_hold_ends_when_reading_fails(store: Store) -> None:
    publish(store)
    with pytest.raises(FileNotFoundError), store.hold(HASH):
        raise FileNotFoundError
    store.remove(HASH)
    assert not store.holds(HASH)


def test_holding_one_result_keeps_no_other(store: Store) -> None:
    publish(store)
    publish(store, OTHER)
    with store.hold(HASH):
        store.remove(OTHER)
    assert [*store.published()] == [HASH]


@pytest.mark.parametrize("request_hash", [HASH, "..", "", "x\0"])
def test_holding_what_is_not_there_holds_nothing_and_hinders_nobody(store: Store, request_hash: str) -> None:
    with store.hold(request_hash):
        publish(store)
        store.remove(HASH)
        assert not store.holds(HASH)


def test_who_may_not_wait_is_told_while_a_result_is_being_removed(store: Store, open_store: Open) -> None:
    publish(store)

    def confirm() -> bool:
        with pytest.raises(BlockingIOError), open_store().hold(HASH, wait=False):
            pytest.fail("it is held")
        return False

    assert not store.remove(HASH, confirm=confirm)
    with store.hold(HASH, wait=False), pytest.raises(StillRead):
        open_store().remove(HASH)
    with store.hold(OTHER, wait=False):
        store.remove(HASH)


def test_publishing_replaces_even_what_is_held_and_an_open_file_stays_readable(store: Store) -> None:
    publish(store, text="old")
    path = store.locate(HASH, "x.bin")
    assert path is not None
    with store.hold(HASH), path.open() as file:
        publish(store, text="new")
        assert file.read() == "old"
        assert read(store) == "new"
    assert store.sweep() == 0


def test_an_installation_sees_and_removes_only_its_own(store: Store, open_store: Open) -> None:
    theirs = open_store("theirs")
    publish(store)
    publish(theirs, OTHER)
    assert (store.owns(HASH), store.owns(OTHER)) == (True, False)
    assert (theirs.owns(HASH), theirs.owns(OTHER)) == (False, True)
    assert {*store.published()} == {*theirs.published()} == {HASH, OTHER}
    store.remove(OTHER)
    assert read(store, OTHER) == "image"


def test_what_is_published_may_be_removed_while_it_is_listed(store: Store) -> None:
    names = {f"{number:064x}" for number in range(50)}
    for name in names:
        publish(store, name)
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
    publish(open_store())
    store = open_store(floor=1 << 62)
    with store.hold(HASH):
        assert read(store) == "image"
    store.remove(HASH)
    assert not store.holds(HASH)


def test_many_builds_publish_at_once(store: Store) -> None:
    names = [f"{number:064x}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: publish(store, name, text=name), names))
    assert [read(store, name) for name in names] == names


def _take_away(store: Store, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(StillRead):
            store.remove(HASH)
        over.wait(0.0005)


def _look(store: Store, over: threading.Event, seen: list[str]) -> None:
    while not over.is_set():
        with store.hold(HASH):
            path = store.locate(HASH, "x.bin")
            if path:
                seen.append(path.read_text())  # would be missing if it were removed in here
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
                publish(store, text=text)
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
