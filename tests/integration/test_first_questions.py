"""Questions that need upstream: they wait, they are limited, and names of nothing are never passed on."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_builder.domain.access import digest_of
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from factories import Clock, eventually
from hanging_server import HangingServer

APK, OPKG = "25.12.0", "24.10.5"
INDEX = f"/json/v1/releases/{APK}/targets/pico/nine/index.json"


@dataclass
class House:
    """A service that may be opened again over the same database, and its download server."""

    root: Path
    downloads: Path
    server: HangingServer
    clock: Clock = field(default_factory=lambda: Clock(datetime.now().astimezone()))

    @contextmanager
    def opened(self, **changes: Any) -> Iterator[AsgiClient]:
        """The service, with some settings changed."""
        values: dict[str, Any] = {
            "database_path": self.root / "data" / "a.db",
            "public_path": self.root / "public",
            "upstream_url": self.server.url,
            "container_runtime": "local",
            "imagebuilder_path": "/nowhere",
            "allow_unsandboxed": True,
            "worker_concurrent": 0,
            "new_builds_limit": "",
        }
        with AsgiClient(assemble(Settings(**(values | changes)), now=self.clock).app) as client:
            yield client

    def rows(self) -> tuple[set[str], int]:
        """Paths of upstream's documents that are kept, and how many requests for builds are."""
        with closing(sqlite3.connect(self.root / "data" / "a.db")) as database:
            rows = database.execute("SELECT path FROM upstream_documents WHERE path NOT LIKE 'own:%'")
            paths = {path for (path,) in rows}
            (requests,) = database.execute("SELECT count(*) FROM build_requests").fetchone()
        return paths, requests

    def stored(self) -> int:
        """Bytes of the database."""
        return sum(file.stat().st_size for file in (self.root / "data").iterdir())


@pytest.fixture
def house(tmp_path: Path, sample_world: Distribution) -> Iterator[House]:
    downloads = tmp_path / "downloads"
    shutil.copytree(sample_world.downloads, downloads, copy_function=os.link)
    with HangingServer(downloads) as server:
        yield House(tmp_path, downloads, server)


def change(house: House, path: str, document: object) -> None:
    """Upstream says something else now."""
    file = house.downloads / path
    file.unlink()  # it is another name of the sample's own file
    file.write_text(json.dumps(document))


def a_body(**changes: object) -> dict[str, object]:
    return {"version": APK, "target": "pico/nine", "profile": "acme_small", **changes}


def test_the_first_request_for_a_build_waits_and_is_taken(house: House) -> None:
    with house.opened() as client:
        answer = client.post("/api/v1/build", a_body())
        assert answer.status == 202
        assert house.server.requests.total() >= 3 and client.get("/api/v1/stats").json == {"queue_length": 1}


def test_a_request_whose_documents_do_not_come_is_told_to_come_back_and_changes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.server.hang(f"/releases/{APK}/targets/pico/nine/profiles.json")
    with house.opened() as client:
        assert client.get("/json/v1/overview.json").status == 200
        monkeypatch.setattr("asu_builder.http.threads.FIRST_SECONDS", 0.1)
        answer = client.post("/api/v1/build", a_body())
        assert (answer.status, answer.json["status"]) == (503, 503)
        assert int(answer.header("retry-after") or 0) >= 1
        assert client.get("/api/v1/stats").json == {"queue_length": 0}
        house.server.release()
        monkeypatch.undo()
        assert client.post("/api/v1/build", a_body()).status == 202


