"""What users of each client see when an operator cancels their build: every one of them stops."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.clients.auc import Auc
from e2e.clients.crash import ClientCrash, ClientError
from e2e.clients.luci import Luci
from e2e.clients.owut import Owut
from e2e.clients.scene import ROUTER, SOON, a_body, is_kept, selector
from e2e.conftest import slow_service
from e2e.service import Service
from e2e.warm import warmed
from factories import eventually
from podman_service import APK_VERSION

_SECRET = "the operator's secret"
_TOKENS = [{"name": "alice", "digest": hashlib.sha256(_SECRET.encode()).hexdigest(), "rights": ["operate"]}]
_AUTHORIZED = {"Authorization": f"Bearer {_SECRET}"}


@pytest.fixture(scope="module")
def service(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with one worker whose builds take long enough to be cancelled."""
    folder = tmp_path_factory.mktemp("cancelled")
    with slow_service(
        sample_world, upstream, folder, seconds=3, worker_concurrent=1, api_tokens=json.dumps(_TOKENS)
    ) as started:
        yield started


@pytest.fixture(scope="module")
def server(service: Service) -> str:
    """Its address."""
    return warmed(service)


def owut(server: str) -> Any:
    client = Owut(server, ROUTER, SOON, SOON, added=("tmux",))
    return client.build(client.check(APK_VERSION))


def luci(server: str) -> Any:
    return Luci(server, ROUTER, SOON).build(APK_VERSION, ["luci", "tmux"])


def firmware_selector(server: str) -> Any:
    return selector(server, packages="vim").build()


def old_firmware_selector(server: str) -> Any:
    return selector(server, packages="nano", old=True).build()


def auc(server: str) -> Any:
    return Auc(server, ROUTER, SOON).upgrade(APK_VERSION)


CLIENTS = pytest.mark.parametrize("run", [owut, luci, firmware_selector, old_firmware_selector, auc])


def cancel(service: Service, state: str) -> None:
    """Cancels the newest job, once it is in this state."""
    found: list[dict[str, Any]] = []
    with service.client() as client:

        def look() -> bool:
            answer = client.ask("GET", "/api/v1/jobs?limit=1", headers=_AUTHORIZED)
            found[:] = [job for job in answer.json["jobs"] if job["state"] == state]
            return bool(found)

        assert eventually(look)
        address = f"/api/v1/build/{found[0]['request_hash']}"
        assert client.ask("DELETE", address, headers=_AUTHORIZED).json["state"] == "cancelled"


def ends(run: Callable[[str], Any], server: str, meanwhile: Callable[[], None]) -> list[Exception]:
    """How a client ends while something is done to its build."""
    ended: list[Exception] = []

    def use() -> None:
        try:
            run(server)
        except (ClientError, ClientCrash) as error:
            ended.append(error)

    user = threading.Thread(target=use)
    user.start()
    meanwhile()
    user.join(60)
    assert not user.is_alive(), "the client goes on for ever"
    return ended


@CLIENTS
def test_a_build_cancelled_while_it_runs_stops_the_client_with_the_word(
    service: Service, server: str, run: Callable[[str], Any]
) -> None:
    (end,) = ends(run, server, lambda: cancel(service, "building"))
    assert isinstance(end, ClientError), end
    assert end.status == 500
    assert "cancelled" in end.shown


@CLIENTS
def test_a_build_cancelled_while_it_waits_stops_the_client_with_the_word(
    service: Service, server: str, run: Callable[[str], Any]
) -> None:
    with service.client() as client:
        busy = client.started(
            a_body(packages=[f"busy-{run.__name__}".replace("_", "-")]),
            "container_setup",
        )
        (end,) = ends(run, server, lambda: cancel(service, "pending"))
        client.ask("DELETE", f"/api/v1/build/{busy}", headers=_AUTHORIZED)
    assert isinstance(end, ClientError), end
    assert (end.status, "cancelled" in end.shown) == (500, True)


def test_the_same_client_asks_again_and_has_its_image(service: Service, server: str) -> None:
    ends(luci, server, lambda: cancel(service, "building"))
    page = Luci(server, ROUTER, SOON)
    build = page.build(APK_VERSION, ["luci", "tmux"])
    assert is_kept(page.install(build), service)
