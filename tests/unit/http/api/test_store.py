"""Downloads: every byte, resumable, and no way out of the store."""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message

from asgi_client import Answer, AsgiClient
from asu_builder.domain.errors import BuildNotFound, StillRead, Unavailable
from asu_builder.files import lock_alone, opened
from asu_builder.http.api.store import Downloads
from asu_builder.http.callers import Callers
from asu_builder.http.representations import make_error_hook
from asu_builder.http.server import server_config
from asu_builder.http.threads import Threads
from asu_builder.settings import Settings
from asu_builder.store.local import LocalStore
from factories import NOON, eventually
from ports import free_port
from web_scene import Scene

HASH = "ab" * 32
NAME = "openwrt-24.10.5-acme_widget-5-squashfs-sysupgrade.bin"
CONTENT = bytes(range(256)) * 3000
PROXIES = ("10.0.0.0/8",)
BIG = random.Random(1).randbytes(32 << 20)


@pytest.fixture(autouse=True)
def published(scene: Scene) -> None:
    """One image in the store."""
    scene.publish(HASH, NAME, CONTENT)


def a_request(name: str = NAME) -> Request:
    """A GET that no server has brought; its client stays."""

    async def stay() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    parameters = {"request_hash": HASH, "name": name}
    return Request({"type": "http", "method": "GET", "headers": [], "path_params": parameters}, stay)


async def ignore(_: Message) -> None:
    """A client that reads everything."""


def _get(client: AsgiClient, **headers: str) -> Answer:
    return client.get(
        f"/store/{HASH}/{NAME}", {key.replace("_", "-"): value for key, value in headers.items()}
    )


def test_a_download_has_every_byte_and_says_how_many(client: AsgiClient) -> None:
    answer = _get(client)
    assert answer.status == 200
    assert answer.body == CONTENT
    assert answer.header("content-length") == str(len(CONTENT))


def test_a_download_is_an_attachment_that_no_browser_interprets(client: AsgiClient) -> None:
    answer = _get(client)
    assert answer.header("content-type") == "application/octet-stream"
    assert answer.header("content-disposition") == f'attachment; filename="{NAME}"'
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("accept-ranges") == "bytes"
    assert answer.header("cache-control") == "no-cache"
    assert answer.header("last-modified")


def test_trap_30_an_image_is_never_compressed_or_chunked(client: AsgiClient, scene: Scene) -> None:
    scene.publish(HASH, "rootfs.img.gz", b"\x1f\x8b" + b"0" * 100)
    answer = client.get(f"/store/{HASH}/rootfs.img.gz", {"Accept-Encoding": "gzip"})
    assert answer.header("content-type") == "application/octet-stream"
    assert answer.header("content-encoding") is None
    assert answer.header("transfer-encoding") is None
    assert answer.header("content-length") == "102"


def test_trap_18_a_timestamp_behind_the_name_is_ignored(client: AsgiClient) -> None:
    assert client.get(f"/store/{HASH}/{NAME}?1763900000000").body == CONTENT


def test_trap_19_a_second_slash_in_front_is_ignored(client: AsgiClient) -> None:
    assert client.get(f"//store/{HASH}/{NAME}").body == CONTENT


def test_head_says_the_same_without_the_bytes(client: AsgiClient) -> None:
    head, get = client.request("HEAD", f"/store/{HASH}/{NAME}"), _get(client)
    assert head.status == 200
    assert head.body == b""
    for name in ("content-length", "etag", "last-modified", "content-type", "accept-ranges"):
        assert head.header(name) == get.header(name)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, len(CONTENT) - 1),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT) - 1),
        ("bytes=0-99999999999", 0, len(CONTENT) - 1),
        ("bytes=-99999999999", 0, len(CONTENT) - 1),
        ("BYTES=300000-600000", 300000, 600000),
    ],
)
def test_a_range_is_sent_exactly(client: AsgiClient, asked: str, first: int, last: int) -> None:
    answer = _get(client, Range=asked)
    assert answer.status == 206
    assert answer.body == CONTENT[first : last + 1]
    assert answer.header("content-range") == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer.header("content-length") == str(last - first + 1)


@pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=99999999-", "bytes=-0"])
def test_a_range_behind_the_end_is_416_in_json(client: AsgiClient, asked: str) -> None:
    answer = _get(client, Range=asked)
    assert answer.status == 416
    assert answer.header("content-range") == f"bytes */{len(CONTENT)}"
    assert answer.json["status"] == 416


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=9-1",
        "lines=0-9",
        "bytes=a-b",
        "bytes=0-1,5-9",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_a_range_that_cannot_be_meant_is_the_whole_file(client: AsgiClient, asked: str) -> None:
    answer = _get(client, Range=asked)
    assert answer.status == 200
    assert answer.body == CONTENT


def test_a_range_of_an_empty_file_is_416(client: AsgiClient, scene: Scene) -> None:
    scene.publish(HASH, "empty.bin", b"")
    assert client.get(f"/store/{HASH}/empty.bin").status == 200
    assert client.get(f"/store/{HASH}/empty.bin", {"Range": "bytes=0-"}).status == 416
    assert client.get(f"/store/{HASH}/empty.bin", {"Range": "bytes=-1"}).status == 416


def test_if_range_keeps_the_parts_of_two_files_apart(client: AsgiClient) -> None:
    whole = _get(client)
    for validator in ("etag", "last-modified"):
        value = whole.header(validator)
        assert value
        assert _get(client, Range="bytes=0-9", If_Range=value).status == 206
    assert _get(client, Range="bytes=0-9", If_Range='"another"').body == CONTENT
    assert _get(client, Range="bytes=99999999-", If_Range='"another"').status == 200
    assert _get(client, Range="bytes=0-9", If_Range=f"W/{whole.header('etag')}").status == 200


def test_trap_30_304_is_only_for_those_who_asked_for_it(client: AsgiClient) -> None:
    etag = _get(client).header("etag")
    assert etag
    assert etag.startswith('"')
    for sent in (etag, f'"x", {etag}', "*", f"W/{etag}"):
        answer = _get(client, If_None_Match=sent)
        assert answer.status == 304
        assert answer.body == b""
        assert answer.header("etag") == etag
    assert _get(client, If_None_Match='"x"').status == 200
    modified = _get(client).header("last-modified")
    assert modified
    assert _get(client, If_Modified_Since=modified).status == 200


def test_another_file_has_another_validator(client: AsgiClient, scene: Scene) -> None:
    before = _get(client).header("etag")
    (scene.root / HASH / NAME).unlink()
    scene.publish(HASH, NAME, CONTENT[::-1])
    assert _get(client).header("etag") != before


@pytest.mark.parametrize(
    "path",
    [
        f"/store/{HASH}/missing.bin",
        f"/store/{'0' * 64}/{NAME}",
        f"/store/{HASH.upper()}/{NAME}",
        f"/store/{HASH}",
        f"/store/{HASH}/",
        f"/store/{HASH}/..",
        f"/store/{HASH}/.",
        f"/store/{HASH}/%2e%2e",
        f"/store/{HASH}/..%2foutside",
        f"/store/{HASH}/..%5coutside",
        f"/store/{HASH}%2f{NAME}",
        f"/store/../store/{HASH}/{NAME}",
        "/store/../outside",
        "/store/%2e%2e/outside",
        "/store/..%2foutside",
        f"/store/{HASH}/{NAME}%00",
        f"/store/{HASH}/%00",
        f"/store/{HASH}/%0a",
        f"/store/{HASH}/link",
        f"/store/{HASH}/directory",
        f"/store/{HASH}/.hidden",
        f"/store/{'cd' * 32}/outside",
        f"/store/{HASH}/" + "x" * 300,
        f"/store/{HASH}/" + "x" * 70_000,
        f"/store/{HASH}/%ff%fe",
    ],
)
def test_there_is_no_way_out_of_the_store(client: AsgiClient, scene: Scene, path: str) -> None:
    outside = scene.root.parent / "outside"
    outside.write_bytes(b"secret")
    (scene.root / HASH / "link").symlink_to(outside)
    (scene.root / HASH / "directory").mkdir()
    (scene.root / HASH / ".hidden").write_bytes(b"secret")
    (scene.root / ("cd" * 32)).symlink_to(scene.root.parent)
    answer = client.get(path)
    assert answer.status == 404
    assert answer.json["status"] == 404
    assert b"secret" not in answer.body


