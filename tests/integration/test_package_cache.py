"""Builds behind their proxy fetch each package once, and complete without the server they came from."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from asu_builder.domain.errors import BuildFailed, Side
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from build_proxy_rig import ProxyBench
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION
from tools import require_tool, tool_missing

pytestmark = pytest.mark.long


@pytest.fixture
def server(sample_world: Distribution) -> Iterator[DownloadServer]:
    with DownloadServer(sample_world.downloads) as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, sample_world: Distribution, server: DownloadServer) -> Iterator[ProxyBench]:
    require_tool("bwrap")
    if not bubblewrap_works():
        tool_missing("bwrap", "it may not create its sandbox here")
    made = ProxyBench(
        "bubblewrap", tmp_path, server.url, podman_socket=Path(), template=sample_world.template
    )
    yield made
    made.close()


def kept(bench: ProxyBench) -> list[Path]:
    """The packages, once none is on its way."""
    folder = bench.root / "packages" / "packages"
    assert eventually(lambda: not list(folder.glob(".part-*")))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
def test_packages_are_fetched_once_and_builds_complete_without_their_server(
    bench: ProxyBench, server: DownloadServer, version: str
) -> None:
    bench.build(version, packages=("tmux",))
    first = Counter(server.requests)
    assert len(first) > 10 and set(first.values()) == {1}
    kept(bench)
    second = bench.build(version, packages=("tmux", "htop"))
    (more,) = server.requests - first
    assert "htop" in more
    assert second.traffic and second.traffic.cached == second.traffic.requests - 1
    htop = (server.root / more.lstrip("/")).read_bytes()
    (spoilt,) = (path for path in kept(bench) if path.read_bytes() == htop)
    server.broken = True
    third = bench.build(version, packages=("htop",))
    assert "htop" in third.manifest and third.traffic
    assert third.traffic.cached == third.traffic.requests > 10

    # A disk that lies: the package manager notices, and what it was given is not kept.
    server.broken = False
    spoilt.write_bytes(bytes(len(htop)))
    with pytest.raises(BuildFailed) as failure:
        bench.build(version, packages=("htop", "vim"))
    assert failure.value.side is Side.INFRASTRUCTURE
    assert "htop" in bench.build(version, packages=("htop", "vim")).manifest
