"""Object storage's own: what publishes, what stays after its removal, and a bucket that fails."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, Timer

import pytest

from asu_builder.domain.errors import BuildInterrupted, BuildNotFound, StoreUnavailable
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.ports import RemoteFile
from asu_builder.settings import Settings
from asu_builder.store.bucket import SIGNED_FOR, Bucket, failure_of
from asu_builder.store.objects import ObjectStore
from factories import sooner_than
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from object_storage import BUCKET, s3_server
from shelves import HASH, Rows, Shelf, object_store, read_remote

pytestmark = pytest.mark.process

OTHER = "b" * 64
_AT_ONCE = timedelta(0)


class Place:
    """An empty place in the bucket, the rows about it, and a proxy before it."""

    def __init__(self, folder: Path, proxy: FaultyProxy) -> None:
        self.url = s3_server().place(folder.name)
        self.folder = folder
        self.proxy = proxy
        self.rows = Rows()

    def open(
        self, options: Mapping[str, str] | None = None, *, outlives: timedelta = SIGNED_FOR
    ) -> ObjectStore:
        """Another process's store there, reached through the proxy."""
        options = {"endpoint": self.proxy.endpoint, **(options or {})}
        return object_store(self.url, self.folder, self.rows, outlives=outlives, options=options)

    def shelf(self, *, outlives: timedelta = SIGNED_FOR) -> Shelf:
        """A store with the rows."""
        return Shelf(self.open(outlives=outlives), self.rows)

    def contents(self) -> list[str]:
        """What lies in the bucket below the place."""
        bucket = Bucket(Settings(store_url=f"s3://{BUCKET}", store_options=s3_server().options()))
        found = [entry.key.partition("/")[2] for entry in bucket.list(self.folder.name)]
        return sorted(found)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with faulty_proxy(s3_server().port) as proxy:
        yield Place(tmp_path, proxy)


def located(shelf: Shelf, name: str = "x.bin") -> RemoteFile:
    found = shelf.locate(HASH, name)
    assert found is not None
    assert not isinstance(found, Path)
    return found


def test_files_that_no_result_names_are_not_published(place: Place) -> None:
    store = place.open()
    with store.scratch() as scratch:
        (scratch / "x.bin").write_text("image")
        files = store.publish(HASH, scratch).files
    assert files is not None
    assert dict(files.sizes) == {"x.bin": 5}
    assert store.locate(HASH, "x.bin") is None
    assert not store.holds(HASH)
    place.rows.complete(HASH, files)
    assert store.holds(HASH)
    assert f"{HASH}/{files.folder}/x.bin" in place.contents()


def test_names_of_all_kinds_and_files_in_parts_come_back_as_they_were(place: Place) -> None:
    store, names = place.open(), ("a+b~1.bin", "a@b:c=d,e.bin", "empty", "large.img.gz")
    texts = {name: b"" if name == "empty" else name.encode() * 1000 for name in names}
    texts["large.img.gz"] = bytes(range(256)) * (9 << 12)
    with store.scratch() as scratch:
        for name, text in texts.items():
            (scratch / name).write_bytes(text)
        place.rows.complete(HASH, store.publish(HASH, scratch).files)
    found = {name: store.locate(HASH, name) for name in names}
    assert {name: file and read_remote(file) for name, file in found.items()} == texts
    assert len({file.etag for file in found.values() if file}) == len(names)
    assert store.holds(HASH)


def test_a_build_that_may_not_go_on_stops_between_two_files(place: Place) -> None:
    store, calls = place.open(), 0

    def require_time() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise BuildInterrupted("stopped")

    with store.scratch() as scratch:
        for name in ("a", "b", "c"):
            (scratch / name).write_text(name)
        with pytest.raises(BuildInterrupted):
            store.publish(HASH, scratch, require_time=require_time)
    assert [key.rpartition("/")[2] for key in place.contents()] == ["a"]


def test_what_is_removed_stays_while_a_signed_address_may_lead_there(place: Place) -> None:
    shelf = place.shelf()
    shelf.publish()
    file = located(shelf)
    assert "X-Amz-Expires=3600" in file.signed_url()
    shelf.remove(HASH)
    assert shelf.locate(HASH, "x.bin") is None
    assert list(shelf.published()) == []
    assert not shelf.owns(HASH)
    assert shelf.sweep() == 0
    assert read_remote(file) == b"image"
    later = place.shelf(outlives=_AT_ONCE)
    assert later.sweep() == 1
    assert [key for key in place.contents() if REQUEST_HASH.match(key.partition("/")[0])] == []
    with pytest.raises(BuildNotFound):
        read_remote(file)
    assert later.sweep() == 0


def test_what_was_noted_as_removed_and_is_named_again_stays(place: Place) -> None:
    shelf = place.shelf(outlives=_AT_ONCE)
    shelf.publish()
    # As where the database refused to forget the rows after all.
    assert not shelf.remove(HASH, confirm=lambda: False)
    assert shelf.sweep() == 0
    assert shelf.read() == "image"
    assert list(shelf.published()) == [HASH]


def test_a_publication_without_an_end_goes_with_the_next_one(place: Place) -> None:
    shelf = place.shelf(outlives=_AT_ONCE)
    with shelf.scratch() as scratch:
        (scratch / "x.bin").write_text("of a worker that was killed")
        shelf.store.publish(HASH, scratch)
    shelf.publish(text="image")
    assert shelf.sweep() == 1
    assert shelf.read() == "image"
    assert sum(HASH in key for key in place.contents()) == 1


