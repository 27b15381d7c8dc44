"""The rules service: what it answers, and the builder's limits at its door."""

import contextlib
import gzip
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_client import AsgiClient
from asu_builder.http.door import LOWEST_BODY
from asu_builder.http.openapi import declared
from asu_builder.http.rules_service import (
    RulesEndpoints,
    ServiceSettings,
    create_service,
    read_settings,
    rules_config,
)
from asu_builder.settings import Settings, SettingsProblem
from door_rig import door_settings
from package_changes.files import RulesFile, built_in_rules
from rules_text import HEAD, HEAD_LINES, a_rule

SECONDS = 60
ASKED = {"version": "25.12.0", "target": "x86/64", "profile": "generic", "packages": ["luci"]}
CHANGED = {
    "version": "25.12.0",
    "target": "mvebu/cortexa9",
    "profile": "linksys_wrt3200acm",
    "packages": ["luci", "luci-i18n-opkg-de"],
    "default_packages": ["base-files", "kmod-dsa-mv88e6xxx", "luci"],
    "diff_packages": True,
    "from_version": "24.10.4",
    "from_defaults": ["base-files", "luci"],
}


@pytest.fixture(scope="module")
def client() -> Iterator[AsgiClient]:
    """The service with the built-in rules."""
    with AsgiClient(create_service(RulesFile())) as found:
        yield found


def test_a_list_is_changed_and_explained(client: AsgiClient) -> None:
    answer = client.post("/apply", CHANGED)
    assert answer.status == 200
    rules = built_in_rules()
    assert answer.json == {
        "packages": ["-base-files", "luci", "luci-i18n-package-manager-de", "kmod-dsa-mv88e6xxx"],
        "applied": [
            {
                "rule": "mvebu-cortexa9-mv88e6xxx",
                "why": answer.json["applied"][0]["why"],
                "added": ["kmod-dsa-mv88e6xxx"],
                "removed": [],
                "renamed": {},
            },
            {
                "rule": "i18n-package-manager",
                "why": answer.json["applied"][1]["why"],
                "added": [],
                "removed": [],
                "renamed": {"luci-i18n-opkg-de": "luci-i18n-package-manager-de"},
            },
        ],
        "warnings": [],
        "missing_defaults": ["kmod-dsa-mv88e6xxx"],
        "released": ["luci-i18n-opkg-de"],
        "rules_digest": rules.digest,
        "matching_digest": rules.matching_digest("25.12.0", "mvebu/cortexa9", "linksys_wrt3200acm"),
    }


def test_a_device_may_be_named_as_it_names_itself(client: AsgiClient) -> None:
    answer = client.post("/apply", {**CHANGED, "profile": "linksys,wrt3200acm"})
    assert "kmod-dsa-mv88e6xxx" in answer.json["packages"]


@pytest.mark.parametrize(("field", "value"), [("version", "99.1.0"), ("version", "?"), ("target", "no/no")])
def test_what_the_rules_do_not_know_gets_a_warning(client: AsgiClient, field: str, value: str) -> None:
    answer = client.post("/apply", {**CHANGED, field: value, "packages": ["luci-i18n-base-en", "a"]})
    assert answer.status == 200
    assert "luci-i18n-base-en" not in answer.json["packages"]
    assert any(value in warning for warning in answer.json["warnings"])


