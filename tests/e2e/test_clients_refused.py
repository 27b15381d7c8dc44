"""What users of each client see when there is no image: failed, refused, overloaded."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.clients.auc import Auc
from e2e.clients.crash import ClientCrash, ClientError
from e2e.clients.device import Device
from e2e.clients.luci import Luci
from e2e.clients.owut import Owut
from e2e.clients.scene import ROUTER, SOON, a_body, is_kept, selector
from e2e.conftest import Make, local_settings
from e2e.service import Service
from e2e.warm import warmed
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION

REFUSALS = pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"version": "24.10.99"}, "Unsupported version: 24.10.99"),
        ({"version": "19.07.1"}, "Unsupported branch: 19.07.1"),
        ({"target": "no/such"}, "Unsupported target: no/such. "),
        ({"profile": "acme_nothing"}, "Unsupported profile: acme_nothing. "),
    ],
)


@pytest.fixture(scope="module")
def server(local_service: Service) -> str:
    """The shared service's address, as an operator tells users to enter it."""
    return warmed(local_service)


@pytest.fixture(scope="module")
def full(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service whose queue is full and stays so."""
    settings = local_settings(sample_world, upstream.url) | {"max_pending_jobs": 1, "worker_concurrent": 0}
    service = Service(tmp_path_factory.mktemp("full"), settings).start()
    with service.client() as client:
        assert client.post(a_body()).status == 202
    yield service
    service.end()


def test_owut_falls_back_to_names_when_a_package_is_in_no_index(server: str) -> None:
    owut = Owut(server, ROUTER, SOON, SOON, added=("no-such-package",))
    with pytest.raises(ClientError, match=r"missing \(no-such-package\)") as end:
        owut.upgrade(APK_VERSION)
    assert end.value.status == 500
    assert end.value.shown.startswith("Error: Impossible package selection: missing (no-such-package) (500)")


def test_luci_stops_at_a_failed_build_and_shows_everything(server: str) -> None:
    luci = Luci(server, ROUTER, SOON)
    with pytest.raises(ClientError) as end:
        luci.build(APK_VERSION, ["no-such-package"])
    assert end.value.status == 500
    assert end.value.shown.startswith("Error: Impossible package selection: missing (no-such-package)\n")
    assert len(end.value.shown.splitlines()) > 1


@pytest.mark.parametrize("old", [False, True], ids=["current", "5.0.3"])
def test_the_firmware_selector_shows_why_a_build_failed(server: str, old: bool) -> None:
    with pytest.raises(ClientError, match=r"Error: Impossible package selection: missing \(no-such\)") as end:
        selector(server, packages="vim no-such", old=old).build()
    assert end.value.status == 500


def test_auc_prints_what_a_failed_build_printed(server: str) -> None:
    auc = Auc(server, ROUTER, SOON)
    candidate = next(entry for entry in auc.candidates() if entry.version == APK_VERSION)
    versions = auc.packages(candidate) | {"dropbear": "0.1-r1"}
    with pytest.raises(ClientError, match=r"dropbear version not as requested: 0\.1-r1 vs\. ") as end:
        auc.build(candidate, versions)
    assert end.value.status == 500


@REFUSALS
@pytest.mark.parametrize("old", [False, True], ids=["current", "5.0.3"])
def test_the_firmware_selector_shows_why_a_request_is_refused(
    server: str, changes: dict[str, Any], shown: str, old: bool
) -> None:
    with pytest.raises(ClientError) as end:
        selector(server, old=old, **changes).build()
    assert end.value.status == 400
    assert end.value.shown.startswith(shown)


def test_the_others_show_why_a_request_is_refused(server: str) -> None:
    stranger = Device(OPKG_VERSION, board_name="acme,nothing")
    sentence = "Unsupported profile: acme_nothing. "
    with pytest.raises(ClientError, match=sentence) as luci:
        Luci(server, stranger, SOON).build(APK_VERSION, ["vim"])
    with pytest.raises(ClientError, match="acme,nothing is not among the profiles"):
        Owut(server, stranger).check(APK_VERSION)
    with pytest.raises(ClientError, match="No data available"):
        Auc(server, stranger, SOON).upgrade(APK_VERSION)
    assert luci.value.status == 400


def test_a_malformed_request_freezes_no_client(server: str) -> None:
    with pytest.raises(ClientError, match=r"^filesystem: ") as page:
        selector(server, extra={"filesystem": "z fs;"}).build()
    device = Device(OPKG_VERSION, rootfs_type="z fs;")
    with pytest.raises(ClientError, match=r"^filesystem: ") as luci:
        Luci(server, device, SOON).build(APK_VERSION, [])
    assert (page.value.status, luci.value.status) == (422, 422)


def test_a_full_queue_is_told_to_those_who_listen(full: Service) -> None:
    server, sentence = warmed(full), "server overload, queue contains too many build requests: 1"
    owut = Owut(server, ROUTER, SOON, SOON)
    with pytest.raises(ClientError, match=sentence) as of_owut:
        owut.build(owut.check(APK_VERSION))
    with pytest.raises(ClientError, match=sentence) as of_page:
        selector(server, packages="vim").build()
    with pytest.raises(ClientCrash, match="the spinner turns for ever"):
        selector(server, packages="vim", old=True).build()
    with pytest.raises(ClientError, match="Bad message") as of_auc:
        Auc(server, ROUTER, SOON).upgrade(APK_VERSION)
    assert [end.value.status for end in (of_owut, of_page, of_auc)] == [429, 429, 429]


def test_luci_waits_for_room_and_through_a_restart_without_a_word(make_local: Make) -> None:
    service = make_local(max_pending_jobs=1, worker_concurrent=0).start()
    with service.client() as client:
        assert client.post(a_body()).status == 202
    luci = Luci(warmed(service), ROUTER, SOON)
    builds: list[Any] = []
    page = threading.Thread(target=lambda: builds.append(luci.build(APK_VERSION, ["curl"])))
    page.start()
    assert eventually(lambda: len(luci.statuses) > 3)
    assert set(luci.statuses) == {429} and luci.displayed == []

    service.stop()
    service.change(worker_concurrent=2)
    service.start()
    page.join(60)
    assert is_kept(luci.install(builds[0]), service)
    assert luci.statuses[-1] == 200
