"""The settings in effect, on a page and as a document: where each was chosen, and never a secret."""

import json
import re
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.settings import SETTING_NAMES, load_with_origins
from visitors import BUILDER, OPERATOR, READER, TOKENS
from web_scene import Scene

DIGESTS = ("0" * 64, "1" * 64)
CONFIGURED = [
    {"name": "ann", "digest": DIGESTS[0], "rights": ["operate"]},
    {"name": "farm", "digest": DIGESTS[1], "priority": "bulk"},
]
ADDRESS = "/api/v1/configuration"
BEARER = {"authorization": "Bearer may-read"}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Settings from a file and from variables, with secrets where people put them."""
    scene = Scene(tmp_path, tokens=TOKENS)
    file = tmp_path / "config.yaml"
    file.write_text(
        "job_timeout: 90s\nserver_port: 1\ndisk_floor: 1536MiB\n"
        "upstream_url: https://mirror.example.org/openwrt\n"
        "repository_allow_list: ['https://s3cret@a.example.org/x']\n"
        "imagebuilder_registry: me:s3cret@registry.example.org/openwrt\n"
        "branches: {'24.10': {path: '<b>{version}</b>'}}\n".replace("<b>{version}</b>", "x/{version}")
    )
    variables = {
        "ASU_SERVER_PORT": "8081",
        "ASU_API_TOKENS": json.dumps(CONFIGURED),
        "ASU_CONTACT": "<b>me</b>",
        "ASU_SIGNING_KEY": "exec:sign --pin s3cret",
        "ASU_SIGNING_PUBLIC_KEY": "signing.pub",
    }
    scene.loaded = load_with_origins(variables, (file,))
    return scene


@pytest.mark.parametrize(("headers", "status"), [({}, 401), (BUILDER, 403)])
def test_it_is_not_for_everybody(client: AsgiClient, headers: dict[str, str], status: int) -> None:
    answer = client.get("/configuration", headers)
    assert answer.status == status and b"server_port" not in answer.body
    assert (b'name="token"' in answer.body) == (status == 401 or b"sign-in" in answer.body)


def test_the_document_is_not_for_everybody_and_looks_at_no_cookie(client: AsgiClient) -> None:
    assert client.get(ADDRESS).status == 401
    assert client.get(ADDRESS, READER).status == 401
    assert client.get(ADDRESS, {"authorization": "Bearer may-build"}).status == 403


def test_each_setting_says_what_holds_and_where_it_was_chosen(client: AsgiClient, scene: Scene) -> None:
    settings = {entry["name"]: entry for entry in client.get(ADDRESS, BEARER).json["settings"]}
    assert set(settings) == set(SETTING_NAMES)
    file = str(scene.root / "config.yaml")
    expected = {
        "server_port": (8081, "variable ASU_SERVER_PORT", 8080),
        "job_timeout": ("90s", file, "10m"),
        "disk_floor": ("1536MiB", file, "512MiB"),
        "cors": (True, "default", True),
        "build_ttl": ("7d", "default", "7d"),
        "branches": ({"24.10": {"path": "x/{version}"}}, file, {}),
    }
    for name, (value, origin, default) in expected.items():
        found = settings[name]
        assert (found["value"], found["origin"], found["default"]) == (value, origin, default)
    assert settings["worker_id"]["default"] is None
    assert all(len(entry["meaning"]) > 10 for entry in settings.values())


def test_settings_that_somebody_chose_come_first(client: AsgiClient) -> None:
    origins = [entry["origin"] == "default" for entry in client.get(ADDRESS, BEARER).json["settings"]]
    assert origins == sorted(origins)


def test_secrets_are_in_neither(client: AsgiClient) -> None:
    for answer in (client.get("/configuration", OPERATOR), client.get(ADDRESS, BEARER)):
        assert answer.status == 200
        assert b"s3cret" not in answer.body
        assert all(digest.encode() not in answer.body for digest in DIGESTS)
        assert b"mirror.example.org/openwrt" in answer.body and b"registry.example.org" in answer.body


def test_of_tokens_names_rights_and_classes_are_told(client: AsgiClient) -> None:
    settings = {entry["name"]: entry for entry in client.get(ADDRESS, BEARER).json["settings"]}
    assert settings["api_tokens"]["value"] == [
        {"name": "ann", "rights": ["operate"]},
        {"name": "farm", "priority": "bulk"},
    ]
    assert b"ann (operate), farm (bulk)" in client.get("/configuration", READER).body


def test_the_page_shows_value_origin_default_and_meaning(client: AsgiClient) -> None:
    page = re.sub(r"\s+", " ", client.get("/configuration", READER).body.decode())
    assert "From variable ASU_SERVER_PORT; the default is <code>8080</code>" in page
    assert "After this time the build's container is killed." in page.replace("&#39;", "'")
    assert "&lt;b&gt;me&lt;/b&gt;" in page and "<b>me</b>" not in page
    assert 'content="noindex"' in page
    assert client.request("HEAD", "/configuration", headers=READER).status == 200


def test_a_password_in_an_address_is_hidden(tmp_path: Path, client: AsgiClient) -> None:
    settings = {entry["name"]: entry for entry in client.get(ADDRESS, BEARER).json["settings"]}
    assert settings["repository_allow_list"]["value"] == ["https://…@a.example.org/x"]
