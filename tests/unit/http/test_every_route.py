"""What holds on every route: what needs upstream is limited, and the event loop waits for no disk."""

import asyncio
import builtins
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from asgi_client import AsgiClient
from asu_builder.core.submit import Ask, BuildView
from asu_builder.domain.access import Right, Token, digest_of
from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.domain.reading import current_reading
from asu_builder.domain.release import Release, TargetProfiles, VersionList
from asu_builder.domain.request import request_hash
from asu_builder.domain.search import Device
from asu_builder.http.app import OPERATIONS, PAGES
from factories import a_request
from fake_builds import FakeBuilds, a_body
from web_scene import EmptyUpstream, Scene

_VALUES = {
    "request_hash": request_hash(a_request()),
    "path:path": "releases/24.10.5",
    "version": "24.10.5",
    "target": "pico",
    "subtarget": "nine",
    "profile": "acme_widget-5",
    "architecture": "pico_9kc",
    "chart": "builds",
    "name": "openwrt-sysupgrade.bin",
    "digest": "0",
}
_QUERIES = {
    "GET /api/v1/devices": "?version=24.10.5&search=acme",
    "GET /api/v1/packages": "?version=24.10.5&target=pico/nine&search=vim",
    "GET /build": "?version=24.10.5&target=pico/nine&profile=acme_widget-5",
}
_BODIES = {
    "POST /api/v1/build": json.dumps(a_body()).encode(),
    "POST /api/v1/packages/preview": json.dumps(a_body()).encode(),
    "POST /build": b"do=check&version=24.10.5&target=pico/nine&profile=acme_widget-5",
}
_ROUTES = tuple(
    dict.fromkeys([f"{operation.methods[0]} {operation.path}" for operation in OPERATIONS] + list(PAGES))
)
_REFUSED = {
    *("POST /api/v1/build", "POST /api/v1/packages/preview", "GET /build", "POST /build"),
    *(f"GET {path}" for path in ("/json/v1/overview.json", "/api/v1/overview", "/api/overview", "/overview")),
    *(f"GET {path}" for path in ("/json/v1/latest.json", "/api/v1/latest", "/json/v1/branches.json")),
    "GET /json/v1/{path:path}/packages/{architecture}-index.json",
    "GET /json/v1/{path:path}/targets/{target}/{subtarget}/index.json",
    "GET /json/v1/{path:path}/targets/{target}/{subtarget}/{profile}.json",
    "GET /api/v1/revision/{version}/{target}/{subtarget}",
    *("GET /api/v1/devices", "GET /api/v1/packages"),
    "GET /api/v1/devices/{version}/{target}/{subtarget}/{profile}",
}
"""What cannot be answered without upstream."""
_DOES_WITHOUT = {"GET /", "GET /build/{request_hash}"}
"""What asks for it and is answered without."""


class _NeverSeen(EmptyUpstream):
    """A download server none of whose documents is here."""

    def __init__(self) -> None:
        self.fetched = 0

    def need(self) -> NoReturn:
        """As the upstream client does for a document that was never seen."""
        reading = current_reading()
        assert reading is not None, "no caller waits for it in a thread"
        if refusal := reading.refusal():
            raise refusal
        self.fetched += 1
        raise Unavailable("Not here.")

    def versions(self) -> VersionList:
        self.need()

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        self.need()

    def devices(self, release: Release) -> Sequence[Device] | None:
        self.need()

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        self.need()

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        self.need()

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        self.need()

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        self.need()


class _CheckingBuilds(FakeBuilds):
    """Needs upstream for a new request, as the real service does."""

    def __init__(self, upstream: _NeverSeen) -> None:
        super().__init__()
        self._upstream = upstream

    def submit(self, ask: Ask) -> BuildView:
        assert ask.reading is not None
        with ask.reading.active():
            self._upstream.need()


def _ask(client: AsgiClient, route: str, headers: Mapping[str, str] | None = None) -> Any:
    method, _, path = route.partition(" ")
    target = re.sub(r"\{([^}]+)\}", lambda found: _VALUES[found[1]], path) + _QUERIES.get(route, "")
    kind = "application/json" if path.startswith("/api/") else "application/x-www-form-urlencoded"
    return client.request(
        method, target, body=_BODIES.get(route, b""), headers={"content-type": kind, **(headers or {})}
    )


@pytest.mark.parametrize("route", _ROUTES)
def test_the_limit_of_look_ups_stands_before_every_route_that_needs_upstream(
    scene: Scene, route: str
) -> None:
    asked: list[tuple[str, str]] = []

    def refuse(name: str, what: str) -> TooManyRequests:
        asked.append((name, what))
        return TooManyRequests("Too many questions.", retry_after=7)

    upstream = _NeverSeen()
    scene.upstream, scene.limit_fetches = upstream, refuse
    scene.builds = _CheckingBuilds(upstream)
    scene.builds.complete()
    with AsgiClient(scene.app()) as client:
        answer = _ask(client, route)
    assert upstream.fetched == 0
    assert (answer.status == 429) == (route in _REFUSED), answer.status
    if route in _REFUSED:
        assert answer.header("retry-after") == "7"
    assert bool(asked) == (route in _REFUSED | _DOES_WITHOUT)
    assert {name for name, _ in asked} <= {"127.0.0.1"} and len(asked) <= 3


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Calls of the disk that were made in a thread in which an event loop runs."""
    found: list[str] = []

    def watched(name: str, call: Any) -> Any:
        def instead(*arguments: Any, **named: Any) -> Any:
            if asyncio._get_running_loop() is not None:
                found.append(f"{name} {arguments[:1]}")
            return call(*arguments, **named)

        return instead

    for module, names in (
        (
            os,
            ("stat", "lstat", "statvfs", "open", "listdir", "scandir", "replace", "unlink", "fsync", "mkdir"),
        ),
        (builtins, ("open",)),
        (sqlite3, ("connect",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    yield found


@pytest.mark.parametrize("route", _ROUTES)
def test_no_route_lets_the_event_loop_wait_for_a_disk(scene: Scene, waits: list[str], route: str) -> None:
    scene.tokens = (Token("op", digest_of("secret"), frozenset(Right)),)
    name = scene.builds.complete()
    scene.publish(name, _VALUES["name"], b"x" * 100)
    with AsgiClient(scene.app()) as client:
        for _ in range(2):  # the first loads what is loaded at its first use
            waits.clear()
            scene.seconds += 3600.0
            answer = _ask(client, route, {"authorization": "Bearer secret"})
            assert answer.status < 500, answer.body
    assert waits == []


def test_a_disk_that_is_waited_for_is_noticed(waits: list[str]) -> None:
    async def look() -> None:
        Path("/").stat()

    Path("/").stat()
    assert waits == []
    asyncio.run(look())
    assert [found.split()[0] for found in waits] == ["stat"]
