"""A part that is down: everybody reads one plain sentence, holders of a token with *read* the details."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest

from e2e.conftest import Make
from e2e.service import READ_SECRET, READ_TOKENS, Answer, Client, Service
from factories import eventually

HOST = "downloads.example.invalid"
BEARER = {"Authorization": f"Bearer {READ_SECRET}"}
OPERATORS = (HOST, "/run-of-podman/", "Pool", "Error", "urllib3", "Caused", "Traceback", "systemctl", "errno")
"""Words that nobody else reads: hosts, paths, exceptions, modules, remedies."""
BODY = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_widget-5"}


@pytest.fixture
def service(make_local: Make, tmp_path: Path) -> Iterator[Service]:
    """One without upstream and without a container engine."""
    made = make_local(
        upstream_url=f"http://{HOST}",
        container_runtime="podman",
        container_socket_path=tmp_path / "run-of-podman" / "s",
        api_tokens=READ_TOKENS,
    ).start()
    with made.client() as client:
        client.post_once(BODY)
        assert eventually(lambda: _is_down(client, "engine") and not _is_down(client, "upstream", "ok"))
    yield made


def _is_down(client: Client, part: str, status: str = "down") -> bool:
    return bool(client.health()["parts"][part]["status"] == status)


def session(client: Client) -> Mapping[str, str]:
    """What a browser sends after its user has signed in."""
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    signed = client.ask("POST", "/session", urlencode({"token": READ_SECRET}).encode(), form)
    assert signed.status == 303, signed.body
    return {"Cookie": signed.headers["set-cookie"].partition(";")[0]}


def text(answer: Answer) -> str:
    return answer.body.decode()


def test_pages_and_documents_tell_each_reader_his_own(service: Service) -> None:
    """Case 19: one plain sentence without host, exception or module names; details in the log and for a token
    with *read*."""
    posted = json.dumps(BODY).encode()
    documents = [
        ("POST", "/api/v1/build", HOST),
        ("GET", "/api/v1/revision/25.12.0/pico/nine", HOST),
        ("GET", "/json/v1/latest.json", HOST),
        ("GET", "/api/v1/devices?version=25.12.0", HOST),
        ("GET", "/health", "run-of-podman"),
    ]
    pages = [("/", "run-of-podman"), ("/queue", "run-of-podman"), ("/queue?fragment=1", "run-of-podman")]
    pages += [(f"/build?{urlencode(BODY)}", HOST)]
    with service.client() as client:
        for method, address, details in documents:
            body = posted if method == "POST" else None
            content = {"Content-Type": "application/json"} if body else {}
            told = text(client.ask(method, address, body, content))
            assert not [word for word in OPERATORS if word in told], (address, told)
            assert details in text(client.ask(method, address, body, {**content, **BEARER})), address
        signed_in = session(client)
        for address, details in pages:
            told = text(client.ask("GET", address))
            assert "does not work now" in told or "does not answer now" in told, (address, told)
            assert not [word for word in OPERATORS if word in told], (address, told)
            for headers in (BEARER, signed_in):
                assert details in text(client.ask("GET", address, headers=headers)), (address, headers)
    assert f"http://{HOST} does not answer" in service.stderr()
