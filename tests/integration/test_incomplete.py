"""Package indexes and lists on mirrors that lack documents, or do not deliver them."""

import gzip
import json
import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.app import assemble
from asu_builder.app.background import Rounds
from asu_builder.database.connection import Database
from asu_builder.domain.access import digest_of
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.release import parse_release
from asu_builder.upstream.offer import HttpUpstream
from asu_sample.distribution import Distribution
from factories import UPSTREAM, Clock, eventually
from integration.test_documents import settings
from odd_server import HALF, OddServer, odd_server

OPKG, APK = "24.10.5", "25.12.0"
INDEX = "/json/v1/releases/{}/packages/pico_9kc-index.json"
TARGET = "/json/v1/releases/{}/targets/pico/nine/index.json"
KERNEL = "kmod-tun"
SECRET = "s3cret-of-a-reader"
QUICK = Rounds(health=0.2)


@pytest.fixture
def server(sample_world: Distribution) -> Iterator[OddServer]:
    with odd_server(sample_world.downloads) as running:
        yield running


@pytest.fixture
def client(tmp_path: Path, server: OddServer, sample_world: Distribution) -> Iterator[AsgiClient]:
    reader = {"name": "reader", "digest": digest_of(SECRET), "rights": ["read"]}
    chosen = settings(tmp_path, server.url, sample_world, api_tokens=(reader,))
    with AsgiClient(assemble(chosen, rounds=QUICK).app) as opened:
        yield opened


def whole(client: AsgiClient, path: str) -> Answer:
    answer = client.get(path)
    assert answer.status == 200, answer.body
    return answer