@pytest.mark.parametrize("name", ["..", "a/b", "x\n", "", "a\0", "-rf", "é"])
def test_a_name_that_is_none_never_reaches_the_store(tmp_path: Path, name: str) -> None:
    class Careless(LocalStore):
        def locate(self, request_hash: str, name: str) -> Path | None:
            return Path(__file__)

    async def ask() -> None:
        request = a_request(name)
        store = Careless(tmp_path, installation="ours")
        downloads = Downloads(store, threads, callers=Callers((), ()), settings=Settings())
        answer = await downloads.download(request)
        await answer(request.scope, request.receive, ignore)

    threads = Threads(1, name="test")
    with pytest.raises(BuildNotFound):
        asyncio.run(ask())
    threads.close()


def test_the_error_of_a_missing_file_is_json_that_no_cache_keeps_as_an_image(client: AsgiClient) -> None:
    answer = client.get(f"/store/{HASH}/missing.bin")
    assert answer.header("content-type") == "application/json"
    assert answer.header("etag") is None
    assert "expired" in answer.json["detail"]


def test_a_file_with_a_plus_and_a_tilde_is_found_as_it_is_written(client: AsgiClient, scene: Scene) -> None:
    scene.publish(HASH, "packages+1.manifest", b"x")
    assert client.get(f"/store/{HASH}/packages+1.manifest").body == b"x"
    assert client.get(f"/store/{HASH}/packages%2b1.manifest").body == b"x"


def test_a_file_in_a_directory_that_vanishes_is_404(client: AsgiClient, scene: Scene, tmp_path: Path) -> None:
    (scene.root / HASH).rename(tmp_path / "away")
    assert _get(client).status == 404


class Shelf:
    """Downloads alone, of one result, with a note of each use."""

    def __init__(self, root: Path, *, accel_redirect: str = "") -> None:
        self.results = 0
        self.root = root
        self.store = LocalStore(root, installation="ours", floor=0, expects_results=lambda: self.results > 0)
        self.used: list[str] = []
        self.threads = Threads(1, name="test")
        downloads = Downloads(
            self.store,
            self.threads,
            callers=Callers((), PROXIES),
            settings=Settings(store_accel_redirect=accel_redirect, trusted_proxies=PROXIES),
            on_use=self.used.append,
        )
        address = "/store/{request_hash}/{name}"
        hook = make_error_hook(lambda _: False)
        self.app = Starlette(
            routes=[Route(address, downloads.download, methods=["GET", "HEAD"])],
            exception_handlers={BuildNotFound: hook, Unavailable: hook},
        )

    def publish(self, content: bytes) -> None:
        """As the pipeline does it."""
        with self.store.scratch() as scratch:
            (scratch / "images").mkdir()
            (scratch / "images" / NAME).write_bytes(content)
            self.store.publish(HASH, scratch / "images")

    def is_free(self) -> bool:
        """Whether housekeeping could take the result away, as another process would ask; then it has."""
        with contextlib.suppress(StillRead):
            self.store.remove(HASH)
        return not self.store.holds(HASH)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """With a small image on it."""
    shelf = Shelf(tmp_path / "shelf")
    shelf.publish(CONTENT)
    yield shelf
    shelf.threads.close()


