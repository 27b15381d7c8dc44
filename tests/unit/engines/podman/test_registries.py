"""A registry that fails is left alone for a while, and what is here is built meanwhile."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest
from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, BuildInterrupted, EngineUnavailable, RegistryUnavailable
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions, Timeouts
from asu_builder.settings import Settings
from fake_engine import HANGS, Answer, FakeEngine, refusing
from runtime_rig import a_spec

PULL, LOOK = "POST /images/pull", "GET /images/.*/json"
ABSENT = refusing("no such image", 404)
DOWN = Answer(body={"error": "pinging container registry r: connection refused"})


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    """An engine without any image."""
    with FakeEngine(tmp_path / "s") as running:
        running.faults[LOOK] = ABSENT
        yield running


@pytest.fixture
def options(engine: FakeEngine) -> PodmanOptions:
    soon = timedelta(seconds=0.3)
    timeouts = Timeouts(call=soon, question=soon, check=soon, watch=timedelta(0))
    return PodmanOptions(
        Settings(
            container_socket_path=str(engine.socket),
            imagebuilder_registry="r.example/ib",
            build_network="none",
        ),
        timeouts=timeouts,
    )


@pytest.fixture
def runtime(options: PodmanOptions, clock: Clock) -> PodmanRuntime:
    return PodmanRuntime(options, clock=clock)


def opened(runtime: PodmanRuntime, version: str = "25.12.0", *, seconds: float = 30.0) -> list[str]:
    """The warnings of a container that was opened for a version."""
    with runtime.open(a_spec(version, deadline=timedelta(seconds=seconds)), stop=Event()) as container:
        return list(container.warnings)


def refused(runtime: PodmanRuntime, version: str = "25.12.0") -> RegistryUnavailable:
    with pytest.raises(RegistryUnavailable) as caught:
        opened(runtime, version)
    return caught.value


def test_a_registry_that_fails_is_not_asked_again_at_once_for_any_image(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock
) -> None:
    assert runtime.check_registry().status == "ok"
    engine.faults[PULL] = DOWN
    first = refused(runtime)
    assert first.retry_after == 2
    assert str(refused(runtime, "24.10.5")) == str(first)
    assert engine.asked(PULL) == 1
    result = runtime.check_registry()
    assert result.status == "warning"
    assert "connection refused" in result.sentence and "Only what is here already" in result.sentence

    clock.now += 2
    assert refused(runtime, "24.10.5").retry_after == 4
    assert engine.asked(PULL) == 2


def test_what_is_here_is_built_and_does_not_ask(runtime: PodmanRuntime, engine: FakeEngine) -> None:
    engine.faults[PULL] = DOWN
    refused(runtime)
    engine.faults.pop(LOOK)
    assert opened(runtime) == []
    assert engine.asked(PULL) == 1


def test_a_registry_that_knows_no_such_image_is_well(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock
) -> None:
    engine.faults[PULL] = DOWN
    refused(runtime)
    clock.now += 2
    engine.faults[PULL] = Answer(body={"error": "reading manifest x: manifest unknown"})
    with pytest.raises(BuildFailed):
        opened(runtime)
    assert runtime.check_registry().status == "ok"


def test_another_registry_is_asked_all_the_same(
    options: PodmanOptions, engine: FakeEngine, clock: Clock
) -> None:
    by_version = replace(
        options, settings=replace(options.settings, imagebuilder_image="{version}.example/ib:{tag}")
    )
    runtime = PodmanRuntime(by_version, clock=clock)
    engine.faults[PULL] = DOWN
    refused(runtime, "25.12.0")
    refused(runtime, "24.10.5")
    assert engine.asked(PULL) == 2


def test_a_moving_tag_is_refreshed_as_soon_as_a_registry_is_back_that_was_left_alone(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock
) -> None:
    engine.faults[PULL] = DOWN
    refused(runtime)
    engine.faults.pop(LOOK)
    assert "may be outdated" in opened(runtime, "SNAPSHOT")[0]
    assert engine.asked(PULL) == 1
    engine.recover()
    clock.now += 2
    assert opened(runtime, "SNAPSHOT") == []
    assert engine.asked(PULL) == 2


def test_a_full_disk_is_the_engine_s_and_not_the_registry_s(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    engine.faults[PULL] = Answer(body={"error": "storing blob: no space left on device"})
    with pytest.raises(EngineUnavailable, match="disk is full"):
        opened(runtime)
    assert runtime.check_registry().status == "ok"
    assert runtime.check().status == "error"


def test_a_pull_that_does_not_end_is_slow_if_the_engine_answers_and_the_engine_s_fault_if_not(
    runtime: PodmanRuntime, engine: FakeEngine
) -> None:
    engine.faults[PULL] = HANGS
    with pytest.raises(RegistryUnavailable, match="did not deliver"):
        opened(runtime, seconds=0.5)
    assert runtime.check().status == "ok"

    other = PodmanRuntime(
        PodmanOptions(
            Settings(container_socket_path=str(engine.socket), build_network="none"),
            timeouts=Timeouts(question=timedelta(seconds=0.3)),
        )
    )
    engine.faults["GET /_ping"] = HANGS
    with pytest.raises(EngineUnavailable, match="did not answer in time"):
        opened(other, seconds=0.5)
    assert other.check_registry().status == "ok"


def test_an_interrupted_pull_says_nothing_about_the_registry(
    runtime: PodmanRuntime, engine: FakeEngine, clock: Clock
) -> None:
    engine.faults[PULL] = DOWN
    refused(runtime)
    clock.now += 2
    stop = Event()
    stop.set()
    with pytest.raises(BuildInterrupted):
        with runtime.open(a_spec(), stop=stop):
            pass
    refused(runtime)
    assert engine.asked(PULL) >= 2, "the next was let through"