def test_a_result_whose_objects_are_gone_is_missed_by_the_hash_and_by_the_list(place: Place) -> None:
    shelf = place.shelf()
    shelf.publish()
    other = place.shelf()
    other.store.require_root()
    file = located(other)
    assert other.holds(HASH)
    bucket = Bucket(Settings(store_url=place.url, store_options=s3_server().options()))
    bucket.delete([entry.key for entry in bucket.list(HASH)])
    assert list(other.absent([HASH])) == [HASH]
    # Seen a moment ago; whoever downloads finds it gone.
    assert other.holds(HASH)
    with pytest.raises(BuildNotFound):
        read_remote(file)
    assert not other.holds(HASH)


def test_one_lost_file_of_several_is_enough(place: Place) -> None:
    shelf = place.shelf()
    shelf.publish(y_bin="another")
    bucket = Bucket(Settings(store_url=place.url, store_options=s3_server().options()))
    bucket.delete([entry.key for entry in bucket.list(HASH) if entry.key.endswith("y.bin")])
    store = place.open()
    assert store.holds(HASH), "before anything is asked of the bucket"
    store.require_root()
    assert not store.holds(HASH)


def test_a_bucket_that_is_another_one_is_no_loss(place: Place, tmp_path: Path) -> None:
    place.shelf().publish()
    elsewhere = object_store(f"{place.url}-elsewhere", tmp_path, place.rows)
    with pytest.raises(StoreUnavailable, match="not the one that results were put into"):
        elsewhere.require_root()
    assert "adopt-store" in elsewhere.missing()
    assert elsewhere.check().status == "error"
    with pytest.raises(StoreUnavailable), elsewhere.scratch():
        pytest.fail("it builds")
    elsewhere.adopt()
    elsewhere.require_root()
    assert elsewhere.missing() == ""


def test_a_bucket_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    store = object_store("s3://mistyped-bucket/x", tmp_path, Rows())
    for _ in range(2):  # nothing has made it in the first round
        check = store.check()
        assert check.status == "error"
        assert check.sentence.startswith("There is no bucket s3://mistyped-bucket/x.")
        assert store.missing() == check.sentence
        with pytest.raises(StoreUnavailable, match="no bucket"):
            store.publish(HASH, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"access_key_id": "nobody"}, {"secret_access_key": "wrong"}, {"access_key_id": "limited-key"}],
)
def test_a_key_that_is_refused_is_said_and_not_repeated(place: Place, options: dict[str, str]) -> None:
    check = place.open(options).check()
    assert check.status == "error"
    assert "refuses the key" in check.sentence
    assert not any(value in check.sentence for value in options.values())


def test_an_address_without_object_storage_is_said(place: Place) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        check = place.open({"endpoint": f"http://127.0.0.1:{server.server_port}"}).check()
        server.shutdown()
    assert check.status == "error"
    assert "correct store_url, or endpoint" in check.sentence
    assert "does not answer" in place.open({"endpoint": "http://127.0.0.1:1"}).check().sentence


@pytest.mark.parametrize(("fault", "said"), [("busy", "answers 503"), ("silent", "does not answer")])
def test_a_bucket_that_fails_is_down_in_time_and_loses_nothing(place: Place, fault: Fault, said: str) -> None:
    shelf, store = place.shelf(), place.open()
    shelf.publish()
    place.proxy.spoil(fault)
    with sooner_than(60):
        check = store.check()
        assert check.status == "error"
        assert said in check.sentence
        assert place.url in check.sentence
        with pytest.raises(StoreUnavailable), store.scratch():
            pytest.fail("it builds")
        # Nothing is known to be lost, and only the first look waits.
        assert all(store.holds(HASH) for _ in range(500))
    assert store.missing() == ""
    place.proxy.released.set()
    place.proxy.spoil("")
    assert store.check().status == "ok"
    assert shelf.read() == "image"


@pytest.mark.parametrize(("fault", "said"), [("longer", "its result tells 5"), ("cut", "does not answer")])
def test_a_file_of_another_length_than_its_result_tells_is_not_given(
    place: Place, fault: Fault, said: str
) -> None:
    shelf = place.shelf()
    shelf.publish()
    file = located(shelf)
    place.proxy.spoil(fault, only=f"GET /{BUCKET}/{place.folder.name}/{HASH}")
    with pytest.raises(StoreUnavailable, match=said):
        asyncio.run(file.read(0, 5))


def test_an_upload_is_tried_again_and_comes_once(place: Place) -> None:
    shelf = place.shelf()
    place.proxy.spoil("busy", only=f"PUT /{BUCKET}/{place.folder.name}/{HASH}")
    # The bucket is well again while the first attempt waits for its second.
    healed = Timer(1.0, place.proxy.spoil, ("",))
    healed.start()
    shelf.publish()
    healed.join()
    assert shelf.read() == "image"
    assert place.proxy.seen["PUT"] > 2


def test_the_sentences_repeat_nothing_of_what_the_bucket_said() -> None:
    secret = "x-amz-security-token=abc"
    for said in ("status code: 403 <Code>AccessDenied</Code>", "status code: 500", "HTTP error", ""):
        sentence = str(failure_of("s3://b/p", ValueError(f"{said} {secret}")))
        assert "s3://b/p" in sentence
        assert secret not in sentence