@pytest.mark.parametrize("field", ["packages", "default_packages", "from_defaults"])
@pytest.mark.parametrize(
    "value",
    [
        "luci", {"luci": "1"}, 5, [5], [None], [["a"]], ["a"] * 3001, ["--a"], [""], ["-"], ["a b"], ["a\n"],
        ["a\nb"], ["ä"], ["a;b"], ["$(a)"], [".a"], ["+a"],
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_refused_by_its_name(client: AsgiClient, field: str, value: object) -> None:
    answer = client.post("/apply", {**CHANGED, field: value})
    assert answer.status == 422
    assert answer.json["status"] == 422
    assert answer.json["title"] == "Malformed request"
    assert answer.json["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 5), ("version", ""), ("target", None), ("profile", "x" * 129), ("packages", None),
        ("diff_packages", "maybe"), ("from_revision", "r5"), ("from_revision", 1.5), ("from_version", []),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_name(client: AsgiClient, field: str, value: object) -> None:
    answer = client.post("/apply", {**CHANGED, field: value})
    assert answer.status == 422
    assert answer.json["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["version", "target", "profile"])
def test_what_must_be_there_is_asked_for(client: AsgiClient, field: str) -> None:
    answer = client.post("/apply", {key: value for key, value in CHANGED.items() if key != field})
    assert (answer.status, answer.json["detail"]) == (
        422,
        f"{field}: expected a value, but the field is missing",
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, b'"\\ud800"'])
def test_a_body_that_is_no_request_is_refused(client: AsgiClient, body: bytes) -> None:
    answer = client.post("/apply", body)
    assert answer.status == 422
    assert answer.json["detail"].startswith("body: ")


def test_unknown_keys_are_ignored(client: AsgiClient) -> None:
    assert client.post("/apply", {**CHANGED, "client": "x", "diff": 5}).status == 200


@given(
    st.dictionaries(
        st.sampled_from([*CHANGED, "from_revision", "other"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=4),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_body_is_a_mistake_of_ours(client: AsgiClient, document: dict[str, object]) -> None:
    assert client.post("/apply", {**CHANGED, **document}).status in (200, 422)
    assert client.post("/apply", json.dumps(document, ensure_ascii=True).encode()).status in (200, 422)


def test_every_error_has_the_same_form(client: AsgiClient) -> None:
    for answer in (client.get("/nowhere"), client.get("/apply"), client.post("/rules", {})):
        assert set(answer.json) == {"status", "title", "detail"}
        assert answer.json["status"] == answer.status
        assert answer.status in (404, 405)


def test_the_rules_can_be_read(client: AsgiClient) -> None:
    document = client.get("/rules").json
    assert len(document["rules"]) == built_in_rules().count
    assert document["branches"]["24.10"] == 27990
    (auc,) = [rule for rule in document["rules"] if rule["name"] == "auc-gone"]
    assert (auc["for"], auc["versions"], auc["requested"]) == ("builder", ["24.10"], ["auc"])
    assert document["client_changes"][0] == {
        "source": "firewall",
        "target": "firewall4",
        "revision": 18611,
        "mandatory": False,
    }


def test_the_interface_describes_every_address(client: AsgiClient) -> None:
    document = client.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {found.path for found, _ in declared(RulesEndpoints)}
    described = json.dumps(document)
    for name in ("ApplyBody", "AppliedDocument", "HealthDocument", "RulesDocument", "Problem"):
        assert name in document["components"]["schemas"]
        assert f"#/components/schemas/{name}" in described


def test_health_says_which_rules_answer_and_turns_yellow(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(HEAD + a_rule("one", "add: [x]"))
    file = RulesFile(path)
    with AsgiClient(create_service(file)) as service:
        health = service.get("/health").json
        assert (health["status"], health["rules"], health["source"]) == ("ok", 1, str(path))
        assert health["loaded_at"] == file.loaded_at.isoformat(timespec="seconds")
        path.write_text(HEAD + a_rule("one", "ad: [x]"))
        file.look()
        file.look()
        health = service.get("/health").json
        assert (health["status"], health["rules"]) == ("degraded", 1)
        assert f"line {HEAD_LINES + 4}" in health["problem"]
        assert "x" in service.post("/apply", {**CHANGED, "packages": []}).json["packages"]


def test_settings_come_from_variables() -> None:
    assert read_settings({}) == ServiceSettings(None, "127.0.0.1", 8081)
    variables = {
        "PACKAGE_CHANGES_PATH": "/etc/rules.yaml",
        "PACKAGE_CHANGES_HOST": "::",
        "PACKAGE_CHANGES_PORT": "80",
    }
    assert read_settings(variables) == ServiceSettings(Path("/etc/rules.yaml"), "::", 80)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "8081.0", "1" * 50])
def test_a_wrong_port_is_named(port: str) -> None:
    with pytest.raises(SettingsProblem, match="PACKAGE_CHANGES_PORT"):
        read_settings({"PACKAGE_CHANGES_PORT": port})


@contextlib.contextmanager
def serving(limits: Settings | None = None) -> Iterator[int]:
    """A running service's port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(rules_config(ServiceSettings(), limits))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as found:
        yield found


def asked(port: int, sent: bytes) -> tuple[int, str]:
    """The status and the body of what is answered to these bytes; 0 when the connection just ends."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        with contextlib.suppress(OSError):  # refused before it took all of it
            connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return answer.status, answer.read().decode()
        except (http.client.HTTPException, ConnectionResetError):
            return 0, ""


def head(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *fields, "", "")).encode()


def test_it_answers_as_before(port: int) -> None:
    body = json.dumps(ASKED).encode()
    status, text = asked(port, head("/apply", f"Content-Length: {len(body)}", method="POST") + body)
    assert (status, json.loads(text)["packages"]) == (200, ["luci"])
    assert asked(port, head("/health"))[0] == 200
    assert asked(port, head("/nowhere"))[0] == 404


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("/health", "X: " + "a" * 70_000), 431),
        (b"GET /health HTTP/1.1\r\n" + b"X-Never: ends\r\n" * 30_000, 431),
        (head("/health?" + "a" * 17_000), 414),
        (head("/health?" + "a=&" * 1001), 400),
        (b"no HTTP at all\r\n\r\n", 400),
        (head("/apply", f"Content-Length: {2 << 20}", method="POST") + b"x" * (2 << 20), 413),
        (head("/apply", f"Content-Length: {2 << 20}", "Expect: 100-continue", method="POST"), 413),
        (head("/apply", "Transfer-Encoding: chunked", method="POST") + b"100001\r\n" + b" " * 0x100001, 413),
        (head("/health", f"Content-Length: {LOWEST_BODY + 1}", "Expect: 100-continue", method="POST"), 413),
    ],
)
def test_what_is_too_large_is_refused_in_the_one_form(port: int, sent: bytes, status: int) -> None:
    found, text = asked(port, sent)
    assert found == status
    assert json.loads(text).keys() == {"status", "title", "detail"}
    assert asked(port, head("/health"))[0] == 200, "others are answered"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health HTTP/1.1\r\nX: ", head("/apply", "Content-Length: 9", method="POST") + b"{"],
)
def test_who_does_not_go_on_is_let_go(sent: bytes) -> None:
    with serving(door_settings(seconds=0.3)) as port:
        assert asked(port, sent)[0] in (408, 0)


def test_one_address_has_a_number_of_connections() -> None:
    with serving(door_settings(max_connections_per_address=2)) as port, contextlib.ExitStack() as opened:
        for _ in range(2):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
            connection.sendall(head("/health"))
            first = connection.recv(12)
            assert first == b"HTTP/1.1 200"
        assert asked(port, head("/health"))[0] == 429


def test_a_websocket_is_not_opened(port: int) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    sent = head("/health", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert asked(port, sent)[0] == 403


def test_the_rules_are_sent_as_gzip_and_not_again_until_they_change(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(HEAD + "".join(a_rule(f"rule-{number}", "add: [x]") for number in range(30)))
    file = RulesFile(path)
    with AsgiClient(create_service(file)) as service:
        before = {}
        for address in ("/rules", "/rules.yaml", "/openapi.json"):
            plain = service.get(address)
            gzipped = service.get(address, {"Accept-Encoding": "gzip"})
            assert plain.header("content-encoding") is None
            assert gzipped.header("content-encoding") == "gzip"
            assert gzip.decompress(gzipped.body) == plain.body
            etag = gzipped.header("etag") or ""
            assert etag != plain.header("etag")
            known = {"Accept-Encoding": "gzip", "If-None-Match": etag}
            assert (service.get(address, known).status, service.get(address, known).body) == (304, b"")
            before[address] = plain
        # A comment alone: the same rules in other words.
        path.write_text(f"{path.read_text()}# the end\n")
        file.look()
        file.look()
        after = {address: service.get(address) for address in before}
    assert after["/rules.yaml"].body.endswith(b"# the end\n")
    changed = [
        address for address in before if after[address].header("etag") != before[address].header("etag")
    ]
    assert changed == ["/rules.yaml"]
