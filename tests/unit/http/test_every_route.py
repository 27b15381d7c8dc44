"""What holds on every route: what needs upstream is limited, and the event loop waits for no disk."""

import asyncio
import builtins
import gzip
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.core.submit import Ask, BuildView
from asu_builder.domain.access import Right, Token, digest_of
from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.domain.reading import current_reading
from asu_builder.domain.release import Release, TargetProfiles, VersionList
from asu_builder.domain.request import request_hash
from asu_builder.domain.search import Device, Title
from asu_builder.http.representations import Document
from asu_builder.http.routes import OPERATIONS, PAGES
from asu_builder.http.texts import VARY
from factories import a_request
from fake_builds import FakeBuilds, a_body
from web_scene import DescribingUpstream, EmptyUpstream, Scene

_VALUES = {
    "request_hash": request_hash(a_request()),
    "other": request_hash(a_request()),
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
    "GET /api/v1/packages": "?version=24.10.5&target=pico/nine&search=vim&limit=100",
    "GET /build": "?version=24.10.5&target=pico/nine&profile=acme_widget-5",
}
_BODIES = {
    "POST /api/v1/build": json.dumps(a_body()).encode(),
    "POST /api/v1/packages/preview": json.dumps(a_body()).encode(),
    "POST /api/v1/packages/compare": json.dumps(a_body() | {"from_version": "24.10.4"}).encode(),
    "POST /build": b"do=check&version=24.10.5&target=pico/nine&profile=acme_widget-5",
}
_ROUTES = tuple(
    dict.fromkeys([f"{operation.methods[0]} {operation.path}" for operation in OPERATIONS] + list(PAGES))
)
_REFUSED = {
    *("POST /api/v1/build", "POST /api/v1/packages/preview", "GET /build", "POST /build"),
    *("POST /api/v1/packages/compare", "GET /compare"),
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
_DOES_WITHOUT = {"GET /", "GET /build/{request_hash}", "GET /firmware-selector/config.js"}
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


class _Offering(DescribingUpstream):
    """A download server whose documents are long enough to be compressed."""

    def __init__(self) -> None:
        super().__init__(
            [Device(Title(vendor="Acme", model=f"Widget {n}"), "pico/nine", f"acme_{n}") for n in range(50)]
        )

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        return json.dumps({"device_packages": [f"kmod-{number}" for number in range(200)]}).encode()

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        return {f"vim-{number}": "9.1-r1" for number in range(200)}

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        return {f"kmod-vim-{number}": "6.6.93-r1" for number in range(200)}


_PAGES_FOR_ALL = {"GET /", "GET /status", "GET /queue", "GET /statistics", "GET /docs"}
_DOCUMENTS = {
    *(f"GET {found.path}" for found in OPERATIONS if 304 in found.answers and "/store/" not in found.path),
    *_PAGES_FOR_ALL,
    "GET /static/{digest}/{name}",
    "GET /favicon.ico",
}
"""Which have an ETag, and are compressed where they are long."""
_SPEAKING = {*PAGES} - {
    *("GET /static/{digest}/{name}", "GET /favicon.ico", "GET /robots.txt", "GET /llms.txt"),
    *("GET /help", "GET /help/{path:path}"),
}
"""Those in the language of their reader."""
_SHORT = {
    *(
        "GET /json/v1/latest.json",
        "GET /api/v1/latest",
        "GET /api/v1/revision/{version}/{target}/{subtarget}",
    ),
    "GET /api/v1/devices/{version}/{target}/{subtarget}/{profile}",
    "GET /favicon.ico",
    *(f"GET /api/v1/{name}" for name in ("stats/summary", "top-packages", "build-errors", "builds-per-day")),
    *("GET /api/v1/builds-by-version", "GET /api/v1/diff-packages-trend"),
    "GET /api/v1/statistics/{chart}.csv",
    *(f"GET /api/v1/{what}-by-{by}" for what in ("failures", "cache-hits") for by in ("target", "profile")),
    *("GET /api/v1/diff-packages-stats", "GET /api/v1/diff-packages-by-version"),
}
_ODD = ("", ",", "gzip;q=x", "gzip;;q=1", "\xff\xfe", "g" * 5000, "gzip," * 3000, "*;q=\x00", '"gzip"', "q=1")
_ODD_TAGS = ('"', "W/", 'W/"', "W/*", '""', '"a" "b"', "*,*", '"\xe9"', '"' * 4000, "\t")
_PER_REQUEST = ("x-request-id", "server-timing")


@pytest.fixture
def offering(scene: Scene) -> Iterator[tuple[Scene, AsgiClient]]:
    """A service that has something to say on every route."""
    scene.upstream = _Offering()
    scene.tokens = (Token("op", digest_of("secret"), frozenset(Right)),)
    scene.publish(scene.builds.complete(), _VALUES["name"], b"an image " * 1000)
    with AsgiClient(scene.app()) as client:
        yield scene, client


def _target_of(client: AsgiClient, route: str) -> str:
    path = route.partition(" ")[2]
    if path.startswith("/static/"):
        return str(re.findall(r"/static/[0-9a-f]+/style\.css", client.get("/").body.decode())[0])
    values = {**_VALUES, "chart": "builds-per-day"}
    return re.sub(r"\{([^}]+)\}", lambda found: values[found[1]], path) + _QUERIES.get(route, "")


def _lasting(answer: Answer) -> list[tuple[str, str]]:
    return sorted(header for header in answer.headers if header[0] not in _PER_REQUEST)


@pytest.mark.parametrize("route", [route for route in _ROUTES if route.startswith("GET ")])
def test_documents_and_nothing_else_are_compressed_for_those_who_ask(
    offering: tuple[Scene, AsgiClient], route: str
) -> None:
    _, client = offering
    target = _target_of(client, route)
    plain, gzipped = client.get(target), client.get(target, {"accept-encoding": "gzip, deflate, br"})
    assert plain.header("content-encoding") is None
    if route not in _DOCUMENTS:
        assert gzipped.header("content-encoding") is None
        assert gzipped.header("vary") == (VARY if route in _SPEAKING else None)
        return
    assert (plain.status, gzipped.status) == (200, 200), plain.body
    varies = VARY if route in _SPEAKING else "Accept-Encoding"
    assert [each.header("vary") for each in (plain, gzipped)] == [varies] * 2
    assert (len(plain.body) < 1024) == (route in _SHORT)
    if route in _SHORT:
        assert gzipped.header("content-encoding") is None
        assert (gzipped.body, gzipped.header("etag")) == (plain.body, plain.header("etag"))
        return
    assert gzipped.header("content-encoding") == "gzip"
    assert gzip.decompress(gzipped.body) == plain.body
    assert gzipped.header("content-length") == str(len(gzipped.body)) != plain.header("content-length")
    assert gzipped.header("etag") != plain.header("etag")
    assert gzipped.header("content-type") == plain.header("content-type")
    refusing = client.get(target, {"accept-encoding": "gzip;q=0, *;q=0"})
    assert (refusing.body, refusing.header("etag")) == (plain.body, plain.header("etag"))


@pytest.mark.parametrize("route", sorted(_DOCUMENTS))
@pytest.mark.parametrize("accepted", ["", "gzip"])
def test_what_a_client_has_of_a_document_is_answered_with_304(
    offering: tuple[Scene, AsgiClient], route: str, accepted: str
) -> None:
    _, client = offering
    target, headers = _target_of(client, route), {"accept-encoding": accepted}
    whole, head = client.get(target, headers), client.request("HEAD", target, headers=headers)
    assert _lasting(head) == _lasting(whole) and head.body == b""
    etag = whole.header("etag")
    assert etag is not None and etag.startswith('"'), "a strong one"
    kept = [each for each in _lasting(whole) if each[0] not in ("content-type", "content-length")]
    for known in (etag, f"W/{etag}", f'"other", W/"x,y" , {etag}', "*"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, target, headers={**headers, "if-none-match": known})
            assert (answer.status, answer.body) == (304, b"")
            assert _lasting(answer) == [each for each in kept if each[0] != "content-encoding"]
            assert answer.header("access-control-allow-origin") == "*" and answer.header("cache-control")
    for known in ('"other"', etag.strip('"'), etag.replace('"', "'")):
        assert client.get(target, {**headers, "if-none-match": known}).status == 200


@pytest.mark.parametrize("route", [route for route in _ROUTES if route.startswith("GET ")])
def test_odd_headers_change_no_answer(offering: tuple[Scene, AsgiClient], route: str) -> None:
    scene, client = offering
    target = _target_of(client, route)
    usual = client.get(target)
    for odd, odd_tag in zip(_ODD, _ODD_TAGS, strict=True):
        answer = client.get(target, {"accept-encoding": odd, "if-none-match": odd_tag})
        assert (answer.status, answer.header("content-encoding")) == (usual.status, None), odd
    assert scene.builds


@pytest.mark.parametrize("route", sorted(_PAGES_FOR_ALL))
def test_a_page_for_one_operator_is_neither_compressed_nor_kept(
    offering: tuple[Scene, AsgiClient], route: str
) -> None:
    _, client = offering
    target = route.removeprefix("GET ")
    anonymous = client.get(target, {"accept-encoding": "gzip"})
    assert anonymous.header("cache-control") == "no-cache"
    headers = {"accept-encoding": "gzip", "cookie": "asu_token=secret"}
    for known in (anonymous.header("etag") or "", "*"):
        answer = client.get(target, {**headers, "if-none-match": known})
        assert (answer.status, answer.header("cache-control")) == (200, "no-store")
        assert answer.header("etag") is None and answer.header("content-encoding") is None
        assert b"Signed in as" in answer.body
    again = client.get(target, {"accept-encoding": "gzip"})
    assert again.body == anonymous.body and b"Signed in as" not in gzip.decompress(again.body)


def test_nothing_that_a_visitor_sends_is_on_the_page_that_others_see(
    offering: tuple[Scene, AsgiClient],
) -> None:
    scene, client = offering
    for page in ("/", "/queue", "/statistics", "/docs"):
        for target in (f"{page}?evil=1&state=evil&done=cancel", f"{page}?fragment=evil&profile=evil"):
            client.get(target)
        scene.seconds += 60.0
        client.get(f"{page}?fragment=evil&profile=evil", {"x-forwarded-for": "evil", "user-agent": "evil"})
        for target in (page, f"{page}?fragment"):
            assert b"evil" not in client.get(target).body
            assert b"127.0.0.1" not in client.get(target).body


@pytest.mark.parametrize("route", sorted(_DOCUMENTS))
def test_no_document_is_compressed_on_the_event_loop(
    offering: tuple[Scene, AsgiClient], monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    _, client = offering
    target = _target_of(client, route)
    client.get("/build")  # the first page compresses all style sheets
    called: list[bool] = []
    compress = Document.compress

    def watched(document: Document) -> None:
        if document.gzipped is None:
            called.append(asyncio._get_running_loop() is not None)
        compress(document)

    monkeypatch.setattr(Document, "compress", watched)
    for _ in range(3):
        client.get(target, {"accept-encoding": "gzip"})
    assert called == ([] if route in _SHORT or "static" in route else [False])
