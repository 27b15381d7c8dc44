"""Builds that have a proxy and no network: what they fetch, and that images are as with a network."""

import os
import signal
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from asu_builder.domain.errors import EngineUnavailable, Unavailable
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_sample.distribution import Distribution, snapshot_builder
from asu_sample.server import DownloadServer
from build_proxy_rig import ProxyBench, SecureServer, write_certificate
from e2e.images import unsquash
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION
from runtime_rig import a_spec
from tools import require_tool, tool_missing

pytestmark = pytest.mark.long

FLAVOURS = (APK_VERSION, OPKG_VERSION)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tool("openssl")
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(sample_world: Distribution, certificate: Path) -> Iterator[DownloadServer]:
    with SecureServer(sample_world.downloads, certificate) as running:
        yield running


@pytest.fixture(params=["podman", "bubblewrap"])
def bench(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sample_world: Distribution,
    server: DownloadServer,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ProxyBench]:
    """A pipeline behind a proxy that trusts the server."""
    socket = Path()
    if request.param == "podman":
        socket = request.getfixturevalue("podman_socket")
    else:
        require_tool("bwrap")
        if not bubblewrap_works():
            tool_missing("bwrap", "it may not create its sandbox here")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    made = ProxyBench(
        request.param, tmp_path, server.url, podman_socket=socket, template=sample_world.template
    )
    yield made
    made.close()


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_build_without_a_network_loads_its_packages_through_the_proxy(
    bench: ProxyBench, server: DownloadServer, version: str
) -> None:
    before = sum(server.requests.values())
    result = bench.build(version, packages=("tmux",))
    assert "tmux" in result.manifest
    assert result.traffic is not None
    fetched = result.traffic.requests - result.traffic.cached
    assert fetched == sum(server.requests.values()) - before > 10
    assert result.traffic.refused == 0
    assert bench.proxy is not None
    assert bench.proxy.totals.traffic == result.traffic
    # Nothing of the way is in what is published or shown: not the bridge, not the socket, no address as it
    # was rewritten.
    port = server.url.rpartition(":")[2]
    hidden = [f"http://localhost:{port}".encode(), b"127.0.0.1:3128", b"asu-proxy", bench.sockets_path]
    shown = {"output": b"".join(bench.output), "stderr": result.stderr.encode()}
    for name, content in (shown | unpacked(bench.files(version, packages=("tmux",)), bench.root)).items():
        assert [word for word in hidden if word in content] == [], name
    if version == OPKG_VERSION:
        assert f"Downloading {server.url}/releases/".encode() in shown["output"]


def unpacked(files: Mapping[str, bytes], folder: Path) -> dict[str, bytes]:
    """These files, and what is in the root file systems among them."""
    found = dict(files)
    for name, content in files.items():
        if b"hsqs" in content:
            tree = unsquash(content, folder / f"tree-{name}").root
            found |= {
                f"{name}: {path.relative_to(tree)}": path.read_bytes()
                for path in tree.rglob("*")
                if path.is_file() and not path.is_symlink()
            }
    assert len(found) > len(files)
    return found


def test_a_request_s_own_repository_is_let_through_and_its_neighbour_is_not(
    bench: ProxyBench, server: DownloadServer
) -> None:
    own = f"{server.url}/releases/24.10.5/packages/pico_9kc/luci"
    result = bench.build(OPKG_VERSION, repositories={"own": own}, repositories_mode="append")
    assert f"Downloading {own}/Packages.gz" in result.stderr
    assert result.traffic is not None and result.traffic.refused == 0


def test_a_proxy_that_is_killed_in_mid_build_is_the_infrastructures_fault(
    bench: ProxyBench, server: DownloadServer
) -> None:
    server.delay = timedelta(seconds=0.2)
    proxy = bench.proxy
    assert proxy is not None

    def kill() -> None:
        assert eventually(lambda: sum(server.requests.values()) > before)
        assert proxy.pid
        os.kill(proxy.pid, signal.SIGKILL)

    before = sum(server.requests.values())
    killer = Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(Unavailable, match="proxy of builds ended"):
            bench.build(APK_VERSION, packages=("tmux",))
    finally:
        server.delay = timedelta(0)
        killer.join()
    assert "tmux" in bench.build(APK_VERSION, packages=("tmux",)).manifest
    assert proxy.totals.starts == 2


def test_where_the_socket_cannot_be_used_only_builds_that_need_it_wait(
    bench: ProxyBench, server: DownloadServer
) -> None:
    assert bench.proxy is not None
    bench.proxy.directory.write_text("")
    with bench.runtime.open(a_spec(), stop=Event()) as container:
        container.allow([])
        assert container.run(["true"], output=bench.root).exit_code == 0
    with pytest.raises(EngineUnavailable, match=r"Builds have no way out: .*build_network: bridge"):
        bench.build(APK_VERSION)


def test_an_engine_that_finds_the_socket_elsewhere_says_what_helps(bench: ProxyBench) -> None:
    if isinstance(bench.runtime, LocalRuntime):
        pytest.skip("the sandbox sees the files of the service itself")
    assert bench.proxy is not None
    bench.proxy.open().close()
    bench.proxy.directory = bench.root / "as-the-engine-does-not-see-it"
    with pytest.raises(EngineUnavailable, match=r"the engine cannot mount its socket\. .*proxy_directory"):
        bench.build(APK_VERSION)


def test_a_snapshot_loads_itself_from_a_server_that_speaks_https_only(
    tmp_path: Path, server: DownloadServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("bwrap")
    if not bubblewrap_works():
        tool_missing("bwrap", "it may not create its sandbox here")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    snapshot_builder(tmp_path / "start" / "SNAPSHOT" / "pico" / "nine")
    template = f"{tmp_path}/start/{{version}}/{{target}}/{{subtarget}}"
    bench = ProxyBench("bubblewrap", tmp_path, server.url, podman_socket=Path(), template=template)
    try:
        result = bench.build("SNAPSHOT", packages=("vim",))
    finally:
        bench.close()
    assert "vim" in result.manifest
    assert result.traffic is not None
    assert result.traffic.requests >= 3
    assert result.traffic.refused == 0
    assert b"127.0.0.1:3128" not in b"".join(bench.output)


@pytest.mark.parametrize("version", FLAVOURS)
def test_images_are_the_same_with_a_network_and_with_the_proxy(
    tmp_path: Path, sample_world: Distribution, version: str
) -> None:
    require_tool("bwrap")
    if not bubblewrap_works():
        tool_missing("bwrap", "it may not create its sandbox here")
    sums = []
    with DownloadServer(sample_world.downloads) as plain:
        for network in ("bridge", "proxy"):
            (root := tmp_path / network).mkdir()
            bench = ProxyBench(
                "bubblewrap",
                root,
                plain.url,
                podman_socket=Path(),
                template=sample_world.template,
                build_network=network,
            )
            try:
                result = bench.build(version, packages=("tmux",))
            finally:
                bench.close()
            assert (result.traffic is not None) is (network == "proxy")
            sums.append(({image.name: image.sha256_unsigned for image in result.images}, result.manifest))
    assert sums[0] == sums[1]
