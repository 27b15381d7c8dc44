"""A service that reaches the world through a proxy only, which is a process of its own."""

from pathlib import Path
from threading import Event

import pytest

from asu_builder.app.runtimes import choose_runtime
from asu_builder.client.server import Server
from asu_builder.doctor.scene import Unanswered, ask
from asu_builder.domain.errors import Unavailable, UpstreamUnavailable
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.podman.service import Engine
from asu_builder.package_rules import LocalPackageChanges, RemotePackageChanges
from asu_builder.settings import Settings, SettingsProblem
from asu_builder.upstream.server import UpstreamServer
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.service import Service
from factories import eventually
from fake_engine import FakeEngine
from forward_proxy import forward_proxy
from runtime_rig import a_spec
from tools import require_tool, tool_missing

UPSTREAM = "http://downloads.example.invalid"


def variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """The environment's proxies, and no others."""
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
def test_every_request_for_upstream_goes_through_the_proxy(
    tmp_path: Path, sample_world: Distribution, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Case 15: "every outgoing request goes through it"."""
    log = tmp_path / "proxy.log"
    with DownloadServer(sample_world.downloads) as server:
        place = server.url.removeprefix("http://")
        with forward_proxy(log, downloads_example_invalid=place) as port:
            variables(monkeypatch, **{variable: f"http://user:s%40cret@127.0.0.1:{port}"})
            settings = {
                "upstream_url": UPSTREAM,
                "container_runtime": "local",
                "imagebuilder_path": sample_world.template,
                "allow_unsandboxed": True,
            }
            service = Service(tmp_path / "service", settings)
            try:
                service.start()
                with service.client() as client:
                    assert eventually(lambda: b"25.12.0" in client.get("/json/v1/overview.json").body)
                    body = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_widget-5"}
                    assert client.post_patiently(body).status == 202
            finally:
                service.end()
            assert "s@cret" not in service.stderr()
            assert "s%40cret" not in service.stderr()
    lines = log.read_text().splitlines()
    asked = {line.split()[1] for line in lines}
    assert f"{UPSTREAM}/.versions.json" in asked
    assert f"{UPSTREAM}/releases/25.12.0/targets/pico/nine/profiles.json" in asked
    assert {line.split()[3] for line in lines} == {"dXNlcjpzQGNyZXQ="}
    assert sum(server.requests.values()) == len(lines)


def test_the_doctor_and_the_rules_service_are_asked_through_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "proxy.log"
    with forward_proxy(log) as port:
        variables(
            monkeypatch,
            https_proxy=f"127.0.0.1:{port}",
            http_proxy=f"127.0.0.1:{port}",
            NO_PROXY="near.example.invalid",
        )
        for url in ("https://ghcr.example.invalid/v2/", "http://near.example.invalid/"):
            with pytest.raises(Unanswered):
                ask("GET", url)
        assert ask("GET", f"{UPSTREAM}/").status == 502
        rules = RemotePackageChanges("http://rules.example.invalid:81", LocalPackageChanges())
        rules.refresh()
        rules.close()
    asked = log.read_text()
    assert "CONNECT ghcr.example.invalid:443" in asked
    assert "GET http://rules.example.invalid:81/rules.yaml" in asked
    assert f"GET {UPSTREAM}/" in asked
    assert "near" not in asked


def test_this_machine_and_the_engines_socket_are_reached_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_world: Distribution
) -> None:
    # Nothing listens there: whatever goes through it fails.
    variables(monkeypatch, http_proxy="http://127.0.0.1:9", all_proxy="http://127.0.0.1:9")
    with DownloadServer(sample_world.downloads) as server:
        assert ask("GET", f"{server.url}/.versions.json").status == 200
    with FakeEngine(tmp_path / "s") as engine, Engine(str(engine.socket)).client() as client:
        assert client.api.get("/_ping").ok


@pytest.mark.parametrize("network", ["none", "asu-build"])
def test_builds_with_a_network_get_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_world: Distribution, network: str
) -> None:
    variables(monkeypatch, HTTP_PROXY="http://proxy.example:3128", no_proxy="a.example")
    require_tool("bwrap")
    settings = Settings(
        container_runtime="local",
        imagebuilder_path=sample_world.template,
        build_network=network,
        database_path=tmp_path / "a.db",
    )
    try:
        chosen = choose_runtime(settings, installation="ours")
    except SettingsProblem as problem:
        tool_missing("bwrap", f"it may not create its sandbox here: {problem}")
    runtime = chosen.make()
    assert isinstance(runtime, LocalRuntime)
    with runtime.open(a_spec(), stop=Event()) as container:
        path = container.run(["env"], output=tmp_path).stdout
    printed = path.read_text()
    assert ("http_proxy=http://proxy.example:3128\n" in printed) is (network != "none")
    assert ("HTTP_PROXY=http://proxy.example:3128\n" in printed) is (network != "none")
    assert ("no_proxy=a.example\n" in printed) is (network != "none")


def test_a_proxy_without_an_address_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables(monkeypatch, http_proxy="socks5://user:secret@proxy.example")
    with pytest.raises(Unanswered, match="http_proxy") as caught:
        ask("GET", f"{UPSTREAM}/")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["podman", "local"])
@pytest.mark.parametrize("value", ["http://user:secret@[x", "http://user:secret@proxy.example:0"])
def test_a_start_with_a_proxy_that_is_no_address_ends_with_a_sentence(
    tmp_path: Path, sample_world: Distribution, monkeypatch: pytest.MonkeyPatch, runtime: str, value: str
) -> None:
    variables(monkeypatch, HTTP_PROXY=value)
    settings = Settings(
        container_runtime=runtime,  # type: ignore[arg-type]
        imagebuilder_path=sample_world.template,
        allow_unsandboxed=True,
        database_path=tmp_path / "a.db",
    )
    with pytest.raises(
        SettingsProblem, match=r"^http_proxy \(environment\): expected an address like"
    ) as said:
        choose_runtime(settings, installation="ours")
    assert "secret" not in str(said.value)


@pytest.mark.parametrize("value", ["http://user:secret@[x", "http://", "socks5://user:secret@proxy.example"])
def test_whoever_asks_through_such_a_proxy_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    variables(monkeypatch, http_proxy=value)
    with pytest.raises(Unanswered, match="http_proxy"):
        ask("GET", f"{UPSTREAM}/")
    with pytest.raises(Unavailable, match="http_proxy") as told:
        Server(UPSTREAM)
    with pytest.raises(UpstreamUnavailable, match="http_proxy") as upstream:
        UpstreamServer(UPSTREAM).get(".versions.json", etag="")
    rules = RemotePackageChanges("http://rules.example.invalid:81", LocalPackageChanges())
    rules.refresh()
    rules.close()
    assert "secret" not in f"{told.value} {upstream.value}"
