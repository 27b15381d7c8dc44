"""A release that upstream announces as upcoming, before its list of versions names it."""

import json
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_sample.distribution import Distribution
from integration.test_documents import settings
from odd_server import odd_server

UPCOMING = "25.12.0-rc1"
CASE = {"stable_version": "24.10.5", "oldstable_version": "24.10.4", "versions_list": ["24.10.5", "24.10.4"]}


@pytest.mark.parametrize("said", [UPCOMING, "", None, 7, "25.12.0-rc9", "99.99.0-rc1"])
def test_an_upcoming_version_is_offered_and_accepted_like_a_listed_one(
    tmp_path: Path, sample_world: Distribution, said: object
) -> None:
    """Case 11: "offered and accepted like a listed version"; what is none, or is not there, does no harm."""
    with odd_server(sample_world.downloads) as server:
        server.odd["/.versions.json"] = json.dumps({**CASE, "upcoming_version": said}).encode()
        with AsgiClient(assemble(settings(tmp_path, server.url, sample_world)).app) as client:
            latest = client.get("/json/v1/latest.json").json["latest"]
            branches = client.get("/json/v1/overview.json").json["branches"]
            body = {"version": UPCOMING, "target": "pico/nine", "profile": "acme_widget-5"}
            answer = client.post("/api/v1/build", json.dumps(body).encode())
            listed = client.post("/api/v1/build", json.dumps({**body, "version": "24.10.5"}).encode())
    offered = said == UPCOMING
    assert ((UPCOMING in latest), (UPCOMING in branches["25.12"]["versions"])) == (offered, offered)
    assert answer.status == (202 if offered else 400), answer.body
    assert listed.status == 202
    assert {"24.10.5", "24.10.4"} <= set(latest)
