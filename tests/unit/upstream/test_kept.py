"""What is kept of upstream's documents: within bounds, and warm while somebody wants them."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database.dialect import SqlDatabase
from asu_builder.domain.reading import Reading, read_whole
from asu_builder.domain.release import parse_release
from asu_builder.upstream import memory
from asu_builder.upstream.documents import WarmPaths
from asu_builder.upstream.memory import FRESH_FOR
from asu_builder.upstream.offer import HttpUpstream
from asu_sample.server import DownloadServer
from factories import Clock, eventually
from fake_copies import FakeCopies
from postgresql import opened
from postgresql import unit_place as unit_place

RELEASE = parse_release("24.10.5")
TARGETS = [f"pico/t{number}" for number in range(40)]


@pytest.fixture
def database(unit_place: str, clock: Clock) -> Iterator[SqlDatabase]:
    opened_here = opened(unit_place)
    yield opened_here
    opened_here.close()


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    root = tmp_path / "downloads"
    documents: dict[str, object] = {
        ".versions.json": {"versions_list": ["24.10.5"]},
        "releases/24.10.5/.targets.json": dict.fromkeys(TARGETS, "pico_9kc"),
    }
    for target in TARGETS:
        documents[f"releases/24.10.5/targets/{target}/profiles.json"] = {
            "version_code": "r1-abc",
            "profiles": {"acme": {"supported_devices": ["x" * 1000]}},
        }
    for path, document in documents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(document))
    return root


def profiles_of(upstream: HttpUpstream, *targets: str) -> None:
    """Reads them as an answer to a client does."""
    for target in targets:
        read_whole(lambda target=target: upstream.target_profiles(RELEASE, target), Reading("192.0.2.1"))  # type: ignore[misc]


def stored(database: SqlDatabase) -> tuple[int, int]:
    """Documents in the database, and their bytes."""
    with database.reading() as connection:
        row = connection.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM upstream_documents WHERE path LIKE 'http%'"
        ).fetchone()
    return int(row[0]), int(row[1])


def test_the_table_stays_within_its_budget_and_the_latest_stay(
    upstream: HttpUpstream, database: SqlDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_STORED_BYTES", 20_000)
    monkeypatch.setattr(memory, "_PRUNE_EVERY", 4_000)
    for target in TARGETS:
        profiles_of(upstream, target)
        clock.forward(timedelta(seconds=1))
        assert stored(database)[1] <= 26_000
    upstream.tidy()
    count, size = stored(database)
    assert 0 < count < len(TARGETS) and size <= 20_000
    # What went is fetched again, what stayed is not.
    assert upstream.described_profile(RELEASE, TARGETS[-1], "acme")
    assert upstream.described_profile(RELEASE, TARGETS[0], "acme")


def test_what_is_of_no_use_any_more_goes(upstream: HttpUpstream, database: SqlDatabase, clock: Clock) -> None:
    profiles_of(upstream, *TARGETS[:3])
    profiles_of(upstream, "pico/none1", "pico/none2")
    assert stored(database)[0] == 5
    clock.forward(timedelta(days=2))
    upstream.tidy()
    assert stored(database)[0] == 3, "that there is none is not remembered for days"
    clock.forward(timedelta(days=31))
    upstream.tidy()
    assert stored(database)[0] == 0


def test_an_answer_made_of_a_document_that_went_is_not_right_any_more(
    upstream: HttpUpstream, clock: Clock
) -> None:
    reading = Reading("192.0.2.1")
    read_whole(lambda: upstream.target_profiles(RELEASE, TARGETS[0]), reading)
    sources = reading.sources
    assert sources.unchanged
    clock.forward(timedelta(days=40))
    upstream.tidy()
    assert not sources.unchanged


def test_what_was_asked_for_is_asked_for_again_before_it_is_old(
    upstream: HttpUpstream, server: DownloadServer, clock: Clock
) -> None:
    profiles_of(upstream, *TARGETS[:3])
    for _ in range(5):
        upstream.keep_warm()
    assert server.requests.total() == 3, "everything is fresh"
    clock.forward(FRESH_FOR * 0.9)
    for already in range(3, 6):
        upstream.keep_warm()
        assert eventually(lambda already=already: server.requests.total() == already + 1)  # type: ignore[misc]
    upstream.keep_warm()
    clock.forward(FRESH_FOR * 0.9)
    before = server.requests.total()
    profiles_of(upstream, *TARGETS[:3])
    assert server.requests.total() == before, "who comes now waits for nothing"


def test_it_is_kept_warm_over_a_restart_and_for_a_week(
    upstream: HttpUpstream, server: DownloadServer, database: SqlDatabase, clock: Clock
) -> None:
    profiles_of(upstream, TARGETS[0])
    upstream.tidy()
    for days, asked in ((1, True), (5, True), (2, False)):
        clock.forward(timedelta(days=days))
        again = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
        before = server.requests.total()
        again.keep_warm()
        if asked:
            assert eventually(lambda before=before: server.requests.total() == before + 1)  # type: ignore[misc]
        again.keep_warm()
        assert server.requests.total() == before + asked
        again.close()


def test_what_is_gone_upstream_or_read_by_nobody_is_not_kept_warm(
    upstream: HttpUpstream, server: DownloadServer, downloads: Path, clock: Clock
) -> None:
    upstream.target_profiles(RELEASE, TARGETS[5])
    profiles_of(upstream, TARGETS[0])
    (downloads / f"releases/24.10.5/targets/{TARGETS[0]}/profiles.json").unlink()
    clock.forward(FRESH_FOR)
    for _ in range(2):
        upstream.keep_warm()
        assert eventually(lambda: server.requests.total() == 3)
    clock.forward(FRESH_FOR)
    upstream.keep_warm()
    assert server.requests.total() == 3


def test_the_paths_to_keep_warm_are_bounded() -> None:
    clock = Clock()
    warm = WarmPaths(now=lambda: clock().timestamp(), clock=lambda: clock().timestamp())
    for number in range(5000):
        warm.note(f"path/{number}")
    assert len(warm.to_save()) == 2000
    assert "path/4999" in warm.to_save() and "path/0" not in warm.to_save()


def test_an_architecture_without_any_feed_is_logged_once(
    upstream: HttpUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        reading = Reading("192.0.2.1")
        assert read_whole(lambda: upstream.architecture_packages(RELEASE, "pico_9kc"), reading) is None
    assert len([line for line in caplog.messages if "without feeds" in line]) == 1


@pytest.fixture
def copies(clock: Clock) -> FakeCopies:
    return FakeCopies(clock)


@pytest.fixture
def nodes(
    server: DownloadServer, database: SqlDatabase, clock: Clock, copies: FakeCopies
) -> Iterator[list[HttpUpstream]]:
    opened = [
        HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp(), copies=copies)
        for _ in range(3)
    ]
    yield opened
    for node in opened:
        node.close()


def test_what_upstream_has_told_one_node_it_is_not_asked_by_the_others(
    nodes: list[HttpUpstream], server: DownloadServer, clock: Clock, copies: FakeCopies, downloads: Path
) -> None:
    for node in nodes:
        profiles_of(node, TARGETS[0])
    assert server.requests.total() == 1
    clock.forward(FRESH_FOR * 1.1)
    for node in nodes:
        profiles_of(node, TARGETS[0])
    assert server.requests.total() == 2, "confirmed for all"
    (downloads / f"releases/24.10.5/targets/{TARGETS[0]}/profiles.json").write_text(
        json.dumps({"version_code": "r2-new", "profiles": {"acme": {}}})
    )
    clock.forward(FRESH_FOR * 1.1)
    for node in nodes:
        profiles_of(node, TARGETS[0])
        found = node.target_profiles(RELEASE, TARGETS[0])
        assert found is not None and found.revision == "r2-new"
    assert server.requests.total() == 3, "changed for all"
    copies.told.clear()
    clock.forward(FRESH_FOR * 1.1)
    for node in nodes:
        profiles_of(node, TARGETS[0])
    assert server.requests.total() == 4, "all were forgotten, and each is told again"


@pytest.mark.parametrize("told", [b"", b"\xc1", b"\x92\x01\xc4\x01x", b"\x92\xa1x\xa1y"])
def test_what_makes_no_sense_is_not_believed(
    nodes: list[HttpUpstream], server: DownloadServer, clock: Clock, copies: FakeCopies, told: bytes
) -> None:
    for node in nodes[:2]:
        profiles_of(node, TARGETS[0])
    clock.forward(FRESH_FOR * 1.1)
    for node in nodes[:2]:
        for name in copies.told:
            copies.put(name, told, since=0)
        profiles_of(node, TARGETS[0])
    assert server.requests.total() == 3
