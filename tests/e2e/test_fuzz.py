"""Whatever is sent: never a 500, and every error is the one JSON document."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.conftest import local_settings
from e2e.service import Answer, Client, Service

_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["25.12.0", "pico/nine", "acme_small", "SNAPSHOT", "vim", "", "0" * 64, "x/y", "1"]),
)
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)
_FIELDS = (
    *("distro", "version", "version_code", "target", "profile", "packages", "packages_versions", "defaults"),
    *("diff_packages", "rootfs_size_mb", "filesystem", "repositories", "repositories_mode", "client"),
    "repository_keys",
)
_BASE = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_small"}
_NEARLY = st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=3).map(lambda some: {**_BASE, **some})
_BODIES = st.one_of(
    st.binary(max_size=60),
    st.one_of(_JSON, _NEARLY).map(lambda document: json.dumps(document).encode()),
    _NEARLY.map(lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.tuples(_NEARLY, st.integers(0, 80)).map(lambda pair: json.dumps(pair[0]).encode()[: pair[1]]),
)
_VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)
_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Content-Type", "Accept", "User-Agent", "X-Request-Id", "Range", "If-None-Match", "If-Range"),
            *("Origin", "Access-Control-Request-Method", "X-Forwarded-For", "Cookie", "Expect-Nothing"),
        ]
    ),
    st.one_of(_VISIBLE, st.sampled_from(["bytes=0-", "bytes=-1", "bytes=9-1,2-3", "*", "gzip", "auc/1"])),
    max_size=3,
)
_PIECES = st.sampled_from(
    [
        *("api", "v1", "build", "store", "health", "docs", "openapi.json", "stats", "0" * 64, "..", ".", ""),
        *("%2e%2e", "%00", "%ff", "%", "%2f", "?", "#", "a" * 300, ";", "*", "~"),
    ]
)
_PATHS = st.lists(st.one_of(_PIECES, _VISIBLE), max_size=6).map(lambda pieces: "/" + "/".join(pieces))
_METHODS = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "TRACE", "PROPFIND"])
_CALM = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def idle(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that takes everything and builds nothing."""
    chosen = local_settings(sample_world, upstream.url)
    chosen |= {"worker_concurrent": 0, "max_pending_jobs": 10**6}
    service = Service(tmp_path_factory.mktemp("idle"), chosen)
    try:
        yield service.start()
    finally:
        service.end()
    assert "Traceback" not in service.stderr() and "ERROR" not in service.stderr()


@pytest.fixture
def client(idle: Service) -> Iterator[Client]:
    """A connection to it."""
    with idle.client() as client:
        yield client


def require_sound(answer: Answer, method: str) -> None:
    """What holds for every answer there is."""
    assert answer.status < 500 or answer.status == 503, answer
    assert answer.headers.get("access-control-allow-origin") == "*"
    assert answer.headers.get("x-request-id")
    if method == "HEAD":
        assert answer.body == b""
    elif answer.status >= 400:
        problem: Any = answer.json
        assert problem.keys() - {"code", "side", "field"} == {"status", "title", "detail"}
        assert problem["status"] == answer.status
        assert problem["title"] and isinstance(problem["detail"], str) and problem["detail"]


@_CALM
@given(body=_BODIES, headers=_HEADERS)
def test_no_body_makes_the_service_stumble(client: Client, body: bytes, headers: dict[str, str]) -> None:
    answer = client.ask("POST", "/api/v1/build", body, headers)
    require_sound(answer, "POST")
    assert answer.status in (202, 400, 422)


@_CALM
@given(method=_METHODS, path=_PATHS, headers=_HEADERS, body=st.one_of(st.none(), st.binary(max_size=20)))
def test_no_address_makes_the_service_stumble(
    client: Client, method: str, path: str, headers: dict[str, str], body: bytes | None
) -> None:
    require_sound(client.ask(method, path, body, headers), method)
