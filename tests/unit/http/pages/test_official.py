"""What upstream already has for a device, read as foreign text."""

import json
from urllib.parse import urlencode

import pytest

from asgi_client import AsgiClient
from asu_builder.core.catalog import Catalog
from asu_builder.domain.release import Branches
from asu_builder.http.pages.official import standing_of
from asu_builder.package_rules import LocalPackageChanges
from unit.http.pages.conftest import SmallUpstream, text_of
from web_scene import Scene

DEVICE = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5"}
SHA = "ab" * 32
IMAGE = {"name": "w-squashfs-sysupgrade.bin", "type": "sysupgrade", "sha256": SHA, "size": 3 << 20}


def page_with(scene: Scene, monkeypatch: pytest.MonkeyPatch, document: object) -> str:
    monkeypatch.setattr(scene.upstream, "profile", json.dumps(document).encode())
    with AsgiClient(scene.app()) as client:
        answer = client.get(f"/build?{urlencode(DEVICE)}")
    assert answer.status == 200
    return text_of(answer)


def test_official_images_have_links_sizes_and_digests(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [
        IMAGE,
        {**IMAGE, "name": "w-factory.bin", "type": "factory"},
        {**IMAGE, "name": "k", "type": "kernel"},
    ]
    page = page_with(scene, monkeypatch, {"images": images, "source_date_epoch": "1760000000"})
    address = "https://downloads.example.org/releases/24.10.5/targets/pico/nine/w-squashfs-sysupgrade.bin"
    assert f'href="{address}"' in page and SHA in page and "3.0 MiB" in page
    assert "2025-10-09" in page and page.index("w-factory.bin") < page.index("1 more file") < page.index(
        ">k<"
    )


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"images": None},
        {"images": [None, 5, {}]},
        {"images": [{**IMAGE, "name": "../../etc/passwd"}]},
        {"images": [{**IMAGE, "name": 'a b"><script>'}]},
        {"images": [{**IMAGE, "sha256": "x"}]},
        {"images": [{**IMAGE, "type": None}]},
        [1],
    ],
)
def test_what_is_not_described_as_an_image_is_none(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, document: object
) -> None:
    assert 'id="official"' not in page_with(scene, monkeypatch, document)


def test_odd_sizes_and_dates_are_left_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    image = {**IMAGE, "size": "many", "filesystem": ["x"]}
    page = page_with(scene, monkeypatch, {"images": [image], "source_date_epoch": 10**30})
    assert 'id="official"' in page and "many" not in page and "Sources of" not in page


def test_where_a_release_stands_is_what_upstream_says() -> None:
    catalog = Catalog(SmallUpstream(), Branches(), LocalPackageChanges())
    latest = ["25.12.0", "24.10.5"]
    said = [
        standing_of(catalog.branches.release(version), latest, catalog)
        for version in ("25.12.0", "24.10.4", "22.03.7", "SNAPSHOT")
    ]
    assert said == [
        "This is the newest release of its branch.",
        "There is a newer release of this branch: 24.10.5.",
        "Upstream does not name this branch among its current ones (25.12, 24.10) any more.",
        "A snapshot: its images change every day.",
    ]
    assert standing_of(catalog.branches.release("22.03.7"), [], catalog) == ""