@pytest.mark.parametrize("said", [500, 403, 502, HALF, b"null", b"<html>", b'{"packages": 7}'])
def test_one_feed_that_cannot_be_read_never_takes_the_index_along(
    client: AsgiClient, server: OddServer, said: int | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 14: "else the others without it; told by header, log and health"."""
    caplog.set_level(logging.WARNING)
    server.odd["/luci/index.json"] = said
    answer = whole(client, INDEX.format(APK))
    assert {"vim", "dnsmasq"} <= answer.json.keys()
    assert "luci" not in answer.json
    assert all(isinstance(version, str) for version in answer.json.values())
    assert answer.header("x-incomplete") == "luci"
    assert answer.header("cache-control") == "no-store"
    assert len([line for line in caplog.messages if "without feeds" in line]) == 1

    def is_told() -> bool:
        # Which feed it is, the operator alone is told.
        health = client.get("/health", {"Authorization": f"Bearer {SECRET}"}).json
        return health["status"] == "degraded" and "luci" in json.dumps(health)

    assert eventually(is_told)


def test_a_feed_that_upstream_does_not_have_is_left_out_without_a_word(
    client: AsgiClient, server: OddServer
) -> None:
    server.odd["/luci/index.json"] = 404
    answer = whole(client, INDEX.format(APK))
    assert "luci" not in answer.json
    assert answer.header("x-incomplete") is None


def test_when_no_feed_at_all_can_be_read_the_answer_is_503(client: AsgiClient, server: OddServer) -> None:
    for feed in ("base", "luci", "packages"):
        server.odd[f"/{feed}/index.json"] = 500
    assert client.get(INDEX.format(APK)).status == 503


@pytest.mark.parametrize("said", [403, 404, 500, HALF])
def test_kernel_modules_that_cannot_be_read_leave_the_rest_of_the_target(
    client: AsgiClient, server: OddServer, sample_world: Distribution, said: int
) -> None:
    kmods = next((sample_world.downloads / f"releases/{APK}/targets/pico/nine/kmods").iterdir())
    server.odd[f"{kmods.name}/index.json"] = said
    answer = whole(client, TARGET.format(APK))
    assert "base-files" in answer.json["packages"]
    assert KERNEL not in answer.json["packages"]
    assert answer.json.keys() == {"architecture", "packages"}
    assert answer.header("x-incomplete") == (None if said == 404 else "kmods")


def test_a_list_of_devices_that_object_storage_lacks_is_put_together_from_the_profiles(
    client: AsgiClient, server: OddServer
) -> None:
    server.odd["/.overview.json"] = 403
    found = whole(client, f"/api/v1/devices?version={APK}&search=widget&limit=5").json
    assert found["devices"][0]["profile"] == "acme_widget-5"


@pytest.mark.parametrize("document", ["/.targets.json", "/profiles.json", "/.versions.json"])
def test_a_list_or_profiles_that_are_forbidden_are_not_taken_for_absent(
    client: AsgiClient, server: OddServer, document: str
) -> None:
    server.odd[document] = 403
    assert client.get(f"/api/v1/revision/{APK}/pico/nine").status == 503


@pytest.mark.parametrize("absent", [404, 403])
@pytest.mark.parametrize("there", ["Packages.gz", "Packages"])
def test_what_opkg_reads_says_the_same_as_index_json(
    tmp_path: Path, sample_world: Distribution, server: OddServer, there: str, absent: int
) -> None:
    seen = []
    for number in range(2):
        if number:
            server.odd |= {"/index.json": absent, _other(there): absent}
        root = tmp_path / str(number)
        with AsgiClient(assemble(settings(root, server.url, sample_world)).app) as client:
            answers = [whole(client, path.format(OPKG)) for path in (INDEX, TARGET)]
        assert all(answer.header("x-incomplete") is None for answer in answers)
        seen.append([answer.json for answer in answers])
    assert seen[0] == seen[1]
    assert "libubus" in seen[0][0]


def _other(name: str) -> str:
    return "/Packages" if name == "Packages.gz" else "/Packages.gz"


@pytest.mark.parametrize("packed", [True, False])
def test_an_index_of_real_size_is_read_without_index_json(
    tmp_path: Path, packed: bool, sample_world: Distribution
) -> None:
    if not UPSTREAM.exists():
        pytest.skip("no recorded upstream metadata here")
    root = tmp_path / "mirror"
    shutil.copytree(UPSTREAM, root)
    paths = [
        "/json/v1/releases/24.10.5/packages/x86_64-index.json",
        "/json/v1/releases/24.10.5/targets/x86/64/index.json",
    ]
    with odd_server(root) as server:
        with AsgiClient(assemble(settings(tmp_path / "a", server.url, sample_world)).app) as client:
            expected = [whole(client, path).json for path in paths]
        for file in [*root.rglob("index.json")]:
            file.unlink()
        for file in [*root.rglob("Packages")] if packed else []:
            file.with_name("Packages.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        with AsgiClient(assemble(settings(tmp_path / "b", server.url, sample_world)).app) as client:
            assert [whole(client, path).json for path in paths] == expected
    assert len(expected[0]) > 900


RELEASE = parse_release(APK)


@pytest.mark.parametrize("said", [500, 403, HALF])
def test_the_last_good_copy_of_a_feed_is_used(tmp_path: Path, server: OddServer, said: int) -> None:
    """Case 14: "that feed's last good copy"; then the feed comes back."""
    database, clock = Database(tmp_path / "a.db"), Clock()
    upstream = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
    try:
        first = upstream.architecture_packages(RELEASE, "pico_9kc")
        assert first is not None
        assert "luci" in first
        server.odd["/luci/index.json"] = said
        clock.forward(timedelta(minutes=6))
        assert upstream.architecture_packages(RELEASE, "pico_9kc") == first
        server.odd.clear()
        clock.forward(timedelta(minutes=6))
        assert upstream.architecture_packages(RELEASE, "pico_9kc") == first
    finally:
        upstream.close()
        database.close()


@pytest.mark.parametrize("said", [500, 403, HALF])
def test_a_feed_that_comes_back_is_there_again_and_the_health_is_green(
    tmp_path: Path, server: OddServer, said: int
) -> None:
    database, clock = Database(tmp_path / "a.db"), Clock()
    upstream = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
    server.odd["/luci/index.json"] = said
    try:
        assert "luci" not in (upstream.architecture_packages(RELEASE, "pico_9kc") or {})
        assert upstream.check().status == "warning"
        server.odd.clear()

        def is_back() -> bool:
            clock.forward(timedelta(minutes=2))
            try:
                packages = upstream.architecture_packages(RELEASE, "pico_9kc")
            except Unavailable:
                return False
            return "luci" in (packages or {}) and upstream.check().status == "ok"

        assert eventually(is_back)
    finally:
        upstream.close()
        database.close()


def test_a_mirror_without_a_list_of_feeds_has_the_usual_ones(client: AsgiClient, server: OddServer) -> None:
    """A private mirror may copy the packages only."""
    server.odd["24.10.5/packages/pico_9kc/feeds.conf"] = 404
    answer = whole(client, INDEX.format(OPKG))
    assert {"tmux", "luci"} <= answer.json.keys()
    assert answer.header("x-incomplete") is None


@pytest.mark.parametrize("lists_feeds", [False, True])
def test_where_no_feed_is_found_at_all_the_empty_index_says_that_it_is_incomplete(
    client: AsgiClient, server: OddServer, lists_feeds: bool
) -> None:
    for name in ("index.json", "Packages", "Packages.gz"):
        server.odd[f"/{name}"] = 404
    if not lists_feeds:
        server.odd["/feeds.conf"] = 404
    answer = whole(client, INDEX.format(OPKG))
    lacking = answer.header("x-incomplete")
    assert (answer.json, lacking) == ({}, "base, luci, packages" if lists_feeds else "feeds.conf")
    assert answer.header("cache-control") == "no-store"
