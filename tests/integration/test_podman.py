"""Podman itself: images from a real registry, the hardening seen from both sides, engines that fail."""

import gc
import logging
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread, Timer
from time import sleep
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.domain.errors import (
    BuildFailed,
    BuildInterrupted,
    EngineUnavailable,
    FailureReason,
    RegistryUnavailable,
    Unavailable,
)
from asu_builder.domain.make import ContainerSpec
from asu_builder.engines.guard import Limits
from asu_builder.engines.podman.calls import ContainerCalls
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import Engine, PodmanOptions, Timeouts
from asu_builder.settings import Settings
from factories import eventually, sooner_than
from podman_service import SAMPLE_REGISTRY, PodmanService
from registry import Registry, push_image
from runtime_rig import a_spec
from tools import require_tool

MOVING = a_spec("SNAPSHOT")
RELEASED = a_spec("25.12.0")


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def options(podman_socket: Path, tmp_path: Path) -> PodmanOptions:
    """The sample images, without network, under a name of this test's own."""
    return PodmanOptions(
        Settings(
            container_socket_path=str(podman_socket),
            imagebuilder_registry=SAMPLE_REGISTRY,
            build_network="none",
        ),
        installation=tmp_path.name,
    )


def with_settings(options: PodmanOptions, **changes: str) -> PodmanOptions:
    return replace(options, settings=replace(options.settings, **changes))


# --- images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    require_tool("registry", "docker-registry")
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[Registry]:
    """One that the test may stop."""
    require_tool("registry", "docker-registry")
    directory = tmp_path / "registry"
    directory.mkdir()
    with Registry(directory) as running:
        yield running


@pytest.fixture
def pulling(options: PodmanOptions, tmp_path: Path) -> PodmanOptions:
    """A repository of this test's own; the test sets the registry's address."""
    name = f"{{}}/{tmp_path.name.replace('_', '-')}"
    return replace(with_settings(options, imagebuilder_registry=name), tls_verify=False)


def at(pulling: PodmanOptions, registry: Registry | int) -> PodmanOptions:
    address = f"127.0.0.1:{registry}" if isinstance(registry, int) else registry.address
    return with_settings(
        pulling, imagebuilder_registry=pulling.settings.imagebuilder_registry.format(address)
    )


def push(options: PodmanOptions, tag: str, *, marker: str) -> str:
    return push_image(
        Path(options.settings.container_socket_path),
        f"{options.settings.imagebuilder_registry}:pico-nine-{tag}",
        marker=marker,
    )


def image_exists(options: PodmanOptions, image: str) -> bool:
    from podman import PodmanClient

    with PodmanClient(base_url=f"unix://{options.settings.container_socket_path}", timeout=120) as client:
        return bool(client.images.exists(image))


def identity_of(runtime: PodmanRuntime, spec: ContainerSpec) -> str:
    with runtime.open(spec, stop=Event()) as container:
        return container.identity


def test_a_missing_image_is_pulled_once(pulling: PodmanOptions, registry: Registry) -> None:
    options = at(pulling, registry)
    pushed = push(options, "v25.12.0", marker="release")
    asked = registry.pulls("pico-nine-v25.12.0")
    runtime = PodmanRuntime(options)
    with runtime.open(RELEASED, stop=Event()) as container:
        assert container.identity == pushed
        assert container.origin.isolation == "container"
        assert container.origin.image.endswith(":pico-nine-v25.12.0")
        assert container.origin.digest == registry.digest("pico-nine-v25.12.0")
        assert container.read_bytes("marker") == b"release"
        assert list(container.warnings) == []
    assert identity_of(runtime, RELEASED) == pushed
    assert registry.pulls("pico-nine-v25.12.0") == asked + 1


def test_the_image_s_directory_is_no_volume_and_its_variables_do_not_reach_make(
    pulling: PodmanOptions, registry: Registry, tmp_path: Path
) -> None:
    options = at(pulling, registry)
    push(options, "v25.12.0", marker="release")
    with PodmanRuntime(options).open(RELEASED, stop=Event()) as container:
        assert container.workdir == "/builder"
        assert "/builder" not in container.run(["cat", "/proc/mounts"], output=tmp_path).stdout.read_text()
        assert "PROFILE" not in container.run(["env"], output=tmp_path).stdout.read_text()


