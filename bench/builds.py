"""What the service adds to a build: from POST to the first container, and beside make's own time."""

import http.client
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn
from msgspec.structs import replace

from asu_builder.app import assemble
from asu_builder.domain.health import CheckResult
from asu_builder.domain.make import CommandResult, ContainerSpec, OutputCallback
from asu_builder.http.server import server_config
from asu_builder.ports import Container, Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import Distribution, write_distribution
from asu_sample.server import DownloadServer
from bench.figures import Figure
from bench.process import free_port
from bench.worlds import TARGET, VERSION, own_podman

_POST_TO_CONTAINER_MS = 50
_TOLD_MS = 20
_OUR_SHARE_SECONDS = 1
_OUR_SHARE_IN_PODMAN_SECONDS = 0.5
_FULL_SIZE, _FULL_FILES, _FOLDERS = 1_500_000_000, 60_000, 300
"""What an unpacked ImageBuilder has."""
_SOON = 0.002


class Stopwatch:
    """A runtime that notes when a container was asked for and how long its commands took."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.last_accessed_at = 0.0
        self.making = 0.0

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: threading.Event) -> Iterator[Container]:
        """Notes the moment, then opens."""
        self.last_accessed_at = time.time()
        with self._runtime.open(spec, stop=stop) as container:
            yield _Timed(container, self._note)

    def _note(self, seconds: float) -> None:
        self.making += seconds

    def close(self) -> bool:
        """As the runtime does."""
        return self._runtime.close()

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """As the runtime does."""
        return self._runtime.sweep(keep=keep)

    def check(self) -> CheckResult:
        """As the runtime does."""
        return self._runtime.check()

    def check_registry(self) -> CheckResult:
        """As the runtime does."""
        return self._runtime.check_registry()


class _Timed:
    """A container whose commands are timed."""

    def __init__(self, container: Container, note: Callable[[float], None]) -> None:
        self._container = container
        self._note = note
        self.identity, self.workdir, self.warnings = container.identity, container.workdir, container.warnings
        self.origin = container.origin
        self.exists = container.exists
        self.read_bytes = container.read_bytes
        self.write_files = container.write_files
        self.collect = container.collect

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        started = time.perf_counter()
        try:
            return self._container.run(arguments, output=output, environment=environment, on_output=on_output)
        finally:
            self._note(time.perf_counter() - started)


def building(*, rounds: int) -> list[Figure]:
    """Builds of the sample distribution in the local runtime, one after the other."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        root = Path(name)
        world = write_distribution(root / "world")
        chosen: dict[str, object] = {
            "container_runtime": "local",
            "imagebuilder_path": world.template,
            "allow_unsandboxed": True,
        }
        to_container, share, told = _measured(root, world, chosen, rounds)
    return [
        Figure("POST to the first container call, idle worker", "ms", to_container, _POST_TO_CONTAINER_MS),
        Figure("finished in the database, told to the poller", "ms", told, _TOLD_MS),
        Figure("our share of a build, beside make's own calls", "s", share, _OUR_SHARE_SECONDS),
    ]


def building_in_podman(*, rounds: int) -> Iterator[Figure]:
    """The same in containers whose image is as large as that of a real ImageBuilder.

    Where Podman is missing or starts no container, the reason is printed in place of the figures.
    """
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name:
        root = Path(name)
        world = write_distribution(root / "world", archives=False)
        _inflate(world.imagebuilder(VERSION, TARGET))
        try:
            with own_podman(world) as (socket, registry):
                chosen: dict[str, object] = {
                    "container_runtime": "podman",
                    "container_socket_path": str(socket),
                    "imagebuilder_registry": registry,
                }
                _, share, _ = _measured(root, world, chosen, rounds)
        except (RuntimeError, FileNotFoundError) as reason:
            print(f"not measured in Podman: {reason}")
            return
    what = f"our share of a build in Podman, image of {_FULL_SIZE / 1e9:.1f} GB"
    yield Figure(what, "s", share, _OUR_SHARE_IN_PODMAN_SECONDS)


def _inflate(imagebuilder: Path) -> None:
    """Adds files until it is as large as a real one, in bytes and in files.

    Random bytes, cut from one block at another place each: a file system that compresses, or keeps
    equal blocks once, makes nothing of them, as it makes little of a real one's packages and programs.
    """
    block = random.Random(1).randbytes(1 << 24)
    size = _FULL_SIZE // _FULL_FILES
    folders = [imagebuilder / "staging_dir" / "inflated" / str(number) for number in range(_FOLDERS)]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for file in range(_FULL_FILES // _FOLDERS):
            start = (number * 7919 + file * 104_729) % (len(block) - size)
            (folder / str(file)).write_bytes(block[start : start + size])


def _measured(
    root: Path, world: Distribution, chosen: Mapping[str, object], rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds until a container is asked for, seconds beside the commands in it, milliseconds until a
    client hears of the end that polls all the time.
    """
    to_container, share, told = [], [], []
    with (
        DownloadServer(world.downloads) as upstream,
        _serving(root, upstream.url, chosen) as (port, watches),
    ):
        _build(port, "warming-up")
        (watch,) = watches
        for number in range(rounds):
            watch.making = 0.0
            posted = time.time()
            _build(port, f"round-{number}")
            told.append((time.time() - _finished_at(root)) * 1e3)
            share.append(_finished_at(root) - posted - watch.making)
            to_container.append((watch.last_accessed_at - posted) * 1e3)
    return to_container, share, told


def _finished_at(root: Path) -> float:
    """When the latest build was written down as done."""
    with closing(sqlite3.connect(f"file:{_database(root)}?mode=ro", uri=True)) as connection:
        ((finished,),) = connection.execute("SELECT max(finished_at) FROM build_jobs")
    return float(finished) / 1e6


def _database(root: Path) -> Path:
    return root / "data" / "bench.db"


@contextmanager
def _serving(
    root: Path, upstream: str, chosen: Mapping[str, object]
) -> Iterator[tuple[int, list[Stopwatch]]]:
    """The port of a service, and the runtime that it makes for its first build."""
    watches: list[Stopwatch] = []

    def watch(runtime: Runtime) -> Runtime:
        watches.append(Stopwatch(runtime))
        return watches[0]

    settings = Settings(
        database_path=_database(root),
        public_path=root / "public",
        upstream_url=upstream,
        build_network="none",
        allow_defaults=True,
        new_builds_limit="",
    )
    settings = replace(settings, **chosen)
    port = free_port()
    server = uvicorn.Server(server_config(assemble(settings, watch=watch).app, "127.0.0.1", port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(_SOON)
        yield port, watches
    finally:
        server.should_exit = True
        thread.join()


def ask_for_build(port: int, script: str) -> tuple[int, dict[str, str]]:
    """Asks for a build, which the script makes another one each time; the answer."""
    request = {"version": VERSION, "target": TARGET, "profile": "acme_small", "defaults": script}
    return _call(port, "POST", "/api/v1/build", json.dumps(request))


def _build(port: int, script: str) -> None:
    """One build to its end."""
    status, document = ask_for_build(port, script)
    path = f"/api/v1/build/{document['request_hash']}"
    while status == 202:
        time.sleep(_SOON)
        status, document = _call(port, "GET", path)
    if status != 200:
        raise SystemExit(f"a build failed: {document}")


def _call(port: int, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
