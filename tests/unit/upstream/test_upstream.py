import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from asu_builder.database.connection import Database
from asu_builder.domain.errors import Unavailable, UpstreamUnavailable
from asu_builder.domain.release import parse_release
from asu_builder.upstream.fetches import FIRST_PAUSE
from asu_builder.upstream.memory import FRESH_FOR, MISSING_FOR
from asu_builder.upstream.offer import HttpUpstream
from asu_sample.server import DownloadServer
from factories import UPSTREAM, Clock, eventually, sooner_than

RELEASE = parse_release("24.10.5")
PROFILES = "releases/24.10.5/targets/pico/nine/profiles.json"


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    root = tmp_path / "downloads"
    described = {
        "version_code": "r1-abc",
        "arch_packages": "pico_9kc",
        "default_packages": ["base-files"],
        "profiles": {"acme_widget-5": {"supported_devices": ["acme,widget-5", "widget5"]}, "acme_old": {}},
        "a key of the future": {"x": [1]},
    }
    for path, document in {
        ".versions.json": {"stable_version": "24.10.5", "versions_list": ["24.10.4", "24.10.5"]},
        "releases/24.10.5/.targets.json": {"pico/nine": "pico_9kc"},
        PROFILES: described,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(document))
    return root


def reading(url: str, database: Database, clock: Clock) -> HttpUpstream:
    """One whose two clocks go together."""
    return HttpUpstream(url, database, now=clock, clock=lambda: clock().timestamp())


def test_the_metadata_is_read_and_unknown_keys_are_ignored(upstream: HttpUpstream) -> None:
    assert patiently(upstream.versions).listed == ("24.10.4", "24.10.5")
    assert patiently(lambda: upstream.targets(RELEASE)) == {"pico/nine": "pico_9kc"}
    described = patiently(lambda: upstream.target_profiles(RELEASE, "pico/nine"))
    assert described is not None
    assert (described.revision, described.architecture) == ("r1-abc", "pico_9kc")
    assert described.profiles == {"acme_widget-5": ("acme,widget-5", "widget5"), "acme_old": ()}


def test_what_upstream_does_not_have_is_none(upstream: HttpUpstream) -> None:
    assert patiently(lambda: upstream.targets(parse_release("24.10-SNAPSHOT"))) is None
    assert patiently(lambda: upstream.target_profiles(RELEASE, "x86/64")) is None


def test_a_fresh_document_costs_no_request(upstream: HttpUpstream, server: DownloadServer) -> None:
    for _ in range(5):
        patiently(upstream.versions)
    assert server.requests["/.versions.json"] == 1


