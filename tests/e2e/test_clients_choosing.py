"""How clients choose: versions at every address, methods, addresses with slashes, the image."""

from typing import Any

import pytest

from e2e.clients.auc import Auc
from e2e.clients.crash import ClientError
from e2e.clients.device import Device
from e2e.clients.luci import Luci
from e2e.clients.owut import Owut
from e2e.clients.scene import ROUTER, SOON, is_kept, selector
from e2e.service import Service
from e2e.warm import warmed
from podman_service import APK_VERSION, OPKG_VERSION


@pytest.fixture(scope="module")
def server(local_service: Service) -> str:
    """The shared service's address, as an operator tells users to enter it."""
    return warmed(local_service)


@pytest.mark.parametrize("old", [False, True], ids=["current", "23.05"])
def test_luci_shows_the_same_versions_at_the_old_and_the_new_address(server: str, old: bool) -> None:
    luci = Luci(server, Device("24.10.4"), SOON, old=old)
    found = luci.search()
    assert APK_VERSION in found and found[-1] == OPKG_VERSION
    snapshot = Luci(server, Device("SNAPSHOT", revision="r1-0000000000"), old=old)
    assert snapshot.search() == ["SNAPSHOT"]
    assert Luci(server, Device("SNAPSHOT", revision="r99999-0000000000"), old=old).search() == []
    newest = Luci(server, Device(APK_VERSION), SOON, old=old)
    assert newest.search() in ([], ["25.12.0-rc1"]), "as text the candidate is later, and pages do sort so"


def test_owut_lists_the_newest_version_of_each_branch(server: str) -> None:
    owut = Owut(server, ROUTER)
    assert owut.offered() == {"25.12": APK_VERSION, "24.10": OPKG_VERSION, "SNAPSHOT": "SNAPSHOT"}


def test_owut_on_a_server_without_head_asks_with_get_for_the_rest_of_its_run(
    local_service: Service, server: str
) -> None:
    class Deaf(Owut):
        """Behind a proxy that knows no HEAD."""

        def _ask(self, method: str, url: str, body: bytes | None = None) -> Any:
            if method == "HEAD":
                self.asked.append(method)
                return self._http.ask("POST", url, b"{}")
            return super()._ask(method, url, body)

    owut = Deaf(server, ROUTER, SOON, SOON, added=("sample-slow-1",))
    assert is_kept(owut.upgrade(APK_VERSION), local_service)
    assert owut.asked[:2] == ["POST", "HEAD"]
    assert set(owut.asked[2:]) == {"GET"}


def test_owut_refuses_a_version_that_is_not_listed(server: str) -> None:
    with pytest.raises(ClientError, match=r"version 24\.10\.99 is not offered"):
        Owut(server, ROUTER).check("24.10.99")


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_slash_behind_the_server_changes_nothing(local_service: Service, server: str, slashes: str) -> None:
    server += slashes
    assert is_kept(Auc(server, ROUTER, SOON).upgrade(APK_VERSION), local_service)
    assert is_kept(Owut(server, ROUTER, SOON, SOON).upgrade(APK_VERSION), local_service)
    luci = Luci(server, ROUTER, SOON)
    assert is_kept(luci.install(luci.build(APK_VERSION, luci.packages(APK_VERSION))), local_service)
    page = selector(server, packages="vim")
    (link,) = [link for name, link in page.build().links.items() if "sysupgrade" in name]
    assert is_kept(page.click(link), local_service)


def test_every_client_chooses_the_image_of_its_boot_firmware(server: str) -> None:
    images = []
    for efi in (False, True):
        pc = Device(
            OPKG_VERSION, "x86/64", "x86_64", "innotek-gmbh-virtualbox", "r1-0", rootfs_type="ext4", efi=efi
        )
        luci = Luci(server, pc, SOON)
        images += [
            Owut(server, pc, SOON, SOON).upgrade(APK_VERSION),
            Auc(server, pc, SOON).upgrade(APK_VERSION),
            luci.install(luci.build(APK_VERSION, luci.packages(APK_VERSION))),
        ]
    assert all(images)