def test_a_tag_that_does_not_exist_is_a_missing_imagebuilder(
    pulling: PodmanOptions, registry: Registry
) -> None:
    with pytest.raises(BuildFailed) as failure:
        identity_of(PodmanRuntime(at(pulling, registry)), a_spec("25.12.7"))
    assert failure.value.reason == FailureReason.IMAGEBUILDER_MISSING
    assert failure.value.detail.startswith("Error: Image not found: ")
    assert "127.0.0.1" not in failure.value.detail


def test_a_moving_tag_is_refreshed_after_a_quarter_of_an_hour(
    pulling: PodmanOptions, registry: Registry
) -> None:
    options, clock = at(pulling, registry), Clock()
    runtime = PodmanRuntime(options, clock=clock)
    old = push(options, "master", marker="old")
    assert identity_of(runtime, MOVING) == old
    # Pushed under another name here, so that the engine keeps what it has under this one.
    elsewhere = with_settings(
        options,
        imagebuilder_registry=options.settings.imagebuilder_registry.replace("127.0.0.1", "localhost"),
    )
    new = push(elsewhere, "master", marker="new")
    clock.now += timedelta(minutes=14).total_seconds()
    assert identity_of(runtime, MOVING) == old
    clock.now += timedelta(minutes=2).total_seconds()
    assert identity_of(runtime, MOVING) == new
    assert not image_exists(options, old), "the engine's disk would fill up with outdated images"
    assert image_exists(options, new)


def test_without_the_registry_the_present_image_of_a_moving_tag_is_used_with_a_warning(
    pulling: PodmanOptions, own_registry: Registry
) -> None:
    options, clock = at(pulling, own_registry), Clock()
    runtime = PodmanRuntime(options, clock=clock)
    pushed = push(options, "master", marker="1")
    assert identity_of(runtime, MOVING) == pushed
    own_registry.stop()
    clock.now += timedelta(hours=1).total_seconds()
    for _ in range(2):
        with runtime.open(MOVING, stop=Event()) as container:
            assert container.identity == pushed
            assert "could not be refreshed" in container.warnings[0]


def test_without_the_registry_a_missing_image_waits_for_it_and_others_are_built(
    pulling: PodmanOptions, own_registry: Registry
) -> None:
    options, clock = at(pulling, own_registry), Clock()
    runtime = PodmanRuntime(options, clock=clock)
    here = push(options, "v25.12.0", marker="here")
    assert identity_of(runtime, RELEASED) == here
    there = push(options, "v25.12.1", marker="there")
    own_registry.stop()
    with pytest.raises(RegistryUnavailable, match="could not be pulled") as first:
        identity_of(runtime, a_spec("25.12.1"))
    with pytest.raises(RegistryUnavailable, match="could not be pulled") as second:
        identity_of(runtime, a_spec("25.12.2"))
    # Had it been asked again, it would have failed again, and the next pause would be longer.
    assert (first.value.retry_after, second.value.retry_after) == (2, 2)
    assert identity_of(runtime, RELEASED) == here
    assert runtime.check_registry().status == "warning"
    assert runtime.check().status == "ok", "the engine is not to blame"

    with own_registry:
        clock.now += 2
        assert identity_of(runtime, a_spec("25.12.1")) == there
        assert runtime.check_registry().status == "ok"


def test_an_engine_that_freezes_during_a_pull_is_told_from_a_registry_that_is_slow(
    pulling: PodmanOptions, silent_registry: int, podman_service: PodmanService
) -> None:
    short = timedelta(seconds=0.5)
    quick = Timeouts(question=short, check=short, watch=short, silence=timedelta(seconds=2))
    runtime = PodmanRuntime(replace(at(pulling, silent_registry), timeouts=quick))
    with frozen_soon(podman_service) as freeze:
        freeze()
        with sooner_than(60), pytest.raises(EngineUnavailable, match="did not answer in time"):
            identity_of(runtime, RELEASED)
    assert runtime.check_registry().status == "ok"


