"""The description says what the routes do, no more and no less."""

from typing import Any

from asgi_client import AsgiClient
from asu_builder.domain.request import BuildRequest
from asu_builder.web.fast_path import FrontDoor
from asu_builder.web.incoming import BuildRequestBody
from asu_builder.web.operations import OPERATIONS
from factories import a_request
from fake_builds import FakeBuilds, a_body


def _description(client: AsgiClient) -> Any:
    return client.get("/openapi.json").json


def _references(document: object) -> set[str]:
    if isinstance(document, dict):
        own = {document["$ref"]} if "$ref" in document else set()
        return own.union(*(_references(value) for value in document.values()))
    if isinstance(document, list):
        return set().union(*(_references(value) for value in document))
    return set()


def test_every_route_is_described_and_everything_described_is_a_route(
    client: AsgiClient, app: FrontDoor
) -> None:
    described = {(path, method) for path, entry in _description(client)["paths"].items() for method in entry}
    assert described == {(entry.path, method.lower()) for entry in OPERATIONS for method in entry.methods}
    for path, method in described:
        concrete = path.replace("{request_hash}", "0" * 64).replace("{name}", "x.bin")
        answer = client.request(method.upper(), concrete)
        assert answer.status != 405
        assert answer.status != 404 or "{" in path


def test_every_reference_leads_somewhere(client: AsgiClient) -> None:
    document = _description(client)
    schemas = document["components"]["schemas"]
    references = _references(document)
    assert references
    assert {name.removeprefix("#/components/schemas/") for name in references} <= set(schemas)


def test_every_field_of_a_request_can_be_sent_and_is_explained() -> None:
    sent = set(BuildRequestBody.__struct_fields__)
    assert set(BuildRequest.__dataclass_fields__) | {"distro", "client"} == sent


def test_the_documents_have_the_keys_that_the_description_requires(
    client: AsgiClient, builds: FakeBuilds
) -> None:
    schemas = _description(client)["components"]["schemas"]
    answers = {
        "Done": client.get(f"/api/v1/build/{builds.complete(a_request(packages=('a',)))}"),
        "Accepted": client.get(f"/api/v1/build/{builds.build(a_request(packages=('b',)))}"),
        "Failed": client.get(f"/api/v1/build/{builds.fail()}"),
        "Problem": client.post("/api/v1/build", a_body(version=1)),
        "QueueLength": client.get("/api/v1/stats"),
        "HealthDocument": client.get("/health"),
    }
    for name, answer in answers.items():
        assert set(schemas[name]["required"]) <= set(answer.json), name


def test_every_status_of_a_build_is_described(client: AsgiClient) -> None:
    paths = _description(client)["paths"]
    posted = set(paths["/api/v1/build"]["post"]["responses"])
    polled = set(paths["/api/v1/build/{request_hash}"]["get"]["responses"])
    assert posted >= {"200", "202", "400", "413", "422", "429", "500", "503"}
    assert polled >= {"200", "202", "404", "500"}


def test_the_page_for_people_lists_every_address(client: AsgiClient) -> None:
    page = client.get("/docs").body.decode()
    for operation in OPERATIONS:
        assert f"<code>{operation.path}</code>" in page
