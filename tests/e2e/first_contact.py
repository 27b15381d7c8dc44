"""A server on which nobody has asked anything: each client's whole first contact, and how long it waited.

Upstream answers each request only after a while, as a far one does. Play it by hand:
`pytest tests/e2e/test_first_contact.py --log-cli-level=INFO` prints the slowest answer of each.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.clients import browser, sockets, uclient
from e2e.clients.auc import Auc
from e2e.clients.device import Device
from e2e.clients.luci import Luci
from e2e.clients.owut import Owut
from e2e.clients.scene import SOON, selector
from e2e.clients.sockets import Reply
from e2e.clients.uclient import Uclient
from e2e.conftest import local_settings
from e2e.service import Service

DELAY = timedelta(milliseconds=300)
LONGEST = timedelta(seconds=3)
"""What the slowest answer may take."""
INTERVAL = 0.25
"""Seconds between LuCI's requests, which come every five seconds; the sample's builds are quicker too."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a client to the service, and what came of it."""

    method: str
    path: str
    status: int
    began: float
    seconds: float


@dataclass
class Contact:
    """What one client has asked a fresh service for."""

    address: str
    asked: list[Asked] = field(default_factory=list)

    @property
    def slowest(self) -> Asked:
        """The request that waited longest."""
        return max(self.asked, key=lambda asked: asked.seconds)

    @property
    def errors(self) -> list[Asked]:
        """Whatever no client should meet: nothing here asks for what does not exist."""
        return [asked for asked in self.asked if asked.status >= 400]


@contextmanager
def first_contact(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Contact]:
    """A service that has just been started, with an operator's own rounds of background work, and a
    record of what is asked of it."""
    service.program = ("-m", "asu_builder", "serve")
    contact = Contact(f"http://127.0.0.1:{service.start().port}")
    exchange = sockets.exchange

    def recorded(method: str, url: str, **arguments: Any) -> Reply:
        began = time.monotonic()
        reply = exchange(method, url, **arguments)
        if url.startswith(contact.address):
            path = url.removeprefix(contact.address)
            contact.asked.append(Asked(method, path, reply.status, began, time.monotonic() - began))
        return reply

    for module in (uclient, browser):
        monkeypatch.setattr(module, "exchange", recorded)
    try:
        yield contact
    finally:
        service.end()


class FarServer(DownloadServer):
    """A download server that takes its time for each answer; `lacks` are names of files it does not have."""

    def __init__(self, root: Path, *, lacks: Collection[str] = ()) -> None:
        super().__init__(root)
        self.delay = DELAY
        self._lacks = lacks
        self._answered: list[tuple[float, float]] = []
        """When each request came and when it was answered."""

    def pause(self) -> None:
        """Notes it too."""
        began = time.monotonic()
        super().pause()
        self._answered.append((began, time.monotonic()))

    def most_in_a_row(self, asked: Asked) -> int:
        """How many answers of upstream one request has waited for, one after the other, at most."""
        ends, count = asked.began, 0
        for began, answered in sorted(self._answered, key=lambda pair: pair[1]):
            if began >= ends and answered <= asked.began + asked.seconds:
                ends, count = answered, count + 1
        return count

    def locate(self, path: str) -> Path | None:
        """None also for what it lacks."""
        return None if path.rpartition("/")[2] in self._lacks else super().locate(path)


def settings_for(world: Distribution, upstream_url: str, **changes: object) -> dict[str, object]:
    """A service that accepts builds and begins none, with the limits that operators have."""
    limits = {"new_builds_limit": Settings().new_builds_limit, "worker_concurrent": 0}
    return local_settings(world, upstream_url) | limits | changes


def play_owut(address: str, device: Device, version: str) -> None:
    """`owut versions`, `owut check`, and the request for a build."""
    owut = Owut(address, device, SOON, SOON)
    assert version in owut.offered().values()
    plan = owut.check(version)
    assert None not in plan.packages.values(), plan.packages
    _take(address, owut.body(plan), timeout=30.0)


def play_auc(address: str, device: Device, version: str) -> None:
    """The branches, each version's profile, the package indexes, and the request for a build."""
    auc = Auc(address, device, SOON)
    candidates = {candidate.version: candidate for candidate in auc.candidates()}
    assert version in candidates, "it would silently offer an older one"
    packages = auc.packages(candidates[version])
    assert packages
    _take(address, auc.body(candidates[version], packages), timeout=15.0)


def play_luci(address: str, device: Device, version: str) -> None:
    """The search, the revision before a build, and the POST again and again, as its page sends it."""
    luci = Luci(address, device, INTERVAL)
    assert version in luci.search()
    body = luci.body(version, luci.packages(version))
    for _ in range(_AGAIN):
        reply = luci.browser.fetch(
            "POST", f"{address}/api/v1/build", body=body, headers={"Content-Type": "application/json"}
        )
        assert reply.status == 202, reply.body


def play_selector(address: str, device: Device, version: str) -> None:
    """One POST, the first thing that this server hears of the page."""
    page = selector(address, version=version, target=device.target, profile=device.board_name)
    document = json.dumps(page._request()).encode()
    reply = page._fetch("POST", "/api/v1/build", document)
    assert reply.status == 202, reply.body


def play_luci_to_the_end(address: str, device: Device, version: str) -> None:
    """LuCI with a second server that is the first one: it sends that one the whole request until the
    build is there, beside its own polls."""
    luci = Luci(address, device, INTERVAL, rebuilders=(address,))
    assert version in luci.search()
    packages = luci.packages(version)
    build = luci.build(version, packages)
    while not luci.rebuilt:
        luci.ask_rebuilders(version, packages)
        luci.wait_for_polls()
    assert luci.install(build)


CLIENTS: Mapping[str, Callable[[str, Device, str], None]] = {
    "owut": play_owut,
    "auc": play_auc,
    "luci": play_luci,
    "selector": play_selector,
}


_AGAIN = 30
"""More often than `new_builds_limit` accepts new builds in a minute."""


def _take(address: str, body: bytes, *, timeout: float) -> None:
    client = Uclient("uclient-fetch", follows_redirects=False, timeout=timeout)
    reply = client.ask("POST", f"{address}/api/v1/build", body)
    assert reply.status == 202, reply.body
