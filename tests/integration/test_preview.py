"""The preview through the assembled service and the sample's download server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_client import Answer, AsgiClient
from asu_builder.app import assemble
from asu_builder.domain.access import digest_of
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from factories import UPSTREAM, eventually
from odd_server import odd_server

SECRET, READ_SECRET = "s3cret-of-the-farm", "s3cret-of-a-reader"
PREVIEW = "/api/v1/packages/preview"
RULES = """
format: 1
branches: {24.10: 27990, 25.12: 32295}
targets: [pico, x86, nano]
rules:
  - name: switch-driver
    for: builder
    why: "Without it there is no network"
    versions: [25.12]
    targets: [pico/nine]
    profiles: [acme_widget-5]
    add: [sample-service]
    mandatory: true
    examples:
      - version: 25.12.0
        target: pico/nine
        profile: acme_widget-5
        packages: [vim]
        becomes: [vim, sample-service]
      - {version: 24.10.5, target: pico/nine, profile: acme_widget-5, packages: [vim], unchanged: true}
"""


@pytest.fixture
def client(tmp_path: Path, sample_world: Distribution) -> Iterator[AsgiClient]:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    with DownloadServer(sample_world.downloads) as server:
        settings = Settings(
            database_path=tmp_path / "data" / "a.db",
            public_path=tmp_path / "public",
            upstream_url=server.url,
            container_runtime="local",
            imagebuilder_path=sample_world.template,
            allow_unsandboxed=True,
            worker_concurrent=0,
            package_changes_path=str(rules),
            api_tokens=(
                {"name": "farm", "digest": digest_of(SECRET)},
                {"name": "reader", "digest": digest_of(READ_SECRET), "rights": ["read"]},
            ),
            trusted_proxies=("127.0.0.0/8",),
        )
        with AsgiClient(assemble(settings).app) as running:
            yield running


def ask(client: AsgiClient, *packages: str, **changes: Any) -> Answer:
    body = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_widget-5", "packages": packages}
    answers: list[Answer] = []

    def is_there() -> bool:
        answers[:] = [client.post(PREVIEW, body | changes)]
        return answers[0].status != 503

    assert eventually(is_there)
    return answers[0]


def known(client: AsgiClient, *packages: str, **changes: Any) -> Any:
    """The preview once the indexes have come from upstream."""
    assert eventually(lambda: ask(client, *packages, **changes).json["indexes_known"])
    return ask(client, *packages, **changes).json


def test_it_says_what_would_be_built_and_why_and_queues_nothing(client: AsgiClient) -> None:
    preview = known(client, "vim")
    assert preview["selection"] == ["vim", "sample-service"]
    (applied,) = preview["applied"]
    assert (applied["rule"], applied["added"], applied["why"]) == (
        "switch-driver",
        ["sample-service"],
        "Without it there is no network",
    )
    assert preview["unknown"] == []
    assert client.get("/api/v1/stats").json == {"queue_length": 0}


def test_a_name_that_nobody_knows_comes_with_the_closest_ones(client: AsgiClient) -> None:
    (unknown,) = known(client, "kernel", "libc", "tmuxx", "-nosuch")["unknown"]
    assert unknown["name"] == "tmuxx"
    assert unknown["suggestions"][0] == "tmux"


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("24.10.5", ["libgcc1", "libgcc", "libubus20250102", "libubus", "nftables", "dnsmasq"]),
        ("25.12.0", ["libgcc1", "libgcc", "libubus20250102", "libubus", "dnsmasq"]),
    ],
)
def test_provided_names_and_those_with_an_abi_suffix_are_known(
    client: AsgiClient, version: str, names: list[str]
) -> None:
    unknown = known(client, *names, "libnosuch1", version=version)["unknown"]
    assert [entry["name"] for entry in unknown] == ["libnosuch1"]


@pytest.mark.skipif(not UPSTREAM.exists(), reason="no recorded upstream metadata here")
@pytest.mark.parametrize(
    ("version", "names", "lacks"),
    [
        ("24.10.5", ["iptables", "libgcc1", "libubus20241020", "libubus", "jansson4", "kmod-r8169"], ()),
        ("24.10.5", ["iptables", "libgcc1", "libubus20241020", "libubus", "jansson4"], ("index.json",)),
        ("24.10.5", ["libgcc1", "libubus20241020", "libubus", "libe2p2", "libe2p"], ("Packages",)),
        (
            "25.12.0",
            ["libgcc1", "libubus20241020", "libubus", "libnghttp2-14", "liblua5.3-5.3", "libe2p2"],
            (),
        ),
    ],
)
def test_what_an_index_of_real_size_tells_of_further_names_is_known(
    tmp_path: Path, version: str, names: list[str], lacks: tuple[str, ...]
) -> None:
    with odd_server(UPSTREAM) as server:
        server.odd |= dict.fromkeys((f"/{name}" for name in lacks), 404)
        settings = Settings(
            database_path=tmp_path / "data" / "a.db",
            public_path=tmp_path / "public",
            upstream_url=server.url,
            container_runtime="local",
            imagebuilder_path="/nowhere/{version}",
            allow_unsandboxed=True,
            worker_concurrent=0,
        )
        with AsgiClient(assemble(settings).app) as client:
            place = {"version": version, "target": "x86/64", "profile": "generic"}
            unknown = known(client, *names, "libnosuch1", "iptablex", **place)["unknown"]
    assert [entry["name"] for entry in unknown] == ["libnosuch1", "iptablex"]


def test_only_ten_names_get_suggestions(client: AsgiClient) -> None:
    unknown = known(client, *(f"tmux{number}" for number in range(15)))["unknown"]
    assert [bool(entry["suggestions"]) for entry in unknown] == [True] * 10 + [False] * 5


def test_a_device_alias_is_the_device(client: AsgiClient) -> None:
    assert known(client, "vim", profile="acme,widget-5")["selection"] == ["vim", "sample-service"]
    assert known(client, "vim", version="24.10.5")["applied"] == []


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"version": "24.10.99"}, 400, "Unsupported version: 24.10.99"),
        ({"profile": "nosuch"}, 400, "Unsupported profile: nosuch."),
        ({"packages": "vim"}, 422, "packages"),
        ({"packages": ["$(id)"]}, 422, 'packages[0]: "$(id)"'),
    ],
)
def test_what_could_not_be_built_is_refused_as_a_build_would_be(
    client: AsgiClient, changes: dict[str, Any], status: int, text: str
) -> None:
    answer = ask(client, **changes)
    assert answer.status == status
    assert answer.json["detail"].startswith(text)


def refusals(client: AsgiClient, **headers: str) -> list[Answer]:
    """What more than a burst is told."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answers = [client.post(PREVIEW, {"version": "x"}, given) for _ in range(25)]
    return [answer for answer in answers if answer.status == 429]