def test_a_file_whose_disk_is_not_mounted_is_503_until_it_is(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(CONTENT)
    shelf.results = 1
    root, disk = tmp_path / "shelf", tmp_path / "disk"
    with AsgiClient(shelf.app) as client:
        root.rename(disk)
        shelf.store.check()
        answer = _get(client)
        assert (answer.status, answer.header("retry-after")) == (503, "10")
        assert "The store of this server takes no images now" in answer.json["detail"]

        disk.rename(root)
        assert _get(client).body == CONTENT, "without another look at the parts"
        shelf.store.check()
        shelf.store.remove(HASH)
        assert _get(client).status == 404


@pytest.fixture
def port(shelf: Shelf) -> Iterator[int]:
    """Where the shelf is being served by the real server, with an image that no socket's buffer takes."""
    shelf.publish(BIG)
    port = free_port()
    server = uvicorn.Server(server_config(shelf.app, "127.0.0.1", port))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert eventually(lambda: server.started)
    yield port
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@contextlib.contextmanager
def _begun_download(port: int, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """Its first bytes have been read, and no more are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", f"/store/{HASH}/{NAME}", headers=headers)
        with connection.getresponse() as response:
            yield response


def test_a_download_that_stands_still_keeps_its_result_and_ends_whole(shelf: Shelf, port: int) -> None:
    with _begun_download(port) as response:
        received = hashlib.sha256(response.read(1 << 20))
        for _ in range(20):
            with pytest.raises(StillRead):
                shelf.store.remove(HASH)
            time.sleep(0.01)
        while piece := response.read(1 << 20):
            received.update(piece)
    assert received.digest() == hashlib.sha256(BIG).digest()
    assert eventually(shelf.is_free)


def test_a_part_that_stands_still_keeps_its_result_too(shelf: Shelf, port: int) -> None:
    with _begun_download(port, Range="bytes=5-") as response:
        assert response.status == 206
        with pytest.raises(StillRead):
            shelf.store.remove(HASH)
        assert len(response.read()) == len(BIG) - 5


def test_a_client_who_goes_away_in_the_middle_lets_the_result_go(shelf: Shelf, port: int) -> None:
    with _begun_download(port) as response:
        response.read(1000)
        assert not shelf.is_free()
    assert eventually(shelf.is_free)


def test_a_result_that_goes_first_is_404_and_not_half_a_file(shelf: Shelf, port: int) -> None:
    shelf.store.remove(HASH)
    with _begun_download(port) as response:
        assert response.status == 404
    assert shelf.used == []


@pytest.mark.parametrize(
    ("method", "headers", "status", "uses"),
    [
        ("GET", {}, 200, [HASH]),
        ("GET", {"Range": "bytes=0-9"}, 206, [HASH]),
        ("HEAD", {}, 200, []),
        ("HEAD", {"Range": "bytes=0-9"}, 206, []),
        ("GET", {"If-None-Match": "*"}, 304, []),
        ("GET", {"Range": "bytes=999999999-"}, 416, []),
    ],
)
def test_only_an_answer_with_bytes_counts_as_a_use_and_each_lets_go(
    shelf: Shelf, method: str, headers: dict[str, str], status: int, uses: list[str]
) -> None:
    with AsgiClient(shelf.app) as client:
        answer = client.request(method, f"/store/{HASH}/{NAME}", headers=headers)
    assert answer.status == status
    assert shelf.used == uses
    assert shelf.is_free()


def test_a_missing_file_is_no_use_and_lets_go(shelf: Shelf) -> None:
    with AsgiClient(shelf.app) as client:
        assert client.get(f"/store/{HASH}/missing.bin").status == 404
    assert shelf.used == []
    assert shelf.is_free()


@pytest.fixture
def delegating(tmp_path: Path) -> Iterator[Shelf]:
    """Lets a trusted proxy send its images."""
    shelf = Shelf(tmp_path / "delegating", accel_redirect="/asu-store/")
    shelf.publish(CONTENT)
    yield shelf
    shelf.threads.close()


def _ask(shelf: Shelf, peer: str, name: str = NAME, *, method: str = "GET", **headers: str) -> Answer:
    async def ask() -> Answer:
        return await client.ask(method, f"/store/{HASH}/{name}", headers=headers, peer=peer)

    client = AsgiClient(shelf.app)
    return asyncio.run(ask())


@pytest.mark.parametrize(
    "headers", [{}, {"Range": "bytes=5-9"}, {"Range": "bytes=99999999-"}, {"If-None-Match": "*"}]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_trusted_proxy_is_told_where_the_image_is(
    delegating: Shelf, method: str, headers: dict[str, str]
) -> None:
    answer = _ask(delegating, "10.1.2.3", method=method, **headers)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("x-accel-redirect") == f"/asu-store/{HASH}/{NAME}"
    assert answer.header("content-length") == "0"
    assert answer.header("content-type") == "application/octet-stream"
    assert answer.header("content-disposition") == f'attachment; filename="{NAME}"'
    for name in ("etag", "last-modified", "accept-ranges", "content-range"):
        assert answer.header(name) is None, "the proxy's own is right"
    assert delegating.used == ([HASH] if method == "GET" else [])
    assert delegating.is_free()


def test_who_is_no_trusted_proxy_gets_the_image_itself(delegating: Shelf) -> None:
    answer = _ask(delegating, "192.0.2.1", **{"X-Forwarded-For": "10.1.2.3"})
    assert answer.body == CONTENT
    assert answer.header("x-accel-redirect") is None


def test_without_the_setting_a_trusted_proxy_gets_the_image_itself(shelf: Shelf) -> None:
    assert _ask(shelf, "10.1.2.3").body == CONTENT


@pytest.mark.parametrize("asked", ["a+b.bin", "a%2bb.bin", "a%2Bb%2ebin"])
def test_a_proxy_is_told_a_name_as_the_file_has_it(delegating: Shelf, asked: str) -> None:
    (delegating.root / HASH / "a+b.bin").write_bytes(b"x")
    answer = _ask(delegating, "10.1.2.3", asked)
    assert answer.header("x-accel-redirect") == f"/asu-store/{HASH}/a+b.bin"


@pytest.mark.parametrize("name", ["missing.bin", ".installation", "..", "a%0d%0ab", "%2e%2e%2fx"])
def test_a_proxy_is_told_of_no_file_that_is_not_served(delegating: Shelf, name: str) -> None:
    answer = _ask(delegating, "10.1.2.3", name)
    assert answer.status == 404
    assert answer.header("x-accel-redirect") is None


def test_a_store_that_cannot_be_read_is_503(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        if Path(path).name == NAME:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(path, flags)

    open_file = os.open
    with AsgiClient(shelf.app) as client:
        monkeypatch.setattr(os, "open", refuse)
        answer = _get(client)
    assert (answer.status, answer.header("retry-after")) == (503, "10")
    monkeypatch.undo()
    assert shelf.is_free()


@pytest.fixture
def opened_in_threads(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread in which each download has opened its file, on a disk that tells what is in memory."""
    opened: list[str] = []

    def note(request_hash: str, name: str) -> Path | None:
        opened.append(threading.current_thread().name)
        return locate(request_hash, name)

    def find(file: int, buffers: Sequence[bytearray], start: int, flags: int) -> int:
        return preadv(file, buffers, start)

    locate, preadv = shelf.store.locate, os.preadv
    monkeypatch.setattr(shelf.store, "locate", note)
    monkeypatch.setattr(os, "preadv", find)
    return opened


def test_parts_that_are_asked_for_one_after_another_need_one_thread(
    shelf: Shelf, opened_in_threads: list[str]
) -> None:
    with AsgiClient(shelf.app) as client:
        for first in range(4):
            assert _get(client, Range=f"bytes={first}-{first}").body == CONTENT[first : first + 1]
            assert shelf.used == [HASH] * (first + 1)
    assert [name.startswith("test") for name in opened_in_threads] == [True, False, False, False]
    assert shelf.is_free()


def test_a_thread_opens_a_file_again_after_some_seconds_and_where_nothing_tells_what_is_in_memory(
    shelf: Shelf, opened_in_threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with AsgiClient(shelf.app) as client:
        monkeypatch.setattr("asu_builder.http.api.store._LATELY_SECONDS", -1.0)
        assert _get(client).body == _get(client).body == CONTENT
        monkeypatch.undo()
        monkeypatch.setattr(os, "preadv", refuse)
        shelf.publish(CONTENT)
        assert _get(client).body == _get(client).body == CONTENT
    assert all(name.startswith("test") for name in opened_in_threads)


def refuse(*_: object) -> int:
    """As a file system that does not tell what is in memory."""
    raise OSError(errno.EOPNOTSUPP, "not supported")


def test_what_is_gone_or_new_is_seen_at_once_without_a_thread(
    shelf: Shelf, opened_in_threads: list[str]
) -> None:
    with AsgiClient(shelf.app) as client:
        etag = _get(client).header("etag")
        shelf.publish(CONTENT[::-1])
        answer = _get(client)
        assert (answer.body, answer.header("etag") == etag) == (CONTENT[::-1], False)
        assert shelf.is_free()
        assert _get(client).status == 404
    assert [name.startswith("test") for name in opened_in_threads] == [True, False, False]


def test_a_thread_waits_where_the_result_is_just_being_removed(
    shelf: Shelf, opened_in_threads: list[str]
) -> None:
    with AsgiClient(shelf.app) as client:
        assert _get(client).body == CONTENT
        with opened(shelf.root / HASH) as directory:
            assert lock_alone(directory)
            timer = threading.Timer(0.05, fcntl.flock, (directory, fcntl.LOCK_UN))
            timer.start()
            assert _get(client).body == CONTENT
            timer.join()
    assert [name.startswith("test") for name in opened_in_threads] == [True, True]


class SlowHold:
    """Is entered when it may, and notes its end; garbage collection ends nothing."""

    def __init__(self) -> None:
        self.asked, self.may, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.asked.set()
        assert self.may.wait(60)

    def __exit__(self, *_: object) -> None:
        self.ended.set()


def test_a_client_who_goes_away_before_the_result_is_held_lets_it_go(shelf: Shelf, tmp_path: Path) -> None:
    """The thread that takes it cannot be stopped, and no client waits for it any more."""
    hold = SlowHold()

    class Slow(LocalStore):
        def hold(self, request_hash: str, *, wait: bool = True) -> Any:
            return hold

    async def go_away() -> None:
        request = a_request()
        slow = Slow(tmp_path / "shelf", installation="ours")
        downloads = Downloads(slow, shelf.threads, callers=Callers((), ()), settings=Settings())
        answer = await downloads.download(request)
        asking = asyncio.ensure_future(answer(request.scope, request.receive, ignore))
        await asyncio.to_thread(hold.asked.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not hold.ended.is_set()
        hold.may.set()
        assert await asyncio.to_thread(eventually, hold.ended.is_set)

    asyncio.run(go_away())


class InBucket:
    """A store of one file that is no path; it notes what is read of it."""

    def __init__(self) -> None:
        self.size, self.etag = len(CONTENT), "5-x"
        self.modified_at = NOON
        self.read_bytes = 0
        self.located = 0
        self.gone = False

    def hold(self, request_hash: str, *, wait: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def locate(self, request_hash: str, name: str) -> "InBucket | None":
        self.located += 1
        return self if (request_hash, name) == (HASH, NAME) and not self.gone else None

    def missing(self) -> str:
        return ""

    async def read(self, start: int, count: int) -> memoryview:
        if self.gone:
            raise BuildNotFound("It is gone.")
        self.read_bytes += count
        return memoryview(CONTENT)[start : start + count]

    def signed_url(self) -> str:
        return "https://bucket.example.org/x?signature=1"


@pytest.fixture(params=[False, True])
def bucket(request: pytest.FixtureRequest) -> Iterator[tuple[InBucket, AsgiClient, list[str], bool]]:
    """The file, a client, what was used, and whether downloads are redirected."""
    store, used, threads = InBucket(), list[str](), Threads(1, name="test")
    settings = Settings(store_url="s3://images", store_redirect=request.param)
    downloads = Downloads(
        store,  # type: ignore[arg-type]
        threads,
        callers=Callers((), ()),
        settings=settings,
        on_use=used.append,
    )
    route = Route("/store/{request_hash}/{name}", downloads.download, methods=["GET", "HEAD"])
    hook = make_error_hook(lambda _: False)
    app = Starlette(routes=[route], exception_handlers={BuildNotFound: hook, Unavailable: hook})
    with AsgiClient(app) as client:
        yield store, client, used, request.param
    threads.close()


def test_a_file_in_a_bucket_is_sent_or_redirected_to_and_head_is_answered_by_its_row(
    bucket: tuple[InBucket, AsgiClient, list[str], bool],
) -> None:
    store, client, used, redirects = bucket
    address = f"/store/{HASH}/{NAME}"
    head = client.request("HEAD", address)
    assert (head.status, head.header("content-length"), head.body) == (200, str(len(CONTENT)), b"")
    assert head.header("content-type") == "application/octet-stream"
    assert head.header("etag") == '"5-x"'
    for headers, status in (({"If-None-Match": '"5-x"'}, 304), ({"Range": "bytes=99999999-"}, 416)):
        assert client.request("GET", address, headers=headers).status == status
    assert (store.read_bytes, used) == (0, [])
    whole = client.request("GET", address)
    part = client.request("GET", address, headers={"Range": "bytes=10-19"})
    assert used == [HASH, HASH]
    if redirects:
        for answer in (whole, part):
            assert (answer.status, answer.body) == (302, b"")
            assert answer.header("location") == store.signed_url()
            assert answer.header("cache-control") == "no-store"
        assert store.read_bytes == 0
    else:
        assert (whole.status, whole.body) == (200, CONTENT)
        assert (part.status, part.body) == (206, CONTENT[10:20])
        assert store.read_bytes == len(CONTENT) + 10
    assert store.located == 1, "who asks for parts asks often"
    assert client.get(f"/store/{HASH}/other.bin").status == 404


def test_a_file_that_is_gone_from_its_bucket_is_404_and_looked_for_again(
    bucket: tuple[InBucket, AsgiClient, list[str], bool],
) -> None:
    store, client, _, redirects = bucket
    address = f"/store/{HASH}/{NAME}"
    assert client.get(address).status in (200, 302)
    store.gone = True
    if not redirects:
        assert [client.get(address).status for _ in range(2)] == [404, 404]
        assert store.located == 2
