"""One rig per adapter: how the contract suites get hold of it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.operator import SqlOperations
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.database.secrets import Secrets, make_key, write_keys
from asu_builder.engines.guard import Limits
from asu_builder.engines.local.runtime import LocalRuntime
from asu_builder.engines.local.sandbox import bubblewrap_works
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions, Timeouts
from asu_builder.ports import JobQueue, Operations, RetentionRepository, Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution
from fake_runtime import FakeRuntime
from podman_service import SAMPLE_REGISTRY
from postgresql import database as database
from postgresql import place as place
from runtime_rig import Rig
from tools import require_tool, tool_missing

_LOOKS_EVERY = timedelta(seconds=0.3)
"""At what a container has written."""


@pytest.fixture
def queue(database: SqlDatabase, tmp_path: Path) -> JobQueue:
    """The one adapter of the port `JobQueue`, with a key where a database stores no secret without one."""
    if database.overwrites_deleted:
        return SqlJobQueue(database)
    key = tmp_path / "secrets.key"
    write_keys(key, [make_key()], new=True)
    return SqlJobQueue(database, Secrets(key))


@pytest.fixture
def retention(database: SqlDatabase) -> RetentionRepository:
    """The one adapter of the port `RetentionRepository`."""
    return SqlRetention(database)


@pytest.fixture
def operations(database: SqlDatabase) -> Operations:
    """The one adapter of the port `Operations`."""
    return SqlOperations(database)


@pytest.fixture(params=["podman", "bubblewrap", "plain", "fake"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Every adapter of the port `Runtime`, and the fake that stands in for them elsewhere."""
    kind: str = request.param
    if kind == "podman":
        yield _podman_rig(request.getfixturevalue("podman_socket"), tmp_path)
        return
    if kind == "bubblewrap":
        require_tool("bwrap")
        if not bubblewrap_works():
            tool_missing("bwrap", "it may not create its sandbox here")
    world: Distribution = request.getfixturevalue("sample_world")
    if kind == "fake":
        # What it does not answer itself runs as plainly as in the plain one.
        yield Rig("plain", lambda limits: FakeRuntime(world.template, tmp_path / "builds", limits=limits))
        return
    yield Rig(
        kind,
        lambda limits: LocalRuntime(
            Settings(imagebuilder_path=world.template, build_network="none"),
            tmp_path / "builds",
            sandboxed=kind == "bubblewrap",
            limits=limits,
            disk_every=_LOOKS_EVERY,
        ),
    )


def _podman_rig(socket: Path, tmp_path: Path) -> Rig:
    def make(limits: Limits) -> Runtime:
        return PodmanRuntime(
            PodmanOptions(
                Settings(
                    container_socket_path=str(socket),
                    imagebuilder_registry=SAMPLE_REGISTRY,
                    build_network="none",
                ),
                installation=tmp_path.name,
                limits=limits,
                timeouts=Timeouts(watch=_LOOKS_EVERY),
            )
        )

    return Rig("podman", make)


@pytest.fixture
def runtime(rig: Rig) -> Runtime:
    """A runtime with the limits of every day."""
    return rig.make(Limits())
