"""How documents of upstream are waited for: by a reading, which holds no thread, or in a thread."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from asu_builder.database.connection import Database
from asu_builder.domain.errors import TooManyRequests, Unavailable, UpstreamUnavailable
from asu_builder.domain.reading import Reading, read_whole
from asu_builder.domain.release import parse_release
from asu_builder.upstream.fetches import FIRST_PAUSE, Asking
from asu_builder.upstream.memory import FRESH_FOR, DocumentMemory
from asu_builder.upstream.offer import HttpUpstream
from asu_builder.upstream.server import UpstreamServer
from factories import Clock, eventually
from hanging_server import HangingServer
from odd_server import odd_server

RELEASE = parse_release("24.10.5")
LIST = "/.versions.json"
T = TypeVar("T")


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    root = tmp_path / "downloads"
    write(root, ".versions.json", {"versions_list": ["24.10.5"]})
    write(root, "releases/24.10.5/.targets.json", {"pico/nine": "pico_9kc"})
    for feed in ("base", "luci", "vim"):
        write(
            root,
            f"releases/24.10.5/packages/pico_9kc/{feed}/index.json",
            {"version": 2, "packages": {feed: "1"}},
        )
    (root / "releases/24.10.5/packages/pico_9kc/feeds.conf").write_text("src-git luci x^1\nsrc-git vim x^2\n")
    return root


def write(root: Path, path: str, document: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(document))


@pytest.fixture
def server(downloads: Path) -> Iterator[HangingServer]:
    with HangingServer(downloads) as running:
        yield running


def one_round(reading: Reading, call: Callable[[], T]) -> T | Unavailable:
    """What the code makes of what is here now."""
    reading.begin_round()
    with reading.active():
        try:
            return call()
        except Unavailable as error:
            return error


def arrived(reading: Reading) -> None:
    """Waits for what the last round lacked."""
    for fetches, _ in reading.waits:
        assert not wait(fetches, timeout=10).not_done


def test_a_reading_notes_what_it_lacks_and_is_told_when_it_is_here(
    upstream: HttpUpstream, server: HangingServer
) -> None:
    server.hang(LIST)
    reading = Reading()
    refusal = one_round(reading, upstream.versions)
    assert isinstance(refusal, Unavailable) and not isinstance(refusal, UpstreamUnavailable)
    assert reading.lacks and not len(reading.sources)

    server.release()
    arrived(reading)
    found = one_round(reading, upstream.versions)
    assert not isinstance(found, Unavailable)
    assert (found.listed, reading.lacks, len(reading.sources)) == (("24.10.5",), False, 1)


def test_documents_of_one_answer_are_fetched_side_by_side(
    upstream: HttpUpstream, server: HangingServer
) -> None:
    base = "/releases/24.10.5/packages/pico_9kc"
    feeds = [f"{base}/{feed}/index.json" for feed in ("base", "luci", "vim")]

    def packages() -> object:
        return upstream.architecture_packages(RELEASE, "pico_9kc")

    server.hang(*feeds)
    reading = Reading()
    one_round(reading, packages)
    arrived(reading)
    assert isinstance(one_round(reading, packages), Unavailable)
    assert eventually(lambda: all(server.requests[feed] for feed in feeds)), "none waits for another"
    server.release()
    arrived(reading)
    assert one_round(reading, packages) == {"base": "1", "luci": "1", "vim": "1"}


def test_identical_waits_share_one_request(upstream: HttpUpstream, server: HangingServer) -> None:
    server.hang(LIST)
    readings = [Reading(f"192.0.2.{number}") for number in range(50)]
    for reading in readings:
        one_round(reading, upstream.versions)
    server.release()
    for reading in readings:
        arrived(reading)
        assert not isinstance(one_round(reading, upstream.versions), Unavailable)
    assert server.requests[LIST] == 1


def test_an_old_document_is_asked_for_again_before_it_is_used(
    upstream: HttpUpstream, downloads: Path, clock: Clock
) -> None:
    upstream.versions()
    write(downloads, ".versions.json", {"versions_list": ["25.12.0"]})
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    reading = Reading()
    assert read_whole(upstream.versions, reading).listed == ("25.12.0",)
    assert reading.sources.age == reading.sources.stale_for == 0


def test_a_slow_upstream_leaves_the_old_document_and_only_the_first_wait(
    upstream: HttpUpstream, server: HangingServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.versions()
    server.hang(LIST)
    clock.forward(FRESH_FOR + timedelta(seconds=30))
    monkeypatch.setattr("asu_builder.domain.reading.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("asu_builder.upstream.documents.AGAIN_SECONDS", 0.05)
    reading = Reading()
    assert read_whole(upstream.versions, reading).listed == ("24.10.5",)
    assert (reading.sources.age, reading.sources.stale_for) == (330, 30)

    second = Reading()
    one_round(second, upstream.versions)
    assert not second.lacks, "upstream is known to be slow"
    assert server.requests[LIST] == 2


def test_a_failing_upstream_leaves_the_old_document_until_it_is_too_old(
    upstream: HttpUpstream, server: HangingServer, clock: Clock
) -> None:
    upstream.versions()
    server.broken = True
    clock.forward(timedelta(days=6))
    assert read_whole(upstream.versions, Reading()).listed == ("24.10.5",)
    clock.forward(timedelta(days=2))
    with pytest.raises(UpstreamUnavailable):
        read_whole(upstream.versions, Reading())
    server.broken = False
    clock.forward(FIRST_PAUSE * 10)
    assert read_whole(upstream.versions, Reading()).listed == ("24.10.5",)


@pytest.mark.parametrize("status", [403, 429, 500, 502, 503])
def test_a_list_that_may_not_be_read_any_more_is_not_taken_for_absent(
    status: int, downloads: Path, tmp_path: Path, clock: Clock
) -> None:
    database = Database(tmp_path / "odd.db")
    with odd_server(downloads) as server:
        upstream = HttpUpstream(server.url, database, now=clock)
        assert upstream.versions().listed == ("24.10.5",)
        assert upstream.targets(RELEASE) == {"pico/nine": "pico_9kc"}
        server.odd.update({LIST: status, ".targets.json": status})
        clock.forward(timedelta(days=6))
        assert read_whole(upstream.versions, Reading()).listed == ("24.10.5",)
        assert read_whole(partial(upstream.targets, RELEASE), Reading()) == {"pico/nine": "pico_9kc"}
        upstream.close()
    database.close()


def test_who_has_waited_long_enough_is_told_to_come_back(
    upstream: HttpUpstream, server: HangingServer
) -> None:
    server.hang(LIST)
    with pytest.raises(Unavailable, match="being fetched") as caught:
        read_whole(upstream.versions, Reading(patience=0.05))
    assert caught.value.retry_after == 3
    server.release()
    assert read_whole(upstream.versions, Reading()).listed == ("24.10.5",)
    assert server.requests[LIST] == 1, "what was on its way was not asked for again"


def test_who_may_fetch_nothing_gets_what_is_here_however_old(
    upstream: HttpUpstream, server: HangingServer, clock: Clock
) -> None:
    asked: list[int] = []

    def refuse() -> TooManyRequests:
        asked.append(1)
        return TooManyRequests("Too many.", retry_after=7)

    def both() -> object:
        return upstream.versions(), upstream.targets(RELEASE)

    with pytest.raises(TooManyRequests):
        read_whole(both, Reading(admit=refuse))
    assert asked == [1] and not server.requests
    upstream.versions()
    upstream.targets(RELEASE)
    read_whole(both, Reading(admit=refuse))
    assert asked == [1], "what is here costs nothing"
    clock.forward(FRESH_FOR * 2)
    reading = Reading(admit=refuse)
    read_whole(both, reading)
    assert reading.sources.stale_for > 0 and server.requests[LIST] == 1


def test_while_no_connection_can_be_made_everything_is_refused_at_once(
    database: Database, clock: Clock
) -> None:
    upstream = HttpUpstream("http://127.0.0.1:9", database, now=clock, clock=lambda: clock().timestamp())
    with pytest.raises(UpstreamUnavailable, match="does not answer"):
        read_whole(upstream.versions, Reading())
    reading = Reading()
    refusal = one_round(reading, lambda: upstream.targets(RELEASE))
    assert isinstance(refusal, UpstreamUnavailable) and not reading.lacks, "another document, never asked for"
    upstream.close()


def test_a_document_that_hangs_is_no_sign_that_upstream_is_down(
    upstream: HttpUpstream, server: HangingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.upstream.server._READ_SECONDS", 0.1)
    server.hang("/releases/24.10.5/targets/")
    with pytest.raises(UpstreamUnavailable):
        read_whole(lambda: upstream.target_profiles(RELEASE, "pico/nine"), Reading())
    assert read_whole(upstream.versions, Reading()).listed == ("24.10.5",)


@pytest.mark.parametrize(
    "target",
    ["../..?q=1", "..", "pico/../..", "pico/nine#x", "pico//nine", "/pico", "pico/nine%2e", "", "pico/ \n"],
)
def test_a_name_that_would_lead_elsewhere_is_never_asked_for(
    upstream: HttpUpstream, server: HangingServer, target: str
) -> None:
    assert upstream.target_profiles(RELEASE, target) is None
    assert not server.requests


def test_a_copy_that_came_since_the_caller_looked_is_not_asked_for_again(
    database: Database, clock: Clock, server: HangingServer
) -> None:
    memory = DocumentMemory(database, now=clock, clock=time.monotonic)
    asking = Asking(UpstreamServer(server.url), memory, on_missing=lambda _: None, clock=time.monotonic)
    path = LIST.removeprefix("/")
    for _ in range(2):
        # As a caller does that was held up between its look and its question.
        asking.ask(path, json.loads, instead_of=None).future.result(60)
    assert server.requests[LIST] == 1
    asking.ask(path, json.loads, instead_of=memory.known(f"{server.url}/{path}")).future.result(60)
    assert server.requests[LIST] == 2


def test_what_nobody_reads_within_a_reading_is_waited_for_in_the_thread(
    upstream: HttpUpstream, server: HangingServer
) -> None:
    server.hang(LIST)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(upstream.versions) for _ in range(8)]
        assert eventually(lambda: server.requests[LIST] == 1)
        server.release()
        assert {found.result(60).listed for found in asked} == {("24.10.5",)}
    assert server.requests[LIST] == 1