def test_builds_that_start_together_pull_once(pulling: PodmanOptions, registry: Registry) -> None:
    options = at(pulling, registry)
    pushed = push(options, "v25.12.1", marker="together")
    asked = registry.pulls("pico-nine-v25.12.1")
    runtime = PodmanRuntime(options)
    with ThreadPoolExecutor(4) as workers:
        opened = workers.map(lambda _: identity_of(runtime, a_spec("25.12.1")), range(4))
        assert list(opened) == [pushed] * 4
    assert registry.pulls("pico-nine-v25.12.1") == asked + 1


@pytest.fixture
def silent_registry() -> Iterator[int]:
    """The port of somebody who accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


def test_a_pull_in_progress_obeys_the_stop_event_and_so_does_who_waits_for_it(
    pulling: PodmanOptions, silent_registry: int
) -> None:
    runtime, stop = PodmanRuntime(at(pulling, silent_registry)), Event()

    def interrupted() -> bool:
        try:
            with runtime.open(RELEASED, stop=stop):
                return False
        except BuildInterrupted:
            return True

    timer = Timer(0.7, stop.set)
    timer.start()
    with sooner_than(60), ThreadPoolExecutor(2) as workers:
        assert list(workers.map(lambda _: interrupted(), range(2))) == [True, True]
    timer.join()


def test_who_waits_for_an_interrupted_pull_takes_it_over(
    pulling: PodmanOptions, silent_registry: int
) -> None:
    runtime, first_stop = PodmanRuntime(at(pulling, silent_registry)), Event()
    impatient = replace(RELEASED, deadline=timedelta(seconds=2))
    with ThreadPoolExecutor(2) as workers:
        first = workers.submit(lambda: _open(runtime, RELEASED, first_stop))
        sleep(0.3)
        second = workers.submit(lambda: _open(runtime, impatient, Event()))
        sleep(0.3)
        first_stop.set()
        with pytest.raises(BuildInterrupted):
            first.result(timeout=60)
        with pytest.raises(RegistryUnavailable, match="in time"):
            second.result(timeout=60)


def _open(runtime: PodmanRuntime, spec: ContainerSpec, stop: Event) -> None:
    with runtime.open(spec, stop=stop):
        pass


# --- hardening, as the engine and as a program inside sees it ---------------------------------------


def inspect_only(options: PodmanOptions) -> dict[str, Any]:
    """What the engine knows about this installation's one running container."""
    from podman import PodmanClient

    with PodmanClient(base_url=f"unix://{options.settings.container_socket_path}", timeout=120) as client:
        label = f"asu.installation={options.installation}"
        (container,) = client.containers.list(filters={"label": label})
        attributes: dict[str, Any] = container.inspect()
    return attributes


def test_a_container_is_hardened_and_labelled(options: PodmanOptions) -> None:
    spec = a_spec(labels={"asu.job": "7", "asu.attempt": "1"})
    with PodmanRuntime(options).open(spec, stop=Event()):
        found = inspect_only(options)
    host, configuration = found["HostConfig"], found["Config"]
    assert found["Mounts"] == [] and host["Binds"] == [] and not host["Privileged"]
    assert not found["EffectiveCaps"] and not found["BoundingCaps"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (2 << 30, 2 << 30, 1024)
    assert host["CpuQuota"] == 2 * host["CpuPeriod"]
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}["RLIMIT_FSIZE"] == 2 << 30
    assert "no-new-privileges" in host["SecurityOpt"]
    assert {"asu.job": "7", "asu.attempt": "1"}.items() <= configuration["Labels"].items()
    assert configuration["User"] == "buildbot"


def test_no_other_container_may_share_its_memory(options: PodmanOptions) -> None:
    """Asked of the engine by trying: what it tells of the mode was wrong in Podman 4.3."""
    from podman import PodmanClient
    from podman.errors import APIError

    with (
        PodmanRuntime(options).open(a_spec(), stop=Event()),
        PodmanClient(base_url=f"unix://{options.settings.container_socket_path}", timeout=120) as client,
    ):
        found = inspect_only(options)
        join = {"nsmode": "container", "value": found["Id"]}
        with pytest.raises(APIError, match="non-shareable IPC"):
            client.containers.create(found["Image"], ipc_mode=join, network_mode="none")


