"""The OpenAPI description against the running service: generated requests, and directed ones."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from asu_builder.http.routes import OPERATIONS
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.clients.scene import a_body
from e2e.conftest import local_settings
from e2e.service import Client, Service
from e2e.warm import warmed
from podman_service import APK_VERSION

pytestmark = pytest.mark.long

_EXAMPLES = {
    "GET": settings().max_examples // 10,
    "POST": settings().max_examples // 2,
    "DELETE": settings().max_examples // 10,
}
_CHECKS = [
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
_PLACES = {"version": APK_VERSION, "target": "pico", "subtarget": "nine", "profile": "acme_small"}


def _only_recorded_failures(_: Any, response: Any, case: Any) -> None:
    """A 500 is how a failed build is told; everywhere else it is a bug, and so is any other 5xx but 503."""
    if response.status_code == 500:
        assert response.headers["x-imagebuilder-status"] == ["failed"], response.text
    elif response.status_code >= 500:
        assert response.status_code == 503, response.text
        assert case.operation.path == "/health" or "retry-after" in response.headers


def _is_as_described(case: Any) -> Any:
    return case.call_and_validate(checks=[*_CHECKS, _only_recorded_failures])


def _within_the_sample(case: Any) -> Any:
    """Half of the valid build requests are for a device that exists, so that they get further."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("profile"), str) and len(body["profile"]) % 2:
        body |= a_body()
    return case


@pytest.fixture(scope="module")
def server(local_service: Service) -> str:
    """The shared service's address."""
    return warmed(local_service)


def _read(server: str) -> Any:
    return schemathesis.openapi.from_url(f"{server}/openapi.json", config=SchemathesisConfig(seed=1))


@pytest.fixture(scope="module")
def described(server: str) -> Any:
    """Its description, as schemathesis reads it."""
    return _read(server)


@pytest.fixture(scope="module")
def patient(
    sample_world: Distribution, upstream: DownloadServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The same of a service that builds nothing of what is made up, and whose queue is soon full."""
    settings = local_settings(sample_world, upstream.url) | {"worker_concurrent": 0, "max_pending_jobs": 20}
    service = Service(tmp_path_factory.mktemp("patient"), settings).start()
    yield _read(warmed(service))
    service.end()
    assert "Traceback" not in service.stderr()


@pytest.fixture(scope="module")
def client(local_service: Service, server: str) -> Iterator[Client]:
    """A connection beside schemathesis."""
    with local_service.client() as client:
        yield client


@pytest.mark.hypothesis
@pytest.mark.parametrize(
    ("path", "method"),
    [(entry.address, method) for entry in OPERATIONS for method in entry.methods if method != "HEAD"],
)
def test_every_answer_to_a_generated_request_is_one_that_is_described(
    patient: Any, path: str, method: str
) -> None:
    operation = patient[path][method]
    for mode in GenerationMode:

        @settings(
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=_EXAMPLES[method],
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def asks(case: Any) -> None:
            _is_as_described(_within_the_sample(case))

        try:
            asks()
        except Unsatisfiable:
            # Not every operation has something that could be wrong.
            assert mode is GenerationMode.NEGATIVE


def test_every_answer_about_a_build_is_as_described(described: Any, client: Client) -> None:
    post = described["/api/v1/build"]["POST"]
    statuses = []
    for body in (a_body(packages=["sample-slow-1", "nano"]), a_body(packages=["no-such-package"])):
        first = _is_as_described(post.Case(body=body, media_type="application/json"))
        place = {"request_hash": first.json()["request_hash"]}
        statuses.append(first.status_code)
        statuses += [_poll(described, place).status_code]
        client.wait(place["request_hash"])
        again = _is_as_described(post.Case(body=body, media_type="application/json"))
        statuses += [_poll(described, place).status_code, again.status_code]
    assert set(statuses) >= {200, 202, 500}


def _poll(described: Any, place: dict[str, str]) -> Any:
    entry = described["/api/v1/build/{request_hash}"]
    head = _is_as_described(entry["HEAD"].Case(path_parameters=place))
    response = _is_as_described(entry["GET"].Case(path_parameters=place))
    assert head.status_code == response.status_code or response.status_code in (200, 500)
    return response


def test_every_document_about_what_can_be_built_is_as_described(described: Any) -> None:
    for path in ("/json/v1/overview.json", "/json/v1/branches.json", "/json/v1/latest.json"):
        assert _is_as_described(described[path]["GET"].Case()).status_code == 200
    revision = described["/api/v1/revision/{version}/{target}/{subtarget}"]["GET"]
    assert _is_as_described(revision.Case(path_parameters=_PLACES)).status_code == 200


def test_a_part_of_an_image_is_sent_as_described(described: Any, client: Client) -> None:
    done = client.build(a_body()).json
    place = {"request_hash": done["request_hash"], "name": done["images"][0]["name"]}
    entry = described["/store/{request_hash}/{name}"]["GET"]
    whole = _is_as_described(entry.Case(path_parameters=place))
    for headers, status in (
        ({}, 200),
        ({"Range": "bytes=0-9"}, 206),
        ({"Range": "bytes=99999999-"}, 416),
        ({"If-None-Match": whole.headers["etag"][0]}, 304),
    ):
        case = entry.Case(path_parameters=place, headers=headers)
        assert _is_as_described(case).status_code == status