def test_an_unchanged_document_is_revalidated_not_fetched(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    upstream.versions()
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    upstream.versions()
    assert eventually(lambda: server.requests["/.versions.json"] == 2)
    assert upstream.versions().listed == ("24.10.4", "24.10.5")


def test_a_broken_upstream_leaves_the_last_known_documents(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    upstream.versions()
    server.broken = True
    for _ in range(3):
        clock.forward(FRESH_FOR + timedelta(seconds=1))
        assert upstream.versions().listed == ("24.10.4", "24.10.5")
    with pytest.raises(UpstreamUnavailable, match="download server"):
        upstream.targets(RELEASE)


def test_after_a_restart_the_last_known_documents_serve_without_upstream(
    upstream: HttpUpstream, server: DownloadServer, database: Database, clock: Clock
) -> None:
    upstream.versions()
    upstream.target_profiles(RELEASE, "pico/nine")
    server.broken = True
    again = reading(server.url, database, clock)
    assert again.versions().listed == ("24.10.4", "24.10.5")
    assert again.target_profiles(RELEASE, "pico/nine") == upstream.target_profiles(RELEASE, "pico/nine")
    again.close()


def test_a_new_release_becomes_visible_without_a_restart(
    upstream: HttpUpstream, downloads: Path, clock: Clock
) -> None:
    new = parse_release("25.12.0")
    assert upstream.targets(new) is None
    (downloads / "releases/25.12.0").mkdir()
    (downloads / "releases/25.12.0/.targets.json").write_text('{"pico/nine": "pico_9kc"}')
    clock.forward(MISSING_FOR + timedelta(seconds=1))
    assert eventually(lambda: upstream.targets(new) == {"pico/nine": "pico_9kc"})


Answer = TypeVar("Answer")


def patiently(ask: Callable[[], Answer]) -> Answer:
    """The answer of an upstream that is merely slow, as on a busy machine."""
    until = time.monotonic() + 60
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def refusal_of(ask: Callable[[], object]) -> Unavailable:
    """What the caller is told, who must not wait for upstream to the end."""
    with sooner_than(30), pytest.raises(Unavailable) as caught:
        ask()
    return caught.value


def known(upstream: HttpUpstream) -> bool:
    """Whether the list of versions has arrived."""
    try:
        return upstream.versions().listed == ("24.10.4", "24.10.5")
    except Unavailable:
        return False


def test_a_dead_upstream_is_asked_again_only_after_a_while_and_told_of_once(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.broken = True
    assert eventually(lambda: "answered 500" in str(refusal_of(upstream.versions)))
    asked = server.requests["/.versions.json"]
    for _ in range(20):
        refusal_of(upstream.versions)
    assert server.requests["/.versions.json"] == asked
    assert len([record for record in caplog.records if "answered 500" in record.message]) == 1
    server.broken = False
    clock.forward(FIRST_PAUSE)
    assert eventually(lambda: known(upstream))
    assert "answers again" in caplog.records[-1].message


def refused_for(upstream: HttpUpstream) -> int:
    """Seconds until asking for the versions again may help."""
    return refusal_of(upstream.versions).retry_after


def test_a_path_that_keeps_failing_is_asked_for_less_and_less_often(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    server.broken = True
    for pause in (5, 10, 20, 40, 60, 60):
        assert eventually(lambda pause=pause: refused_for(upstream) == pause)  # type: ignore[misc]
        asked = server.requests["/.versions.json"]
        clock.forward(timedelta(seconds=pause - 1))
        assert refused_for(upstream) == 1
        assert server.requests["/.versions.json"] == asked
        clock.forward(timedelta(seconds=1))
    server.broken = False
    assert eventually(lambda: known(upstream))


def test_health_tells_of_a_dead_upstream_and_notices_by_itself_that_it_is_back(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    assert upstream.check().status == "ok"
    upstream.versions()
    server.broken = True
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    upstream.versions()
    assert eventually(lambda: upstream.check().status == "warning")
    result = upstream.check()
    assert "answered 500" in result.sentence and "seen before" in result.sentence
    server.broken = False
    clock.forward(FIRST_PAUSE)
    assert eventually(lambda: upstream.check().status == "ok"), "nobody else has asked for anything"


@pytest.mark.parametrize("leap", [timedelta(days=-400), timedelta(days=400)])
def test_a_clock_on_the_wall_that_leaps_neither_hammers_nor_freezes_upstream(
    server: DownloadServer, database: Database, downloads: Path, leap: timedelta
) -> None:
    wall, steady = Clock(), Clock()
    upstream = HttpUpstream(server.url, database, now=wall, clock=lambda: steady().timestamp())
    upstream.versions()
    wall.forward(leap)
    for _ in range(5):
        upstream.versions()
    assert server.requests["/.versions.json"] == 1
    (downloads / ".versions.json").write_text('{"versions_list": ["25.12.0"]}')
    steady.forward(FRESH_FOR + timedelta(seconds=1))
    assert eventually(lambda: upstream.versions().listed == ("25.12.0",))
    upstream.close()


def test_a_document_stored_in_the_future_is_old(
    upstream: HttpUpstream, server: DownloadServer, database: Database, clock: Clock
) -> None:
    upstream.versions()
    clock.forward(timedelta(days=-30))
    again = reading(server.url, database, clock)
    assert again.versions().listed == ("24.10.4", "24.10.5")
    assert eventually(lambda: server.requests["/.versions.json"] == 2)
    again.close()


def test_a_document_stored_a_moment_ago_is_fresh(
    upstream: HttpUpstream, server: DownloadServer, database: Database, clock: Clock
) -> None:
    upstream.versions()
    clock.forward(FRESH_FOR - timedelta(seconds=1))
    again = reading(server.url, database, clock)
    for _ in range(3):
        again.versions()
        time.sleep(0.02)
    assert server.requests["/.versions.json"] == 1
    again.close()


class FullDatabase(Database):
    """One whose disk is full."""

    def writing(self, *, durable: bool = False, own_rows: bool = False) -> NoReturn:
        raise Unavailable("The database cannot be used: database or disk is full")


def test_a_document_that_cannot_be_stored_is_no_failure_of_upstream(
    server: DownloadServer, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    database = FullDatabase(tmp_path / "full.db")
    upstream = reading(server.url, database, clock)
    assert eventually(lambda: known(upstream))
    assert upstream.check().status == "ok"
    assert "could not be stored: The database cannot be used" in caplog.text
    upstream.close()
    database.close()


@pytest.mark.parametrize("keep", [0, 20])
def test_a_truncated_document_leaves_the_last_known_one(
    tmp_path: Path, database: Database, clock: Clock, keep: int
) -> None:
    with TruncatingServer() as server:
        upstream = reading(server.url, database, clock)
        assert eventually(lambda: known(upstream))
        server.keep = keep
        clock.forward(FRESH_FOR + timedelta(seconds=1))
        assert upstream.versions().listed == ("24.10.4", "24.10.5")
        assert eventually(lambda: server.truncated > 0)
        assert upstream.versions().listed == ("24.10.4", "24.10.5")
        upstream.close()


class TruncatingServer:
    """A server that promises a whole document and can hang up in the middle of it."""

    _BODY = b'{"versions_list": ["24.10.4", "24.10.5"]}'

    def __init__(self) -> None:
        self.keep: int | None = None
        self.truncated = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "TruncatingServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._BODY)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + self._BODY[: self.keep])
                self.truncated += self.keep is not None


@pytest.mark.parametrize("text", ["", "<html>", '{"versions_list": 3}'])
def test_a_document_that_is_not_what_it_should_be_is_the_worlds_fault(
    upstream: HttpUpstream, downloads: Path, text: str
) -> None:
    (downloads / ".versions.json").write_text(text)
    with pytest.raises(Unavailable, match="not what it should be"):
        upstream.versions()


def test_nobody_listening_is_a_sentence(database: Database, clock: Clock) -> None:
    upstream = reading("http://127.0.0.1:9", database, clock)
    assert eventually(lambda: "http://127.0.0.1:9 does not answer" in str(refusal_of(upstream.versions)))
    upstream.close()


def test_indexes_of_both_editions_are_merged_over_feeds_and_kernel_modules(
    upstream: HttpUpstream, downloads: Path
) -> None:
    def write(path: str, text: str) -> None:
        (downloads / path).parent.mkdir(parents=True, exist_ok=True)
        (downloads / path).write_text(text)

    base = "releases/24.10.5"
    write(
        f"{base}/packages/pico_9kc/feeds.conf",
        "src-git base https://x/base^1\nsrc-git luci https://x^2\n# no\n",
    )
    write(
        f"{base}/packages/pico_9kc/base/index.json",
        '{"architecture": "pico_9kc", "packages": {"libfoo20240101": "1"}}',
    )
    write(
        f"{base}/packages/pico_9kc/base/Packages",
        "Package: libfoo20240101\nVersion: 1-r1\nABIVersion: 20240101\nDescription: a\n b: c\n\n"
        "Package: libpython3.3-0\nVersion: 3.3\nABIVersion: -0\n",
    )
    write(f"{base}/packages/pico_9kc/luci/index.json", '{"version": 2, "packages": {"luci": "25"}}')
    assert patiently(lambda: upstream.architecture_packages(RELEASE, "pico_9kc")) == {
        "libfoo": "1-r1",
        "libpython3.3": "3.3",
        "luci": "25",
    }
    described = json.loads((downloads / PROFILES).read_text())
    described["linux_kernel"] = {"version": "6.6.1", "release": "1", "vermagic": "abc"}
    write(PROFILES, json.dumps(described))
    write(f"{base}/targets/pico/nine/packages/index.json", '{"version": 2, "packages": {"base-files": "1"}}')
    write(
        f"{base}/targets/pico/nine/kmods/6.6.1-1-abc/index.json",
        '{"version": 2, "packages": {"kmod-usb": "6"}}',
    )
    assert patiently(lambda: upstream.target_packages(RELEASE, "pico/nine")) == {
        "base-files": "1",
        "kmod-usb": "6",
    }
    assert patiently(lambda: upstream.target_packages(RELEASE, "no/such")) is None
    assert patiently(lambda: upstream.architecture_packages(RELEASE, "nosuch")) is None


def test_one_profile_is_lifted_out_of_the_description(upstream: HttpUpstream) -> None:
    found = upstream.described_profile(RELEASE, "pico/nine", "acme_widget-5")
    assert found is not None
    document = json.loads(found)
    assert document["id"] == "acme_widget-5"
    assert document["version_code"] == "r1-abc"
    assert document["supported_devices"] == ["acme,widget-5", "widget5"]
    assert "profiles" not in document
    assert upstream.described_profile(RELEASE, "pico/nine", "nosuch") is None


def test_metadata_of_real_size_is_understood(database: Database, clock: Clock) -> None:
    if not UPSTREAM.exists():
        pytest.skip("no recorded upstream metadata here")
    with DownloadServer(UPSTREAM) as server:
        upstream = reading(server.url, database, clock)
        release = parse_release("25.12.0")
        assert "25.12.0" in patiently(upstream.versions).listed
        targets = patiently(lambda: upstream.targets(release))
        assert targets is not None
        assert targets["ath79/generic"] == "mips_24kc"
        described = patiently(lambda: upstream.target_profiles(release, "ath79/generic"))
        assert described is not None
        assert len(described.profiles) == 378
        packages = patiently(lambda: upstream.target_packages(release, "ath79/generic"))
        assert packages is not None
        assert "kmod-ath9k" in packages
        merged = patiently(lambda: upstream.architecture_packages(parse_release("24.10.5"), "x86_64"))
        assert merged is not None
        assert len(merged) > 300
        upstream.close()
