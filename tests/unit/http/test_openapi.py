"""The description says what the routes do, no more and no less."""

import html
import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from asgi_client import AsgiClient
from asu_builder.domain.errors import RequestMalformed
from asu_builder.domain.request import BuildRequest
from asu_builder.http.api.body import BuildRequestBody, parse_request
from asu_builder.http.fast_path import FastPath
from asu_builder.http.routes import OPERATIONS
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


_PLACES = {
    "request_hash": "0" * 64,
    "other": "1" * 64,
    "name": "x.bin",
    "path": "releases/24.10.4",
    "architecture": "mips_24kc",
    "target": "ath79",
    "subtarget": "generic",
    "profile": "some",
    "chart": "versions",
    "version": "24.10.4",
}


def test_every_route_is_described_and_everything_described_is_a_route(
    client: AsgiClient, app: FastPath
) -> None:
    described = {
        (path, method)
        for path, entry in _description(client)["paths"].items()
        for method in entry
        if method != "parameters"
    }
    routes = {(entry.address, method.lower()) for entry in OPERATIONS for method in entry.methods}
    assert described == routes | {(path, "options") for path, _ in routes}
    for path, method in described:
        concrete = path.format_map(_PLACES)
        answer = client.request(method.upper(), concrete)
        assert answer.status != 405
        assert answer.status != 404 or "{" in path


def test_every_placeholder_and_every_parameter_is_explained(client: AsgiClient) -> None:
    for path, entry in _description(client)["paths"].items():
        named = {parameter["name"] for parameter in entry.get("parameters", ())}
        assert named == set(re.findall(r"{(\w+)}", path))
        operations = [entry[method] for method in ("get", "post", "head", "delete") if method in entry]
        assert operations
        for parameters in (entry.get("parameters", []), *(one.get("parameters", []) for one in operations)):
            assert all(found["description"] and found["schema"]["examples"] for found in parameters)


def test_every_field_of_every_document_has_a_description_and_an_example(client: AsgiClient) -> None:
    schemas = _description(client)["components"]["schemas"]
    for name, schema in schemas.items():
        assert schema["description"] and "facts on" not in schema["description"], name
        for field, kind in schema.get("properties", {}).items():
            assert kind.get("description"), f"{name}.{field}"
            assert kind.get("examples") or _references(kind), f"{name}.{field}"


def test_every_example_of_a_request_is_accepted() -> None:
    properties = msgspec.json.schema(BuildRequestBody)["$defs"]["BuildRequestBody"]["properties"]
    plain = a_body()
    for field, kind in properties.items():
        for example in kind["examples"]:
            parse_request(msgspec.json.encode(plain | {field: example}))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("version", ["24.10.4", "", "a b", "-x", "x" * 64, "x" * 65]),
        ("target", ["ath79/generic", "ath79", "/", "a/b/c", "x" * 32 + "/y", "x" * 33 + "/y"]),
        ("profile", ["a,b", "_a", "a b", "x" * 128, "x" * 129]),
        ("version_code", ["", "r1-a", "r1 a", "x" * 65]),
        ("packages", [[], ["vim"], ["+vim", "-ppp", ""], ["vim nano"], ["--x"], ["a"] * 3001]),
        ("diff_packages", [True, False, None, "", "true", 1, 2, "yes"]),
        ("rootfs_size_mb", [1, "256", 256.0, None, "", "many", 0, -5, 1.5, " 7 ", "0", " "]),
        ("filesystem", ["ext4", "", None, "zfs"]),
        ("repositories_mode", ["append", "", None, "prepend"]),
        ("repository_keys", [[], ["key"] * 64, ["key"] * 65]),
        ("packages_versions", [{}, None, {"vim": "1"}, ["vim"]]),
    ],
)
def test_the_schema_of_a_request_says_what_is_enforced(field: str, values: list[object]) -> None:
    schema = msgspec.json.schema(BuildRequestBody)["$defs"]["BuildRequestBody"]["properties"][field]
    validator = jsonschema_rs.Draft202012Validator(schema)
    for value in values:
        try:
            parse_request(msgspec.json.encode(a_body(**{field: value})))
            accepted = True
        except RequestMalformed:
            accepted = False
        assert validator.is_valid(value) is accepted, value


def test_every_reference_leads_somewhere(client: AsgiClient) -> None:
    document = _description(client)
    schemas = document["components"]["schemas"]
    references = _references(document)
    assert references
    assert {name.removeprefix("#/components/schemas/") for name in references} <= set(schemas)


def test_every_field_of_a_request_can_be_sent_and_is_explained() -> None:
    sent = set(BuildRequestBody.__struct_fields__)
    # What was left out is found by the server.
    assert set(BuildRequest.__struct_fields__) - {"dropped"} | {"distro", "client"} == sent


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
        assert f"<code>{operation.address}</code>" in page


def test_the_page_for_people_explains_every_field(client: AsgiClient) -> None:
    page = client.get("/docs").body.decode()
    for name, schema in _description(client)["components"]["schemas"].items():
        assert f'id="{name}"' in page
        for field, kind in schema.get("properties", {}).items():
            assert f"<code>{field}</code>" in page
            assert html.escape(kind["description"]) in page


def test_every_operation_has_a_subject_a_line_to_try_and_examples_that_are_valid(client: AsgiClient) -> None:
    document = _description(client)
    subjects = [tag["name"] for tag in document["tags"]]
    tried = 0
    for path, entry in document["paths"].items():
        for method in ("get", "head", "post", "delete"):
            if method not in entry:
                continue
            described = entry[method]
            assert set(described["tags"]) <= set(subjects)
            line = described["x-codeSamples"][0]["source"]
            assert line.startswith("curl ") and "{" not in line.partition("--json")[0], line
            contents = [answer.get("content", {}) for answer in described["responses"].values()]
            contents.append(described.get("requestBody", {}).get("content", {}))
            for content in contents:
                for kind in content.values():
                    if "example" in kind:
                        schema = {**kind["schema"], "components": document["components"]}
                        jsonschema_rs.validate(schema, kind["example"])
                        tried += 1
            if "requestBody" in described:
                assert "--json" in line, path
    assert tried > 60


def test_the_page_has_contents_by_subject_whose_links_lead_somewhere(
    client: AsgiClient,
) -> None:
    page = client.get("/docs").body.decode()
    anchors = set(re.findall(r' id="([^"]+)"', page))
    links = re.findall(r'href="#([^"]+)"', page)
    assert len(links) > 60
    assert set(links) - {"content"} <= anchors
    assert page.index("Watching a build") < page.index('<h2 id="builds">')
    assert "curl " in page and "What 200 looks like" in page
