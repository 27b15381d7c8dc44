"""Each client in the field, with its own habits and faults, from its first question to the image."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.clients.auc import Auc
from e2e.clients.device import Device
from e2e.clients.firmware_selector import STEPS as SELECTOR_STEPS
from e2e.clients.luci import Luci
from e2e.clients.luci_steps import STEPS as LUCI_STEPS
from e2e.clients.owut import Owut
from e2e.clients.scene import ROUTER, SOON, a_body, is_kept, selector
from e2e.conftest import Make, slow_service
from e2e.service import Client, Service
from e2e.warm import warmed
from factories import eventually
from podman_service import APK_VERSION

STAGES = ("container_setup", "validate_revision", "validate_manifest", "building_image")
MAY_BE_LEFT_OUT = "validate_manifest"
"""Where the package indexes tell what the image will hold, the ImageBuilder is not asked before."""


@pytest.fixture(scope="module")
def server(local_service: Service) -> str:
    """The shared service's address, as an operator tells users to enter it."""
    return warmed(local_service)


@pytest.fixture(scope="module")
def slow(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service whose builds stay in each stage for longer than an answer is remembered."""
    with slow_service(sample_world, upstream, tmp_path_factory.mktemp("slow"), seconds=1.1) as started:
        yield started


@pytest.fixture(scope="module")
def slow_server(slow: Service) -> str:
    """Its address."""
    return warmed(slow)


def test_owut_from_the_check_to_the_verified_image(slow: Service, slow_server: str) -> None:
    owut = Owut(slow_server, ROUTER, SOON, SOON, added=("tmux",), initial_script="echo hello\n")
    plan = owut.check(APK_VERSION)
    build = owut.build(plan)
    image = owut.download(plan, build)

    assert is_kept(image, slow)
    assert {"owut", "apk-mbedtls", "tmux"} <= plan.packages.keys() and None not in plan.packages.values()
    assert "auc" not in plan.packages and "opkg" not in plan.packages
    assert build["request"]["packages_versions"] == plan.packages
    assert build["request"]["client"] == "owut/2026.03.30"
    assert owut.displayed[0] == "queued - 0 ahead of you"
    assert [step for step in owut.displayed[1:] if step in STAGES] in (
        list(STAGES),
        [stage for stage in STAGES if stage != MAY_BE_LEFT_OUT],
    )
    assert (owut.asked[0], set(owut.asked[1:-2]), owut.asked[-2:]) == ("POST", {"HEAD"}, ["GET", "GET"])


def test_luci_from_the_search_to_the_checked_blob(slow: Service, slow_server: str) -> None:
    luci = Luci(slow_server, ROUTER, SOON, rootfs_size_mb="256")
    assert luci.search() == [APK_VERSION]
    packages = luci.packages(APK_VERSION)
    build = luci.build(APK_VERSION, packages)
    image = luci.install(build)

    assert is_kept(image, slow)
    assert set(packages) == {*ROUTER.installed, "owut", "apk-mbedtls"} - {"auc", "opkg"}
    assert build["request"]["profile"] == build["id"] == "acme_small"
    assert build["request"]["rootfs_size_mb"] == 256
    # A worker may have begun before the first answer.
    assert luci.displayed[0] in ("Queued 0", LUCI_STEPS["init"])
    # It asks again before it was answered, so an answer that comes late may show a former step once more.
    steps = dict.fromkeys(luci.displayed[1:])
    left_out = LUCI_STEPS["init"], LUCI_STEPS[MAY_BE_LEFT_OUT]
    assert [step for step in steps if step not in left_out] == [
        LUCI_STEPS[stage] for stage in STAGES if stage != MAY_BE_LEFT_OUT
    ]
    assert luci.browser.preflights >= len(luci.statuses), "each poll has its own preflight"


def test_the_firmware_selector_from_the_form_to_the_download(slow: Service, slow_server: str) -> None:
    page = selector(slow_server, packages="vim, tmux\n -ppp  kmod-acme-usb", version_code="")
    shown = page.build()

    (name,) = [name for name in shown.links if name.endswith("sysupgrade.bin")]
    assert is_kept(page.click(shown.links[name]), slow)
    assert (shown.heading, shown.packages) == ("Custom build", page.packages)
    assert page.displayed[0] == SELECTOR_STEPS["queued"]
    left_out = SELECTOR_STEPS["init"], SELECTOR_STEPS[MAY_BE_LEFT_OUT]
    assert [step for step in page.displayed[1:] if step not in left_out] == [
        SELECTOR_STEPS[stage] for stage in STAGES if stage != MAY_BE_LEFT_OUT
    ]
    assert page.asked[0] == "POST" and set(page.asked[1:]) == {"GET"}
    assert page.browser.preflights == len(page.asked)


def test_auc_from_the_branches_to_the_verified_image(slow: Service, slow_server: str) -> None:
    auc = Auc(slow_server, ROUTER, SOON)
    image = auc.upgrade(APK_VERSION)

    assert is_kept(image, slow)
    assert auc.displayed == ["0 ahead", "."]
    assert auc.profiles_asked == 6, "one request for each version"


def test_four_clients_that_want_the_same_are_served_by_one_build(
    local_service: Service, server: str, local: Client
) -> None:
    server = server
    packages = ["base-files", "dropbear", "vim"]
    body = a_body(packages=packages, diff_packages=True, filesystem="squashfs")
    first = Luci(server, ROUTER, SOON)
    second = selector(server, packages="vim dropbear base-files", extra={"filesystem": "squashfs"})
    others = threading.Thread(target=second.build)
    others.start()
    request_hash = first.build(APK_VERSION, packages)["request_hash"]
    others.join()

    again = local.post(body)
    assert (again.status, again.json["request_hash"]) == (200, request_hash)
    rows = local_service.rows(f"SELECT count(*) FROM build_jobs WHERE request_hash = '{request_hash}'")
    assert rows == [(1,)]


def test_the_page_of_23_05_goes_on_where_it_knows_no_step(slow: Service, slow_server: str) -> None:
    luci = Luci(slow_server, Device("23.05.3"), SOON, old=True)
    build = luci.build(APK_VERSION, ["htop"])

    assert is_kept(luci.install(build), slow)
    assert luci.displayed[0] == "Queued 0"
    assert list(dict.fromkeys(luci.displayed))[-1] == LUCI_STEPS["building_image"]
    assert LUCI_STEPS["validate_manifest"] not in luci.displayed


def test_luci_compares_with_its_rebuilders(local_service: Service, server: str, make_local: Make) -> None:
    other = make_local("rebuilder").start()
    rebuilder = warmed(other)
    luci = Luci(server, ROUTER, SOON, rebuilders=(rebuilder,))
    build = luci.build(APK_VERSION, ["nano", "sample-slow-1"])
    assert eventually(lambda: bool(luci.rebuilt) or _ask_rebuilder(luci, build))

    assert is_kept(luci.install(build), local_service)
    assert luci.rebuilt.keys() == {rebuilder}
    assert other.rows("SELECT count(*) FROM build_jobs") == [(1,)]


def _ask_rebuilder(luci: Luci, build: Any) -> bool:
    """Its dialog stays open until each rebuilder has answered."""
    luci.ask_rebuilders(build["version_number"], build["request"]["packages"])
    return bool(luci.rebuilt)