def test_an_address_may_not_ask_without_end(client: AsgiClient) -> None:
    refused = refusals(client)
    assert len(refused) == 5
    assert 1 <= int(refused[0].header("retry-after") or 0) <= 10
    assert refused[0].json["detail"].startswith("Previews are limited to 20 per 10 seconds")


def test_those_behind_a_proxy_have_their_own_allowance_and_a_token_lifts_it(client: AsgiClient) -> None:
    assert len(refusals(client, x_forwarded_for="8.8.8.8, 198.51.100.1")) == 5
    assert len(refusals(client, x_forwarded_for="9.9.9.9, 198.51.100.1")) == 25, "nobody moves by a header"
    assert len(refusals(client, x_forwarded_for="198.51.100.2")) == 5
    assert refusals(client, authorization=f"Bearer {SECRET}") == []


def test_an_unknown_token_is_told_so(client: AsgiClient) -> None:
    answer = client.post(PREVIEW, {"version": "x"}, {"authorization": "Bearer nobody's"})
    assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    assert "not known here" in answer.json["detail"]


def test_health_names_the_rules(client: AsgiClient) -> None:
    assert eventually(lambda: client.get("/health").json["parts"]["rules"]["status"] == "ok")
    details = client.get("/health", {"Authorization": f"Bearer {READ_SECRET}"}).json
    assert "1 package rules" in details["parts"]["rules"]["sentence"]
