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
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import uvicorn
from msgspec.structs import replace

from asu_builder.app import assemble
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import Traffic
from asu_builder.domain.make import (
    INFO_ARGUMENTS,
    CommandResult,
    ContainerSpec,
    OutputCallback,
    make_arguments,
)
from asu_builder.domain.release import parse_release
from asu_builder.http.server import server_config
from asu_builder.ports import Container, Runtime
from asu_builder.settings import Settings
from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from bench.figures import Figure, Yardstick
from bench.process import free_port
from bench.worlds import TARGET, VERSION, own_podman

_POST_TO_CONTAINER_MS = 50
_TOLD_MS = 20
_OUR_SHARE_SECONDS = 0.3
_OF_THREE_CALLS = 0.75
_FULL_SIZE, _FULL_FILES, _FOLDERS = 1_500_000_000, 60_000, 300
"""What an unpacked ImageBuilder has."""
_SOON = 0.002
_PROFILE = "acme_small"


class Stopwatch:
    """A runtime that notes when a container was asked for and how long its commands took."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.last_accessed_at = 0.0
        self.making = 0.0
        self.calls = 0

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: threading.Event) -> Iterator[Container]:
        """Notes the moment, then opens."""
        self.last_accessed_at = time.time()
        with self._runtime.open(spec, stop=stop) as container:
            yield _Timed(container, self._note)

    def _note(self, seconds: float) -> None:
        self.making += seconds
        self.calls += 1

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: threading.Event) -> int:
        """As the runtime does."""
        return self._runtime.make_ready(specs, warm=warm, stop=stop)

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
        self.is_proxied = container.is_proxied
        self.allow = container.allow

    @property
    def traffic(self) -> Traffic | None:
        """As the container has it, at the end."""
        return self._container.traffic

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
        with DownloadServer(world.downloads) as upstream:
            found = _measured(root, upstream.url, chosen, rounds)
    three_calls = Yardstick("three bare calls", found.three_calls)
    return [
        Figure(
            "POST to the first container call, idle worker", "ms", found.to_container, _POST_TO_CONTAINER_MS
        ),
        Figure("finished in the database, told to the poller", "ms", found.told, _TOLD_MS),
        Figure("our share of a build, beside make's own call", "s", found.share, _OUR_SHARE_SECONDS),
        Figure("a build in one pass", "s", found.whole, _OF_THREE_CALLS, three_calls),
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
                with DownloadServer(world.downloads) as upstream:
                    found = _measured(root, upstream.url, chosen, rounds)
        except (RuntimeError, FileNotFoundError) as reason:
            print(f"not measured in Podman: {reason}")
            return
    what = f"our share of a build in Podman, image of {_FULL_SIZE / 1e9:.1f} GB"
    yield Figure(what, "s", found.share, _OUR_SHARE_SECONDS)
    yield Figure(
        "a build in Podman in one pass",
        "s",
        found.whole,
        _OF_THREE_CALLS,
        Yardstick("three bare calls", found.three_calls),
    )


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


class _Found(NamedTuple):
    """A value per round."""

    to_container: list[float]
    """Milliseconds until a container is asked for."""
    share: list[float]
    """Seconds of a build beside the commands in its container."""
    told: list[float]
    """Milliseconds until a client hears of the end that polls all the time."""
    whole: list[float]
    """Seconds from the POST to the result in the database."""
    three_calls: list[float]
    """Seconds of the same images by `make info`, `make manifest` and `make image`, without a service."""


def _measured(root: Path, upstream: str, chosen: Mapping[str, object], rounds: int) -> _Found:
    """Builds in one pass, and three bare calls after each in the same runtime."""
    found = _Found([], [], [], [], [])
    with serving(root, upstream, chosen) as (port, watches):
        # The first build teaches what its ImageBuilder brings along.
        for name in ("learning", "warming-up"):
            build(port, defaults=name)
        (watch,) = watches
        for number in range(rounds):
            watch.making, watch.calls = 0.0, 0
            posted = time.time()
            build(port, defaults=f"round-{number}")
            finished = finished_at(root)
            if watch.calls != 1:
                raise SystemExit(f"a build made {watch.calls} calls")
            found.told.append((time.time() - finished) * 1e3)
            found.whole.append(finished - posted)
            found.share.append(finished - posted - watch.making)
            found.to_container.append((watch.last_accessed_at - posted) * 1e3)
            found.three_calls.append(_three_calls(watch, root / f"bare-{number}"))
    return found


def _three_calls(runtime: Stopwatch, output: Path) -> float:
    """Seconds that a container with three calls of make takes, until its files are here."""
    goals: tuple[Literal["manifest", "image"], ...] = ("manifest", "image")
    since = time.perf_counter()
    spec = ContainerSpec(parse_release(VERSION), TARGET, timedelta(minutes=5))
    with runtime.open(spec, stop=threading.Event()) as container:
        bin_dir = f"{container.workdir}/bare"
        calls = [make_arguments(goal, _PROFILE, (), bin_dir=bin_dir) for goal in goals]
        for number, arguments in enumerate((INFO_ARGUMENTS, *calls)):
            folder = output / str(number)
            folder.mkdir(parents=True)
            result = container.run(arguments, output=folder)
            if result.exit_code:
                raise SystemExit(f"make failed: {result.stderr.read_text()}")
        container.collect(bin_dir, output)
    return time.perf_counter() - since


def finished_at(root: Path) -> float:
    """When the latest build was written down as done."""
    with closing(sqlite3.connect(f"file:{_database(root)}?mode=ro", uri=True)) as connection:
        ((finished,),) = connection.execute("SELECT max(finished_at) FROM build_jobs")
    return float(finished) / 1e6


def _database(root: Path) -> Path:
    return root / "data" / "bench.db"


@contextmanager
def serving(root: Path, upstream: str, chosen: Mapping[str, object]) -> Iterator[tuple[int, list[Stopwatch]]]:
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


def ask_for_build(port: int, **fields: object) -> tuple[int, dict[str, str]]:
    """Asks for a build, which its fields make another one each time; the answer."""
    request = {"version": VERSION, "target": TARGET, "profile": _PROFILE, **fields}
    return _call(port, "POST", "/api/v1/build", json.dumps(request))


def build(port: int, **fields: object) -> None:
    """One build to its end."""
    status, document = ask_for_build(port, **fields)
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
