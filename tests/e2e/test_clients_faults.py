"""The written-out clients break where the real ones do: a test that they pass means something."""

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.canned_server import Canned, canned
from e2e.clients.auc import Auc, Candidate
from e2e.clients.browser import Browser, NetworkError
from e2e.clients.crash import ClientCrash, ClientError
from e2e.clients.luci import Luci
from e2e.clients.owut import Owut
from e2e.clients.owut_check import Plan
from e2e.clients.scene import ROUTER, SOON, selector

HASH = "0" * 64
QUEUED = {"status": 202, "detail": "queued", "request_hash": HASH, "queue_position": 0}
STARTED = {"status": 202, "detail": "started", "request_hash": HASH}
PLAN = Plan("25.12.0", "r1-a", "acme_small", {"vim": "1"}, 1024, 20480)
CANDIDATE = Candidate("25.12.0", "releases/25.12.0", "25.12.0", "r1-a", {})
IMAGE = {"name": "x.bin", "type": "sysupgrade", "filesystem": "squashfs", "sha256": "0" * 64}
DONE: dict[str, Any] = {
    "status": 200,
    "bin_dir": HASH,
    "images": [IMAGE],
    "version_number": "25.12.0",
    "version_code": "r1-a",
    "target": "pico/nine",
    "titles": [{"title": "Acme Small"}],
    "build_at": "2026-01-05T00:00:00.000000Z",
    "manifest": {"vim": "1"},
    "request": {"version_code": "", "rootfs_size_mb": None, "defaults": None},
}


@pytest.fixture
def server() -> Iterator[Canned]:
    with canned() as server:
        yield server


def without(key: str) -> dict[str, Any]:
    """A finished build that lacks something."""
    return {name: value for name, value in DONE.items() if name != key}


def test_clients_get_through_when_nothing_is_wrong(server: Canned) -> None:
    server.document = DONE
    assert selector(server.url).build().links
    assert Owut(server.url, ROUTER).build(PLAN) == DONE
    assert Luci(server.url, ROUTER, SOON).build("25.12.0", []) == DONE
    assert Auc(server.url, ROUTER).build(CANDIDATE, {}) == DONE


@pytest.mark.parametrize("document", [STARTED, STARTED | {"imagebuilder_status": "brewing"}])
def test_luci_throws_without_a_position_and_without_a_known_step(
    server: Canned, document: dict[str, Any]
) -> None:
    server.status, server.document = 202, document
    with pytest.raises(ClientCrash, match="no step of the table"):
        Luci(server.url, ROUTER, SOON).build("25.12.0", [])


def test_luci_has_nothing_to_install_without_a_fitting_image(server: Canned) -> None:
    server.document = DONE | {"images": [IMAGE | {"filesystem": "ext4"}]}
    with pytest.raises(ClientCrash, match="no image of this type"):
        Luci(server.url, ROUTER, SOON).build("25.12.0", [])


@pytest.mark.parametrize("document", [without("titles"), DONE | {"images": [{"name": "x"}]}])
def test_the_firmware_selector_dies_of_what_is_missing(server: Canned, document: dict[str, Any]) -> None:
    server.document = document
    with pytest.raises(ClientCrash, match="is missing"):
        selector(server.url).build()


def test_the_firmware_selector_dies_of_a_list_as_detail_and_of_pages(server: Canned) -> None:
    server.status, server.document = 422, {"detail": [{"msg": "field required"}]}
    with pytest.raises(ClientCrash, match="startsWith"):
        selector(server.url).build()
    server.status, server.text = 502, b"<html>Bad Gateway</html>"
    with pytest.raises(ClientCrash, match="no JSON"):
        selector(server.url).build()


@pytest.mark.parametrize("key", ["request", "manifest", "version_code"])
def test_owut_dies_of_what_is_missing(server: Canned, key: str) -> None:
    server.document = without(key)
    owut = Owut(server.url, ROUTER)
    with pytest.raises(ClientCrash, match=f"{key} is missing"):
        owut.download(PLAN, owut.build(PLAN))


def test_owut_believes_neither_another_version_nor_another_image(server: Canned) -> None:
    owut = Owut(server.url, ROUTER)
    with pytest.raises(ClientError, match="vim is 2 in the image and was to be 1"):
        owut.download(PLAN, DONE | {"manifest": {"vim": "2"}})
    with pytest.raises(ClientError, match="version_code is r2-b"):
        owut.download(PLAN, DONE | {"version_code": "r2-b"})
    with pytest.raises(ClientError, match="checksum"):
        owut.download(PLAN, DONE)


def test_owut_takes_a_done_without_its_status_for_a_failure(server: Canned) -> None:
    server.document = DONE | {"status": 500}
    with pytest.raises(ClientError):
        Owut(server.url, ROUTER).build(PLAN)


@pytest.mark.parametrize("follows", [False, True])
def test_only_new_owut_follows_a_redirect(server: Canned, follows: bool) -> None:
    server.status, server.headers = 301, {"Location": "/elsewhere"}
    expected = "too many redirects" if follows else "failed with 301"
    with pytest.raises(ClientError, match=expected):
        Owut(server.url, ROUTER, follows_redirects=follows).check("25.12.0")


@pytest.mark.parametrize(
    ("document", "end"),
    [
        (QUEUED | {"status": "queued"}, "it asks for ever"),
        ({"status": 202, "queue_position": 0}, "it POSTs without a pause"),
    ],
)
def test_auc_asks_for_ever(server: Canned, document: dict[str, Any], end: str) -> None:
    server.status, server.document = 202, document
    with pytest.raises(ClientCrash, match=end):
        Auc(server.url, ROUTER, SOON).build(CANDIDATE, {})


def test_auc_cannot_hold_a_long_address_and_compares_digests(server: Canned) -> None:
    auc = Auc(server.url, ROUTER)
    with pytest.raises(ClientCrash, match="the address has"):
        auc.download(DONE | {"images": [IMAGE | {"name": "x" * 200}]})
    with pytest.raises(ClientError, match="sha256sum mismatch"):
        auc.download(DONE)


def test_auc_ignores_a_branch_without_the_dummy_it_wants(server: Canned) -> None:
    server.document = [{"name": "25.12", "enabled": True, "path": "x", "versions": [], "targets": {}}]
    assert Auc(server.url, ROUTER).candidates() == []


@pytest.mark.parametrize("headers", [{}, {"Access-Control-Allow-Origin": "*, *"}])
def test_a_browser_shows_a_page_nothing_without_exactly_one_origin_header(
    server: Canned, headers: dict[str, str]
) -> None:
    server.headers = headers
    with pytest.raises(NetworkError, match="blocked"):
        Browser("https://x.example.org").fetch("GET", server.url)
    with pytest.raises(ClientError, match="blocked"):
        selector(server.url).build()
