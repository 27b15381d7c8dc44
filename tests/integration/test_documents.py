"""The documents about what can be built, through the assembled service and the sample's download server."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.app import assemble
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from factories import eventually
from hanging_server import HangingServer

APK, OPKG = "25.12.0", "24.10.5"
OVERVIEWS = ("/json/v1/overview.json", "/api/v1/overview", "/api/overview", "/overview")


@dataclass
class House:
    """A service over a download server; nothing is built here."""

    client: AsgiClient
    server: HangingServer

    def get(self, path: str) -> Answer:
        """The answer once it does not ask to come back."""
        answer: list[Answer] = []

        def is_there() -> bool:
            answer[:] = [self.client.get(path)]
            return answer[0].status != 503

        assert eventually(is_there)
        return answer[0]

    def json(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.status == 200, answer.body
        return answer.json


def settings(root: Path, upstream: str, world: Distribution, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_path": root / "data" / "a.db",
        "public_path": root / "public",
        "upstream_url": upstream,
        "container_runtime": "local",
        "imagebuilder_path": world.template,
        "allow_unsandboxed": True,
        "worker_concurrent": 0,
    }
    return Settings(**(values | changes))


@pytest.fixture
def house(tmp_path: Path, sample_world: Distribution) -> Iterator[House]:
    with HangingServer(sample_world.downloads) as server, a_house(tmp_path, server, sample_world) as opened:
        yield opened


@contextmanager
def a_house(root: Path, server: HangingServer, world: Distribution, **changes: Any) -> Iterator[House]:
    """A service over this download server, with some settings changed."""
    with AsgiClient(assemble(settings(root, server.url, world, **changes)).app) as client:
        yield House(client, server)


@pytest.fixture
def overview(house: House) -> Any:
    assert eventually(lambda: len(house.json("/json/v1/overview.json")["branches"]["24.10"]["targets"]) == 2)
    return house.json("/json/v1/overview.json")


def test_the_overview_tells_a_client_everything_it_chooses_from(overview: Any, house: House) -> None:
    assert overview["latest"] == ["25.12.0", "24.10.5"]
    assert overview["upstream_url"] == house.server.url
    assert overview["server"]["max_custom_rootfs_size_mb"] == 1024
    assert overview["server"]["max_defaults_length"] == 20480
    branch = overview["branches"]["24.10"]
    assert (branch["name"], branch["enabled"], branch["snapshot"]) == ("24.10", True, False)
    assert branch["path"] == "releases/{version}"
    assert isinstance(branch["path_packages"], str)
    assert branch["branch_off_rev"] == 27990
    assert branch["versions"] == ["24.10.5", "24.10.4", "24.10-SNAPSHOT"]
    assert branch["targets"] == {"pico/nine": "pico_9kc", "x86/64": "x86_64"}
    assert {"source": "auc", "target": "owut", "revision": 26792} in branch["package_changes"]
    assert all(change["revision"] <= 27990 for change in branch["package_changes"])
    main = overview["branches"]["SNAPSHOT"]
    assert (main["versions"], main["path"], main["snapshot"]) == (["SNAPSHOT"], "snapshots", True)
    assert "branch_off_rev" not in main
    assert len(main["package_changes"]) == 9
    assert overview["branches"]["25.12"]["versions"] == ["25.12.0", "25.12.0-rc1"]


@pytest.mark.parametrize("path", ["/json/v1/overview.json", "/json/v1/branches.json"])
def test_before_upstreams_targets_are_there_no_branch_is_shown_without_them(house: House, path: str) -> None:
    house.server.delay = timedelta(milliseconds=200)
    first = house.client.get(path)
    assert first.status == 200
    document = first.json
    branches = document if isinstance(document, list) else list(document["branches"].values())
    assert all(branch["targets"] for branch in branches if branch["name"] in ("24.10", "25.12", "SNAPSHOT"))


def test_a_branch_that_never_comes_does_not_take_the_others_with_it(house: House) -> None:
    assert house.get("/json/v1/latest.json").status == 200
    house.server.hang("/releases/24.10-SNAPSHOT/")
    first = house.client.get("/json/v1/overview.json")
    assert first.status == 200
    assert first.json["branches"]["25.12"]["targets"]
    assert "24.10-SNAPSHOT" not in first.json["branches"]["24.10"]["versions"]
    house.server.release()
    assert eventually(
        lambda: "24.10-SNAPSHOT" in house.json("/json/v1/overview.json")["branches"]["24.10"]["versions"]
    )


@pytest.mark.parametrize("path", OVERVIEWS)
def test_the_overview_is_at_every_old_address_without_a_redirect(
    house: House, overview: Any, path: str
) -> None:
    assert house.json(path) == overview


def test_trap_27_the_public_address_of_upstream_is_announced(
    tmp_path: Path, sample_world: Distribution
) -> None:
    with HangingServer(sample_world.downloads) as server:
        chosen = settings(
            tmp_path, server.url, sample_world, public_upstream_url="https://downloads.example.org/"
        )
        with AsgiClient(assemble(chosen).app) as client:
            house = House(client, server)
            assert house.json("/json/v1/overview.json")["upstream_url"] == "https://downloads.example.org"


def test_branches_are_a_list_of_what_auc_insists_on(house: House, overview: Any) -> None:
    branches = house.json("/json/v1/branches.json")
    assert branches == list(overview["branches"].values())
    for branch in branches:
        kinds = {
            "enabled": bool,
            "name": str,
            "path": str,
            "path_packages": str,
            "versions": list,
            "targets": dict,
        }
        assert all(isinstance(branch[key], kind) for key, kind in kinds.items())
        assert isinstance(branch.get("branch_off_rev", 0), int)


@pytest.mark.parametrize("path", ["/json/v1/latest.json", "/api/v1/latest"])
def test_the_latest_releases(house: House, path: str) -> None:
    assert house.json(path) == {"latest": ["25.12.0", "24.10.5"]}


@pytest.mark.parametrize("version", [OPKG, APK])
def test_names_in_the_indexes_are_those_the_manifest_reports(house: House, version: str) -> None:
    flat = house.json(f"/json/v1/releases/{version}/packages/pico_9kc-index.json")
    assert {"luci", "tmux", "libsample"} <= set(flat)
    assert all(isinstance(value, str) for value in flat.values())
    nested = house.json(f"/json/v1/releases/{version}/targets/pico/nine/index.json")
    assert nested["architecture"] == "pico_9kc"
    assert "kmod-acme-usb" in nested["packages"]


@pytest.mark.parametrize("name", ["acme_widget-5", "widget5", "acme,widget-5"])
def test_trap_36_a_profile_is_described_by_its_name_and_its_aliases(house: House, name: str) -> None:
    document = house.json(f"/json/v1/releases/{APK}/targets/pico/nine/{name}.json")
    assert document["id"] == "acme_widget-5"
    assert (document["metadata_version"], document["arch_packages"], document["target"]) == (
        1,
        "pico_9kc",
        "pico/nine",
    )
    assert isinstance(document["images"], list)
    assert isinstance(document["version_code"], str)
    assert isinstance(document["version_number"], str)


def test_an_unknown_profile_is_an_empty_object(house: House) -> None:
    assert house.json(f"/json/v1/releases/{APK}/targets/pico/nine/nosuch.json") == {}


def test_any_board_of_a_lone_generic_target_is_generic(house: House) -> None:
    assert house.json(f"/json/v1/releases/{APK}/targets/x86/64/some-board.json")["id"] == "generic"


def test_the_revision_is_upstreams(house: House) -> None:
    document = house.json(f"/json/v1/releases/{APK}/targets/pico/nine/acme_widget-5.json")
    assert house.json(f"/api/v1/revision/{APK}/pico/nine") == {"revision": document["version_code"]}
    assert house.json("/api/v1/revision/SNAPSHOT/pico/nine")["revision"].startswith("r")


def test_a_revision_of_nothing_says_so(house: House) -> None:
    unknown = house.get("/api/v1/revision/24.10.99/pico/nine")
    assert (unknown.status, unknown.json["detail"]) == (400, "Unsupported version: 24.10.99")
    missing = house.get(f"/api/v1/revision/{APK}/no/such")
    assert (missing.status, missing.json["status"]) == (404, 404)
    assert missing.json["detail"] == f"Failed to fetch revision for {APK}/no/such"


@pytest.mark.parametrize(
    "path",
    [
        "releases/24.10.99/packages/pico_9kc-index.json",
        "releases/24.10.5/packages/nosuch-index.json",
        "releases/24.10.5/targets/no/such/index.json",
        "snapshots/../releases/24.10.5/targets/pico/nine/index.json",
        "releases/../releases/24.10.5/targets/pico/nine/index.json",
        "/releases/24.10.5x/targets/pico/nine/index.json",
        "releases/SNAPSHOT/targets/pico/nine/index.json",
        "24.10.5/targets/pico/nine/index.json",
        "x/24.10.5/packages/pico_9kc-index.json",
        "http://evil.example/releases/24.10.5/packages/pico_9kc-index.json",
    ],
)
def test_paths_that_are_no_version_are_never_passed_on(house: House, path: str) -> None:
    house.get("/json/v1/overview.json")
    answer = house.get(f"/json/v1/{path}")
    assert answer.status == 404
    assert answer.json["status"] == 404
    assert not [
        asked for asked in house.server.requests if "evil" in asked or ".." in asked or "nosuch" in asked
    ]


def test_documents_may_be_kept_for_a_short_time_and_are_open_to_browsers(house: House) -> None:
    answer = house.get("/json/v1/overview.json")
    assert answer.header("cache-control") == "max-age=60"
    assert answer.header("access-control-allow-origin") == "*"
    head = house.client.request("HEAD", "/json/v1/overview.json")
    assert (head.status, head.body) == (200, b"")


def test_a_dead_upstream_takes_nothing_away_that_was_seen(house: House, overview: Any) -> None:
    seen = [
        "/json/v1/branches.json",
        f"/json/v1/releases/{APK}/packages/pico_9kc-index.json",
        f"/json/v1/releases/{APK}/targets/pico/nine/index.json",
        f"/api/v1/revision/{APK}/pico/nine",
    ]
    before = {path: house.json(path) for path in seen}
    house.server.broken = True
    for path, document in before.items():
        assert house.json(path) == document
    assert house.json("/api/overview") == overview


def test_what_does_not_come_while_the_client_waits_is_503_and_there_later(
    house: House, overview: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asu_builder.http.threads.FIRST_SECONDS", 0.2)
    house.server.hang("/releases/24.10.5/targets/")
    path = f"/api/v1/revision/{OPKG}/x86/64"
    answer = house.client.get(path)
    assert (answer.status, answer.json["status"]) == (503, 503)
    assert int(answer.header("retry-after") or 0) > 0
    assert answer.header("access-control-allow-origin") == "*"
    house.server.release()
    assert house.get(path).status == 200


def test_a_release_announced_before_it_is_published_does_not_empty_its_branch(
    tmp_path: Path, sample_world: Distribution
) -> None:
    downloads = tmp_path / "downloads"
    shutil.copytree(sample_world.downloads, downloads, copy_function=os.link)
    (downloads / ".versions.json").unlink()
    versions = json.loads((sample_world.downloads / ".versions.json").read_text())
    versions["versions_list"].append("24.10.10")
    versions["stable_version"] = "24.10.10"
    (downloads / ".versions.json").write_text(json.dumps(versions))
    with HangingServer(downloads) as server:
        with AsgiClient(assemble(settings(tmp_path, server.url, sample_world)).app) as client:
            house = House(client, server)
            assert eventually(lambda: house.json("/overview")["branches"]["24.10"]["targets"] != {})
            branch = house.json("/overview")["branches"]["24.10"]
            assert branch["versions"][0] == "24.10.10"
            assert set(branch["targets"]) == {"pico/nine", "x86/64"}


def test_a_disabled_branch_is_gone_and_a_new_one_is_there_without_a_restart_of_the_rest(
    tmp_path: Path, sample_world: Distribution
) -> None:
    with HangingServer(sample_world.downloads) as server:
        chosen = settings(
            tmp_path,
            server.url,
            sample_world,
            branches={"24.10": {"enabled": False}, "26.05": {"branch_off_rev": 40000}},
        )
        with AsgiClient(assemble(chosen).app) as client:
            house = House(client, server)
            branches = house.json("/overview")["branches"]
            assert "24.10" not in branches
            assert branches["26.05"]["branch_off_rev"] == 40000
            refused = house.get(f"/api/v1/revision/{OPKG}/pico/nine")
            assert refused.json["detail"] == f"Unsupported branch: {OPKG}"
            assert house.json("/json/v1/latest.json") == {"latest": ["25.12.0"]}


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/api/v1/stats", {"queue_length": 0}),
        ("/api/v1/stats/summary", {"queue_length": 0, "builds_24h": 0}),
        ("/api/v1/top-packages", {"packages": [], "branch": None, "days": 30}),
        ("/api/v1/top-packages?branch=24.10&n=5", {"packages": [], "branch": "24.10", "days": 30}),
        ("/api/v1/failures-by-target", {"counts": [], "days": 30}),
        ("/api/v1/cache-hits-by-profile", {"counts": [], "days": 30}),
        ("/api/v1/diff-packages-stats", {"total": 0, "with_diff_packages": 0, "share": 0.0}),
        ("/api/v1/diff-packages-by-version", {"versions": {}, "days": 30}),
    ],
)
def test_statistics_of_an_empty_service(house: House, path: str, document: Any) -> None:
    assert house.json(path) == document


def test_charts_have_the_predecessors_shapes(house: House) -> None:
    day = house.json("/api/v1/builds-per-day")
    assert len(day["labels"]) == 30
    assert all(len(label) == 11 and label.endswith("Z") for label in day["labels"])
    assert [(line["label"], line["color"], len(line["data"])) for line in day["datasets"]] == [
        ("Requests", "green", 30),
        ("Cache-Hits", "orange", 30),
        ("Failures", "red", 30),
    ]
    assert len(house.json("/api/v1/builds-by-version")["labels"]) == 26
    assert len(house.json("/api/v1/diff-packages-trend?interval=week")["labels"]) == 26
    errors = house.get("/api/v1/build-errors")
    assert (errors.header("content-type"), errors.body) == (
        "text/plain; charset=utf-8",
        b"No build errors recorded.\n",
    )


def test_a_wrong_number_is_refused_with_its_name(house: House) -> None:
    answer = house.get("/api/v1/top-packages?n=many")
    assert (answer.status, answer.json["detail"]) == (400, "n: expected a number from 1 to 100")


def test_the_statistics_are_a_document_and_a_file_for_each_chart(house: House) -> None:
    assert [len(house.json(f"/api/v1/statistics?days={days}")["days"]) for days in (7, 30, 90)] == [7, 30, 90]
    assert len(house.json("/api/v1/statistics")["days"]) == 30
    file = house.get("/api/v1/statistics/builds-per-day.csv?days=7")
    assert file.header("content-type") == "text/csv; charset=utf-8"
    assert file.header("content-disposition") == 'attachment; filename="builds-per-day-7-days.csv"'
    lines = file.body.decode().splitlines()
    assert (lines[0], len(lines)) == ("day,requests,built,cache_hits,failed", 8)
    refused = house.get("/api/v1/statistics?days=8")
    assert (refused.status, refused.json["detail"]) == (400, "days: expected one of 7, 30, 90")
    assert house.get("/api/v1/statistics/nosuch.csv").status == 404
