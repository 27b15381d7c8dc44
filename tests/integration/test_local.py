"""The bubblewrap sandbox's network, which is the operator's choice."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from runtime_rig import a_spec
from tools import require_tool, tool_missing


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens on this host's loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("network", [True, False])
def test_a_sandboxed_command_reaches_the_network_only_when_it_may(
    sample_world: Distribution, tmp_path: Path, port: int, network: bool
) -> None:
    require_tool("bwrap")
    if not bubblewrap_works():
        tool_missing("bwrap", "it may not create its sandbox here")
    settings = Settings(
        imagebuilder_path=sample_world.template, build_network="asu-build" if network else "none"
    )
    runtime = LocalRuntime(settings, tmp_path / "builds")
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2).close()"
    with runtime.open(a_spec(), stop=Event()) as container:
        result = container.run(["python3", "-c", connect], output=tmp_path)
    assert (result.exit_code == 0) is network