def test_the_service_answers_at_once_though_upstream_accepts_and_never_answers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start has asked upstream for nothing that it waits for."""
    for name in ("server._READ_SECONDS", "documents.FIRST_SECONDS"):
        monkeypatch.setattr(f"asu_builder.upstream.{name}", 600.0)
    house.server.hang("/")
    with house.opened(worker_concurrent=1) as client:
        assert client.get("/health").status == 200
        assert client.get("/api/v1/stats").json == {"queue_length": 0}
        assert client.get(f"/api/v1/build/{'0' * 64}").status == 404
        assert eventually(lambda: house.server.requests.total() > 0), "it is asked behind"
        assert client.get("/health").status == 200
        assert house.server.came == [], "nothing has come yet"
        house.server.release()


def test_while_upstream_is_down_it_is_said_at_once(house: House) -> None:
    with house.opened(upstream_url="http://127.0.0.1:9") as client:
        for path in ("/json/v1/overview.json", INDEX, f"/api/v1/revision/{APK}/pico/nine"):
            answer = client.get(path)
            assert (answer.status, int(answer.header("retry-after") or 0) > 0) == (503, True)
        assert client.post("/api/v1/build", a_body()).status == 503
        assert client.get("/health").status == 200


def test_after_a_quiet_time_the_first_caller_is_told_what_is_new(house: House) -> None:
    with house.opened() as client:
        before = client.get("/json/v1/overview.json")
        assert before.json["latest"] == [APK, OPKG]
        assert int(before.header("age") or -1) >= 0 and before.header("x-stale-seconds") is None
        revision = client.get(f"/api/v1/revision/{APK}/pico/nine").json["revision"]
    versions = json.loads((house.downloads / ".versions.json").read_text())
    change(house, ".versions.json", {**versions, "stable_version": OPKG})
    path = f"releases/{APK}/targets/pico/nine/profiles.json"
    described = json.loads((house.downloads / path).read_text())
    change(house, path, {**described, "version_code": "r99999-0123456789"})
    house.clock.forward(timedelta(hours=9))
    with house.opened() as client:
        after = client.get("/json/v1/overview.json")
        assert APK not in after.json["latest"] and int(after.header("age") or 99) < 60
        answer = client.get(f"/api/v1/revision/{APK}/pico/nine")
        assert answer.json["revision"] == "r99999-0123456789" != revision


def test_when_upstream_fails_stale_documents_are_served_and_say_so_until_they_are_too_old(
    house: House,
) -> None:
    with house.opened() as client:
        before = client.get(INDEX)
        assert before.header("cache-control") == "max-age=60"
    house.server.broken = True
    house.clock.forward(timedelta(hours=9))
    with house.opened() as client:
        after = client.get(INDEX)
        assert after.json == before.json
        assert after.header("cache-control") == "no-store", "here it is made again in two seconds"
        assert 9 * 3600 <= int(after.header("age") or 0) < 9 * 3600 + 600
        assert int(after.header("x-stale-seconds") or 0) == pytest.approx(9 * 3600 - 300, abs=60)
        etag = after.header("etag") or ""
        assert etag == before.header("etag"), "after a restart, and however old"
        unchanged = client.get(INDEX, {"If-None-Match": etag})
        assert (unchanged.status, unchanged.body, unchanged.header("etag")) == (304, b"", etag)
        for name in ("cache-control", "vary", "access-control-allow-origin"):
            assert unchanged.header(name) == after.header(name)
        for name in ("age", "x-stale-seconds"):
            assert 0 <= int(unchanged.header(name) or 0) - int(after.header(name) or 0) < 60
        assert client.post("/api/v1/build", a_body()).status == 202
    house.clock.forward(timedelta(days=31))
    with house.opened() as client:
        assert client.get(INDEX).status == 503
    house.server.broken = False


def test_names_that_upstream_does_not_list_are_never_asked_of_it(house: House) -> None:
    with house.opened() as client:
        for path in (
            "/json/v1/overview.json",
            INDEX,
            f"/json/v1/releases/{APK}/packages/pico_9kc-index.json",
        ):
            assert client.get(path).status == 200
        assert client.get(f"/api/v1/devices?version={APK}").status == 200
        assert client.get("/json/v1/overview.json").status == 200
        asked, (kept, builds) = dict(house.server.requests), house.rows()
        for number in range(150):
            for path, status in (
                (f"/api/v1/revision/{APK}/no/t{number}", 404),
                (f"/api/v1/revision/{APK}/../..%3Fq={number}", 404),
                (f"/api/v1/revision/{number}.10.1/pico/nine", 400),
                (f"/json/v1/releases/{APK}/targets/no/t{number}/index.json", 404),
                (f"/json/v1/releases/{APK}/targets/no/t{number}/generic.json", 200),
                (f"/json/v1/releases/{APK}/packages/no{number}-index.json", 404),
                (f"/json/v1/releases/{number}.10.1/packages/pico_9kc-index.json", 404),
                (f"/api/v1/devices/{APK}/no/t{number}/x", 404),
                (f"/api/v1/packages?version={APK}&target=no/t{number}", 404),
            ):
                assert client.get(path).status == status, path
            refused = client.post("/api/v1/build", a_body(target=f"no/t{number}"))
            assert refused.status == 400, "and it is never 429: nothing was asked of upstream"
        lists = {"/.versions.json", *(f"/releases/{version}/.targets.json" for version in (APK, OPKG))}
        now = dict(house.server.requests)
        assert {path: count for path, count in now.items() if count != asked.get(path)}.keys() <= lists
        kept_now, builds_now = house.rows()
        assert builds_now == builds and {f"/{path.lstrip('/')}" for path in kept_now - kept} <= lists


def test_different_questions_that_need_upstream_are_limited_and_the_same_one_is_not(house: House) -> None:
    house.server.hang(f"/releases/{APK}/targets/")
    token = {"name": "farm", "digest": digest_of("s3cret")}
    with house.opened(
        look_ups_limit="3/minute", api_tokens=(token,), trusted_proxies=("10.0.0.9",)
    ) as client:
        assert client.get("/json/v1/overview.json").status == 200
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("asu_builder.http.threads.FIRST_SECONDS", 0.02)
            for _ in range(10):
                assert client.post("/api/v1/build", a_body(), peer="192.0.2.1").status == 503
            statuses = [
                client.post("/api/v1/build", a_body(packages=[f"p{number}"]), peer="192.0.2.1").status
                for number in range(6)
            ]
            assert statuses == [503, 503, 429, 429, 429, 429]
            refused = client.post("/api/v1/build", a_body(packages=["p5"]), peer="192.0.2.1")
            assert int(refused.header("retry-after") or 0) >= 1
            assert "download server" in refused.json["detail"]
            assert client.post("/api/v1/build", a_body(), peer="192.0.2.1").status == 503, "counted before"
            for number in range(6):
                body = a_body(packages=[f"q{number}"])
                assert client.post("/api/v1/build", body, peer="10.0.0.9").status == 503, "a proxy is many"
                held = {"Authorization": "Bearer s3cret"}
                assert client.post("/api/v1/build", body, headers=held, peer="192.0.2.1").status == 503
        house.server.release()
        assert eventually(lambda: client.post("/api/v1/build", a_body(), peer="192.0.2.1").status == 202)
        for number in range(6):
            body = a_body(packages=[f"r{number}"])
            assert client.post("/api/v1/build", body, peer="192.0.2.1").status == 202, "what is here is free"
