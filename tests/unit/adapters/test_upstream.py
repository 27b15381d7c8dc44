import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.adapters.database import Database
from asu_builder.adapters.upstream import FRESH_FOR, MISSING_FOR, HttpUpstream
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.release import parse_release
from asu_builder.sample.server import DownloadServer
from factories import UPSTREAM, Clock, eventually

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


@pytest.fixture
def server(downloads: Path) -> Iterator[DownloadServer]:
    with DownloadServer(downloads) as running:
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "a.db")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstream(server: DownloadServer, database: Database, clock: Clock) -> Iterator[HttpUpstream]:
    opened = HttpUpstream(server.url, database, now=clock)
    yield opened
    opened.close()


def test_the_metadata_is_read_and_unknown_keys_are_ignored(upstream: HttpUpstream) -> None:
    assert upstream.versions() == ["24.10.4", "24.10.5"]
    assert upstream.targets(RELEASE) == {"pico/nine": "pico_9kc"}
    described = upstream.target_profiles(RELEASE, "pico/nine")
    assert described is not None
    assert (described.revision, described.architecture) == ("r1-abc", "pico_9kc")
    assert described.profiles == {"acme_widget-5": ("acme,widget-5", "widget5"), "acme_old": ()}


def test_what_upstream_does_not_have_is_none(upstream: HttpUpstream) -> None:
    assert upstream.targets(parse_release("24.10-SNAPSHOT")) is None
    assert upstream.target_profiles(RELEASE, "x86/64") is None


def test_a_fresh_document_costs_no_request(upstream: HttpUpstream, server: DownloadServer) -> None:
    for _ in range(5):
        upstream.versions()
    assert server.requests["/.versions.json"] == 1


def test_an_old_document_is_answered_at_once_and_renewed_behind(
    upstream: HttpUpstream, server: DownloadServer, downloads: Path, clock: Clock
) -> None:
    upstream.versions()
    (downloads / ".versions.json").write_text('{"versions_list": ["25.12.0"]}')
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    server.delay = timedelta(seconds=0.3)
    assert upstream.versions() == ["24.10.4", "24.10.5"]
    assert eventually(lambda: upstream.versions() == ["25.12.0"])


def test_an_unchanged_document_is_revalidated_not_fetched(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    upstream.versions()
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    upstream.versions()
    assert eventually(lambda: server.requests["/.versions.json"] == 2)
    assert upstream.versions() == ["24.10.4", "24.10.5"]


def test_a_broken_upstream_leaves_the_last_known_documents(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    upstream.versions()
    server.broken = True
    for _ in range(3):
        clock.forward(FRESH_FOR + timedelta(seconds=1))
        assert upstream.versions() == ["24.10.4", "24.10.5"]
    with pytest.raises(Unavailable, match="download server"):
        upstream.targets(RELEASE)


def test_after_a_restart_the_last_known_documents_serve_without_upstream(
    upstream: HttpUpstream, server: DownloadServer, database: Database, clock: Clock
) -> None:
    upstream.versions()
    upstream.target_profiles(RELEASE, "pico/nine")
    server.broken = True
    again = HttpUpstream(server.url, database, now=clock)
    assert again.versions() == ["24.10.4", "24.10.5"]
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


def test_many_who_ask_for_the_same_unknown_document_cause_one_request(
    upstream: HttpUpstream, server: DownloadServer
) -> None:
    server.delay = timedelta(seconds=0.2)
    gate = threading.Barrier(8)

    def ask(_: int) -> object:
        gate.wait()
        return upstream.versions()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [["24.10.4", "24.10.5"]] * 8
    assert server.requests["/.versions.json"] == 1


@pytest.mark.parametrize("text", ["", "<html>", '{"versions_list": 3}'])
def test_a_document_that_is_not_what_it_should_be_is_the_worlds_fault(
    upstream: HttpUpstream, downloads: Path, text: str
) -> None:
    (downloads / ".versions.json").write_text(text)
    with pytest.raises(Unavailable, match="not what it should be"):
        upstream.versions()


def test_nobody_listening_is_a_sentence(database: Database, clock: Clock) -> None:
    upstream = HttpUpstream("http://127.0.0.1:9", database, now=clock)
    with pytest.raises(Unavailable, match=r"download server http://127\.0\.0\.1:9 does not answer"):
        upstream.versions()
    upstream.close()


def test_metadata_of_real_size_is_understood(database: Database, clock: Clock) -> None:
    if not UPSTREAM.exists():
        pytest.skip("no recorded upstream metadata here")
    with DownloadServer(UPSTREAM) as server:
        upstream = HttpUpstream(server.url, database, now=clock)
        release = parse_release("25.12.0")
        assert "25.12.0" in upstream.versions()
        targets = upstream.targets(release)
        assert targets is not None
        assert targets["ath79/generic"] == "mips_24kc"
        described = upstream.target_profiles(release, "ath79/generic")
        assert described is not None
        assert len(described.profiles) == 378
        upstream.close()