def test_commands_run_as_the_same_user_with_the_same_variables_by_name_and_by_number(
    options: PodmanOptions, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(options)
    users, seen = [], []
    for number in range(2):
        output = tmp_path / str(number)
        output.mkdir()
        with runtime.open(a_spec(), stop=Event()) as container:
            users.append(inspect_only(options)["Config"]["User"])
            container.write_files({"files/etc/new": "x"})
            script = "id; env; ls -nd files files/etc files/etc/new | cut -d' ' -f1-4"
            seen.append(container.run(["sh", "-c", script], output=output).stdout.read_text())
    assert users == ["buildbot", "1000:1000"]
    assert seen[0] == seen[1]
    assert "uid=1000(buildbot) gid=1000(buildbot) groups=1000(buildbot)" in seen[0]


def test_a_container_ends_by_itself_soon_after_its_deadline(options: PodmanOptions) -> None:
    with PodmanRuntime(options).open(a_spec(deadline=timedelta(seconds=30)), stop=Event()):
        command = inspect_only(options)["Config"]["Cmd"]
    assert command == ["sleep", "150"]


def test_commands_run_as_the_image_s_user_on_a_network_of_our_own(
    options: PodmanOptions, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(with_settings(options, build_network="asu-test"))
    for _ in range(2):  # the network is made by the first and found by the second
        with runtime.open(a_spec(), stop=Event()) as container:
            assert list(inspect_only(options)["NetworkSettings"]["Networks"]) == ["asu-test"]
            assert container.run(["id", "-un"], output=tmp_path).stdout.read_text() == "buildbot\n"


@pytest.mark.parametrize("network", ["none", "asu-test"])
def test_builds_with_a_network_get_the_variables_of_the_proxy(
    options: PodmanOptions, tmp_path: Path, network: str
) -> None:
    proxies = {"http_proxy": "http://proxy.example:3128", "NO_PROXY": "a.example"}
    runtime = PodmanRuntime(replace(with_settings(options, build_network=network), proxies=proxies))
    with runtime.open(a_spec(), stop=Event()) as container:
        printed = container.run(["env"], output=tmp_path).stdout.read_text()
    for name, value in proxies.items():
        assert (f"{name}={value}\n" in printed) is (network != "none")


def test_a_chatty_command_costs_no_memory(options: PodmanOptions, tmp_path: Path) -> None:
    with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
        container.run(["true"], output=tmp_path)  # imports what it needs
        tracemalloc.start()
        try:
            chatter = "for _ in range(20): print('x' * (1 << 20))"
            result = container.run(["python3", "-c", chatter], output=tmp_path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (16 << 20) < result.stdout.stat().st_size < (16 << 20) + 100
    assert peak < 2 << 20


def test_collecting_costs_no_memory(options: PodmanOptions, tmp_path: Path) -> None:
    with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
        container.run(["sh", "-c", "mkdir out; head -c 40000000 /dev/zero > out/big"], output=tmp_path)
        tracemalloc.start()
        try:
            container.collect("/builder/out", tmp_path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "big").stat().st_size == 40_000_000
    assert peak < 5 << 20


def test_a_memory_limit_that_ends_the_container_itself_is_told_too(
    options: PodmanOptions, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(replace(options, limits=Limits(memory=60 << 20)))
    with runtime.open(a_spec(), stop=Event()) as container:
        with pytest.raises(BuildFailed) as failure:
            container.run(["python3", "-c", "x = b'x' * (1 << 30)"], output=tmp_path)
    assert failure.value.reason == FailureReason.OUT_OF_MEMORY


# --- engines that fail --------------------------------------------------------------------------------


def test_a_container_that_cannot_start_leaves_nothing_behind(options: PodmanOptions) -> None:
    impossible = replace(options, limits=Limits(open_files=1 << 40))
    runtime = PodmanRuntime(impossible)
    with pytest.raises(EngineUnavailable):
        identity_of(runtime, RELEASED)
    assert eventually(runtime.close)
    assert PodmanRuntime(options).sweep(keep=lambda labels: False) == 0


def test_sweeping_removes_what_is_unwanted_and_leaves_other_installations_alone(
    options: PodmanOptions, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(options)
    neighbour = PodmanRuntime(replace(options, installation="neighbour"))
    with neighbour.open(a_spec(), stop=Event()) as theirs:
        with runtime.open(a_spec(labels={"asu.job": "1"}), stop=Event()) as wanted:
            with runtime.open(a_spec(labels={"asu.job": "2"}), stop=Event()) as unwanted:
                assert runtime.sweep(keep=lambda labels: labels["asu.job"] == "1") == 1
                assert wanted.exists("Makefile") and theirs.exists("Makefile")
                with pytest.raises(EngineUnavailable):
                    unwanted.run(["true"], output=tmp_path)


_REMOVER = """
import sys
from threading import Event
from runtime_rig import a_spec
from asu_builder.engines.podman.calls import ContainerCalls
from asu_builder.engines.podman.service import PodmanOptions
from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.settings import Settings

def hang(calls, **_):
    print("removing", flush=True)
    Event().wait()

ContainerCalls.delete = hang
settings = Settings(
    container_socket_path=sys.argv[1], imagebuilder_registry=sys.argv[2], build_network="none"
)
options = PodmanOptions(settings, installation=sys.argv[3])
with PodmanRuntime(options).open(a_spec(), stop=Event()):
    pass
Event().wait()
"""


def test_what_a_killed_process_was_removing_is_swept_by_the_next(options: PodmanOptions) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            _REMOVER,
            options.settings.container_socket_path,
            options.settings.imagebuilder_registry,
            options.installation,
        ],
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
    ) as remover:
        assert remover.stdout is not None and remover.stdout.readline() == b"removing\n"
        remover.kill()
    assert PodmanRuntime(options).sweep(keep=lambda labels: False) == 1
    assert PodmanRuntime(options).sweep(keep=lambda labels: False) == 0


def test_one_container_may_be_removed_by_several_at_once(
    options: PodmanOptions, caplog: pytest.LogCaptureFixture
) -> None:
    """As by whoever has used it and the sweep of another process of the same installation."""
    with PodmanRuntime(options).open(a_spec(), stop=Event()):
        calls = ContainerCalls(Engine(options.settings.container_socket_path), inspect_only(options)["Id"])
        with ThreadPoolExecutor(4) as workers:
            assert list(workers.map(lambda _: calls.delete(), range(4))) == [True] * 4
    assert caplog.text == ""


def test_a_container_that_somebody_else_kills_is_no_failure_of_the_build(
    options: PodmanOptions, tmp_path: Path
) -> None:
    with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
        killer = Timer(0.5, kill_only, args=[options])
        killer.start()
        with pytest.raises(EngineUnavailable):
            container.run(["sleep", "50"], output=tmp_path)
        killer.join()


def kill_only(options: PodmanOptions) -> None:
    """What an operator might do by hand to this installation's one container."""
    from podman import PodmanClient

    name = inspect_only(options)["Id"]
    with PodmanClient(base_url=f"unix://{options.settings.container_socket_path}", timeout=120) as client:
        client.api.post(f"/containers/{name}/kill").raise_for_status()


def test_a_command_that_is_killed_by_itself_is_not_taken_for_a_failed_one(
    options: PodmanOptions, tmp_path: Path
) -> None:
    """A container that dies takes its commands along a moment before Podman says that it has ended."""
    with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
        with pytest.raises(EngineUnavailable, match="by somebody else"):
            container.run(["sh", "-c", "kill -9 $$"], output=tmp_path)
        assert container.run(["sh", "-c", "exit 3"], output=tmp_path).exit_code == 3


def test_an_engine_that_dies_during_a_command_is_unavailable(
    podman_service: PodmanService, options: PodmanOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = PodmanRuntime(options)
    killer = Timer(0.7, podman_service.stop)
    try:
        with caplog.at_level(logging.CRITICAL), pytest.raises(EngineUnavailable):
            with runtime.open(a_spec(), stop=Event()) as container:
                killer.start()
                container.run(["sleep", "50"], output=tmp_path)
        assert runtime.check().status == "error"
        assert eventually(runtime.close)
    finally:
        killer.join()
        podman_service.start()
    assert runtime.sweep(keep=lambda labels: False) == 1


@contextmanager
def frozen_soon(service: PodmanService) -> Iterator[Callable[[], None]]:
    """What is given lets the service hang from half a second later on, until the end."""
    assert service.process is not None
    freezer = Timer(0.5, service.process.send_signal, args=[signal.SIGSTOP])
    try:
        yield freezer.start
    finally:
        if freezer.ident is not None:
            freezer.join()
        service.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("deadline", "silence"),
    [(timedelta(seconds=6), timedelta(minutes=5)), (timedelta(minutes=5), timedelta(seconds=2))],
)
def test_an_engine_that_freezes_during_a_command_is_to_blame_whatever_comes_first(
    podman_service: PodmanService,
    options: PodmanOptions,
    tmp_path: Path,
    deadline: timedelta,
    silence: timedelta,
) -> None:
    short = timedelta(seconds=0.5)
    quick = Timeouts(question=short, check=short, watch=short, silence=silence)
    runtime = PodmanRuntime(replace(options, timeouts=quick))
    with frozen_soon(podman_service) as freeze:
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            with runtime.open(a_spec(deadline=deadline), stop=Event()) as container:
                freeze()
                with sooner_than(45):
                    container.run(["sleep", "50"], output=tmp_path)
        assert runtime.check().status == "error"
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            identity_of(runtime, RELEASED)
    assert eventually(lambda: runtime.check().status == "ok")
    identity_of(runtime, RELEASED)
    assert eventually(runtime.close)
    runtime.sweep(keep=lambda labels: False)
    assert runtime.sweep(keep=lambda labels: False) == 0


class PodmanSocket:
    """As systemd's `podman.socket`: callers wait in it while the service comes and goes."""

    def __init__(self, place: Path, service: Path) -> None:
        self.place = place
        self._service = service
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen()

    def __enter__(self) -> "PodmanSocket":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def _connect(self, caller: socket.socket) -> None:
        with caller, socket.socket(socket.AF_UNIX) as service:
            for _ in range(500):
                if service.connect_ex(str(self._service)) == 0:
                    break
                sleep(0.02)
            ends = {caller: service, service: caller}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    try:
                        chunk = end.recv(1 << 16)
                        ends[end].sendall(chunk)
                    except OSError:
                        return
                    if not chunk:
                        return


def test_an_output_that_a_restart_of_the_service_has_cut_is_never_taken_for_whole(
    podman_service: PodmanService, options: PodmanOptions, tmp_path: Path
) -> None:
    printed = tmp_path / "1.stdout"

    def restart() -> None:
        eventually(lambda: printed.exists() and printed.read_text() == "one\n")
        podman_service.stop()
        podman_service.start()

    with PodmanSocket(tmp_path / "s", podman_service.socket) as place:
        runtime = PodmanRuntime(with_settings(options, container_socket_path=str(place.place)))
        with pytest.raises(EngineUnavailable, match=r"connection to a running command was lost|went away"):
            with runtime.open(a_spec(), stop=Event()) as container:
                restarter = Thread(target=restart)
                restarter.start()
                try:
                    container.run(["sh", "-c", "echo one; sleep 170; echo two"], output=tmp_path)
                finally:
                    restarter.join()
        assert printed.read_text() == "one\n"
        assert eventually(runtime.close)
        assert runtime.sweep(keep=lambda labels: False) == 0


def test_a_container_removed_under_a_command_is_no_failure_of_the_build(
    options: PodmanOptions, tmp_path: Path
) -> None:
    runtime = PodmanRuntime(options)
    with pytest.raises(EngineUnavailable, match="by somebody else"):
        with runtime.open(a_spec(), stop=Event()) as container:
            remover = Timer(0.5, remove_only, args=[options])
            remover.start()
            try:
                container.run(["sleep", "50"], output=tmp_path)
            finally:
                remover.join()


def remove_only(options: PodmanOptions) -> None:
    """`podman rm --force` on this installation's one container."""
    from podman import PodmanClient

    name = inspect_only(options)["Id"]
    with PodmanClient(base_url=f"unix://{options.settings.container_socket_path}", timeout=120) as client:
        query = {"force": True, "timeout": 0}
        client.api.delete(f"/containers/{name}", params=query).raise_for_status()


@pytest.mark.parametrize("act", [kill_only, remove_only])
def test_images_of_a_container_that_ends_while_they_are_collected_are_whole_or_none(
    options: PodmanOptions, tmp_path: Path, act: Callable[[PodmanOptions], None]
) -> None:
    into = tmp_path / "into"
    into.mkdir()
    numbers = " ".join(str(number) for number in range(60))
    with pytest.raises(EngineUnavailable) if act is remove_only else nullcontext():
        with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
            make = f"mkdir out; for n in {numbers}; do head -c 5000000 /dev/zero > out/$n; done"
            assert container.run(["sh", "-c", make], output=tmp_path).exit_code == 0
            ender = Timer(0.05, act, args=[options])
            ender.start()
            try:
                container.collect("/builder/out", into)
            finally:
                ender.join()
    if act is kill_only:
        assert [file.stat().st_size for file in into.iterdir()] == [5_000_000] * 60


def test_images_of_a_container_that_was_removed_before_are_not_none(
    options: PodmanOptions, tmp_path: Path
) -> None:
    with pytest.raises(EngineUnavailable, match="removed by somebody else"):
        with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
            remove_only(options)
            container.collect("/builder/out", tmp_path)


_REWRITING = """
import time
files = [open(f"out/{number}", "wb") for number in range(6)]
while True:
    for odd in (0, 1):
        for number, file in enumerate(files):
            file.truncate(60_000_000 if number % 2 == odd else 0)
        time.sleep(0.003)
"""


def test_a_build_that_changes_its_images_while_they_are_read_is_not_the_engine_s_fault(
    options: PodmanOptions, tmp_path: Path
) -> None:
    rewriting = (
        f"mkdir out; (python3 -c '{_REWRITING}' > /dev/null 2>&1 &); "
        "while [ ! -s out/0 ] && [ ! -s out/1 ]; do sleep 0.05; done"
    )
    runtime = PodmanRuntime(options)

    def collect(into: Path) -> None:
        into.mkdir()
        for number in range(50):
            # On a busy machine the files may stay as they are for as long as one reading takes.
            place = into / str(number)
            place.mkdir()
            container.collect("/builder/out", place)
            shutil.rmtree(place)

    with pytest.raises(Unavailable, match="changed the files") as caught:
        with runtime.open(a_spec(), stop=Event()) as container:
            assert container.run(["sh", "-c", rewriting], output=tmp_path).exit_code == 0
            collect(tmp_path / "into")
    assert not isinstance(caught.value, EngineUnavailable), "or one build could keep all others waiting"
    assert runtime.check().status == "ok"


def test_no_socket_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    result = PodmanRuntime(PodmanOptions(Settings(container_socket_path=str(tmp_path / "none.sock")))).check()
    assert result.status == "error"
    assert "none.sock" in result.sentence and "container_socket_path" in result.sentence


def test_a_socket_that_nobody_listens_on_is_told(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    result = PodmanRuntime(PodmanOptions(Settings(container_socket_path=str(path)))).check()
    assert result.status == "error" and "No service listens" in result.sentence


def test_an_engine_that_hangs_is_down_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "hang.sock"
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(path))
        hanging.listen()
        with sooner_than(30):
            result = PodmanRuntime(PodmanOptions(Settings(container_socket_path=str(path)))).check()
    assert result.status == "error" and "did not answer in time" in result.sentence


def test_an_engine_that_answers_nonsense_is_down(tmp_path: Path) -> None:
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(path))
        odd.listen()
        thread = threading.Thread(target=_answer_nonsense, args=(odd,))
        thread.start()
        result = PodmanRuntime(PodmanOptions(Settings(container_socket_path=str(path)))).check()
        thread.join()
    assert result.status == "error"


def _answer_nonsense(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"hello?\r\n\r\n")


def test_looking_for_an_engine_that_is_down_leaves_no_socket_open(tmp_path: Path) -> None:
    runtime = PodmanRuntime(PodmanOptions(Settings(container_socket_path=str(tmp_path / "left.sock"))))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        results = [runtime.check() for _ in range(5)]
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        gc.enable()
    assert {result.status for result in results} == {"error"}
