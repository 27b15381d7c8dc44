"""The search through the assembled service and the sample's download server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from factories import UPSTREAM, eventually

VERSION = "25.12.0"


class Caller:
    """A client that comes back when it is told to."""

    def __init__(self, client: AsgiClient, server: DownloadServer) -> None:
        self.client = client
        self.server = server

    def json(self, path: str) -> Any:
        answers: list[Any] = []

        def is_there() -> bool:
            answers[:] = [self.client.get(path)]
            return bool(answers[0].status != 503)

        assert eventually(is_there)
        assert answers[0].status == 200, answers[0].body
        return answers[0].json

    def titles(self, path: str) -> list[str]:
        return [device["title"] for device in self.json(path)["devices"]]


def caller(folder: Path, downloads: Path) -> Iterator[Caller]:
    with DownloadServer(downloads) as server:
        settings = Settings(
            database_path=folder / "data" / "a.db",
            public_path=folder / "public",
            upstream_url=server.url,
            container_runtime="local",
            imagebuilder_path=f"{folder}/{{version}}/{{target}}/{{subtarget}}",
            allow_unsandboxed=True,
            worker_concurrent=0,
        )
        with AsgiClient(assemble(settings).app) as client:
            yield Caller(client, server)


@pytest.fixture
def sample(tmp_path: Path, sample_world: Distribution) -> Iterator[Caller]:
    yield from caller(tmp_path, sample_world.downloads)


@pytest.fixture
def unlisted(tmp_path: Path, sample_world: Distribution) -> Iterator[Caller]:
    downloads = tmp_path / "downloads"
    shutil.copytree(sample_world.downloads, downloads, copy_function=os.link)
    for overview in downloads.rglob(".overview.json"):
        overview.unlink()
    yield from caller(tmp_path, downloads)


@pytest.fixture
def real_size(tmp_path: Path) -> Iterator[Caller]:
    yield from caller(tmp_path, UPSTREAM)


@pytest.mark.parametrize("version", [VERSION, "24.10.5", "24.10-SNAPSHOT", "SNAPSHOT"])
def test_a_device_is_found_in_every_kind_of_version_and_can_be_asked_about(
    sample: Caller, version: str
) -> None:
    (found,) = sample.json(f"/api/v1/devices?version={version}&search=widget")["devices"]
    assert (found["title"], found["profile"]) == ("Acme Widget 5 v1", "acme_widget-5")
    about = sample.json(f"/api/v1/devices/{version}/{found['target']}/{found['profile']}")
    assert about["title"] == found["title"]
    assert about["device_packages"] == ["kmod-acme-usb", "-ppp"]
    assert "dnsmasq" in about["default_packages"]


def test_a_profile_with_two_titles_is_found_by_both(sample: Caller) -> None:
    assert sample.titles(f"/api/v1/devices?version={VERSION}&search=umbrella") == [
        "Umbrella Combined+",
        "Acme Combined v1.5",
    ]


def test_packages_of_architecture_and_target_are_found(sample: Caller) -> None:
    address = f"/api/v1/packages?version={VERSION}&target=pico/nine"
    found = sample.json(f"{address}&search=kmod-acme")["packages"]
    assert "kmod-acme-usb" in [package["name"] for package in found]
    assert sample.json(f"{address}&search=luci")["packages"][0]["name"] == "luci"


def test_a_dead_upstream_takes_no_device_away(sample: Caller) -> None:
    before = sample.titles(f"/api/v1/devices?version={VERSION}")
    sample.server.broken = True
    assert sample.titles(f"/api/v1/devices?version={VERSION}&limit=99") == before


def test_a_server_without_a_list_of_devices_is_searched_by_its_profiles(unlisted: Caller) -> None:
    address = f"/api/v1/devices?version={VERSION}&search=widget5"
    assert eventually(lambda: unlisted.titles(address) == ["Acme Widget 5 v1"])


def test_devices_and_packages_of_real_size_are_found(real_size: Caller) -> None:
    target = "ath79/generic"
    real_size.json(f"/api/v1/devices/{VERSION}/{target}/tplink_archer-c7-v5")
    address = f"/api/v1/devices?version={VERSION}&search=archer+c7+v5"
    assert eventually(lambda: real_size.titles(address)[:1] == ["TP-Link Archer C7 v5"])
    found = real_size.json(f"/api/v1/packages?version={VERSION}&target={target}&search=lib&limit=100")
    assert (len(found["packages"]), found["more"]) == (100, True)
    for text in ("l", "lu", "luc"):
        real_size.json(f"/api/v1/packages?version={VERSION}&target={target}&search={text}")
