"""Hostile questions about upstream: hanging documents, invented names, more documents than fit."""

import contextlib
import itertools
import json
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from asu_sample.distribution import write_distribution
from asu_sample.server import DownloadServer
from bench import load
from bench.figures import Figure
from bench.process import resident_bytes
from bench.worlds import TARGET, VERSION, World, service

_TESTS = Path(__file__).parents[1] / "tests"
_HANGING = 60
_INVENTED = 10_000
_DOCUMENTS = 2000
_NEIGHBOUR = 500
_GREEDY = "127.0.0.2"
"""Who asks for what hangs; the neighbours come from another address."""


@contextlib.contextmanager
def _world(
    folder: Path, *, workers: int = 0, documents: int = _DOCUMENTS
) -> Iterator[tuple[World, DownloadServer]]:
    """A service over a mirror of many targets; of the first sixty no document ever comes."""
    sys.path.append(str(_TESTS))
    from hanging_server import HangingServer

    world = write_distribution(folder / "world", archives=False)
    base = world.downloads / "releases" / VERSION
    names = [f"hang/t{number}" for number in range(_HANGING)]
    names += [f"real/t{number}" for number in range(documents)]
    listed = json.loads((base / ".targets.json").read_text())
    (base / ".targets.json").write_text(json.dumps(listed | dict.fromkeys(names, "pico_9kc")))
    text = (base / "targets" / TARGET / "profiles.json").read_text()
    padded = json.dumps({**json.loads(text), "padding": "x" * 60_000})
    for name in names[_HANGING:]:
        (base / "targets" / name).mkdir(parents=True)
        (base / "targets" / name / "profiles.json").write_text(padded)
    with HangingServer(world.downloads) as upstream:
        upstream.hang(f"/releases/{VERSION}/targets/hang/")
        settings = {
            "ASU_UPSTREAM_URL": upstream.url,
            "ASU_CONTAINER_RUNTIME": "local",
            "ASU_IMAGEBUILDER_PATH": world.template,
            "ASU_ALLOW_UNSANDBOXED": "true",
            "ASU_WORKER_CONCURRENT": str(workers),
            "ASU_LOOK_UPS_LIMIT": "",
        }
        with service(folder, "asu_builder", "serve", settings=settings) as running:
            yield running, upstream


def asking_upstream() -> Iterator[Figure]:
    """Each beside polls and POSTs of a known target by somebody else."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name, _world(Path(name)) as (world, upstream):
        port = world.server.port
        body = {"version": VERSION, "target": TARGET, "profile": "acme_small"}
        known: list[str] = []
        load.run(
            port,
            iter([load.post("/api/v1/build", json.dumps(body).encode())]),
            connections=1,
            heard=lambda _, __, answer: known.append(json.loads(answer)["request_hash"]),
        )
        numbers = itertools.count()
        alone = _neighbour(port, known[0], body, numbers)
        hanging = (
            load.get(f"/json/v1/releases/{VERSION}/targets/hang/t{number}/index.json")
            for number in range(_HANGING)
        )
        with _beside(port, hanging, connections=_HANGING):
            time.sleep(1.0)
            beside = _neighbour(port, known[0], body, numbers)
            fresh = {"version": VERSION, "target": "real/t0", "profile": "acme_small"}
            first = load.run(
                port, iter([load.post("/api/v1/build", json.dumps(fresh).encode())]), connections=1
            )
        fresh["target"] = "real/t1"
        first_alone = load.run(
            port, iter([load.post("/api/v1/build", json.dumps(fresh).encode())]), connections=1
        )
        yield from _compared("60 hanging targets beside", alone, beside)
        yield Figure("the same, first POST of a new target", "ms", [first.latencies[0] * 1e3])
        yield Figure("a first POST of a new target alone", "ms", [first_alone.latencies[0] * 1e3])
        yield from _inventing(world, upstream)
        yield from _filling(world)
    seconds = [_first_build(beside=False) for _ in range(3)]
    yield Figure("first build of a target on a fresh server, alone", "s", seconds)
    budget = 1.5 * statistics.median(seconds)
    seconds = [_first_build(beside=True) for _ in range(3)]
    yield Figure("60 hanging targets beside, the same", "s", seconds, budget)


def _first_build(*, beside: bool) -> float:
    """Seconds from the POST to the images, of a target that nobody has asked for."""
    with (
        tempfile.TemporaryDirectory(prefix="asu-bench-") as name,
        _world(Path(name), workers=1, documents=0) as (world, _),
    ):
        port = world.server.port
        hanging = (
            load.get(f"/json/v1/releases/{VERSION}/targets/hang/t{number}/index.json")
            for number in range(_HANGING if beside else 0)
        )
        with _beside(port, hanging, connections=_HANGING if beside else 0):
            time.sleep(1.0)
            return _build(port)


def _build(port: int) -> float:
    """Seconds of one build, looked at every 20 ms."""
    body = json.dumps({"version": VERSION, "target": TARGET, "profile": "acme_small"}).encode()
    answers: list[tuple[int, dict[str, str]]] = []

    def heard(_: bytes, status: int, answer: bytes) -> None:
        answers.append((status, json.loads(answer)))

    began = time.perf_counter()
    load.run(port, iter([load.post("/api/v1/build", body)]), connections=1, heard=heard)
    while answers[-1][0] == 202:
        time.sleep(0.02)
        poll = load.get(f"/api/v1/build/{answers[-1][1]['request_hash']}")
        load.run(port, iter([poll]), connections=1, heard=heard)
    if answers[-1][0] != 200:
        raise SystemExit(f"a build failed: {answers[-1][1]}")
    return time.perf_counter() - began


def _inventing(world: World, upstream: DownloadServer) -> Iterator[Figure]:
    before, rows = resident_bytes(world.server.pid), _stored(world)[0]
    names = (
        load.get(f"/api/v1/revision/{VERSION}/no/t{number}")
        if number % 2
        else load.get(f"/json/v1/releases/{VERSION}/targets/no/t{number}/index.json")
        for number in range(_INVENTED)
    )
    report = load.run(world.server.port, names, connections=16)
    yield Figure("10,000 invented names, p99 of their answers", "ms", [report.p99 * 1e3])
    yield Figure("the same, requests to upstream that named one", "", [_named(upstream)], 0)
    yield Figure("the same, rows more", "", [_stored(world)[0] - rows], 0)
    yield Figure("the same, memory more", "MiB", [(resident_bytes(world.server.pid) - before) / 2**20], 40)


def _named(upstream: DownloadServer) -> int:
    return sum(count for path, count in upstream.requests.items() if "/no/t" in path)


def _filling(world: World) -> Iterator[Figure]:
    before = resident_bytes(world.server.pid)
    names = (load.get(f"/api/v1/revision/{VERSION}/real/t{number}") for number in range(_DOCUMENTS))
    report = load.run(world.server.port, names, connections=16)
    yield Figure("2,000 real documents, answered", "", [report.statuses[200]])
    yield Figure("the same, stored", "MiB", [_stored(world)[1] / 2**20], 68)
    yield Figure("the same, memory more", "MiB", [(resident_bytes(world.server.pid) - before) / 2**20], 40)


def _neighbour(port: int, known: str, body: dict[str, str], numbers: Iterator[int]) -> list[load.Report]:
    """Polls, and different POSTs for a known target."""
    polls = load.run(port, itertools.repeat(load.get(f"/api/v1/build/{known}"), _NEIGHBOUR), connections=1)
    posts = (
        load.post("/api/v1/build", json.dumps({**body, "packages": [f"p{next(numbers)}"]}).encode())
        for _ in range(_NEIGHBOUR // 5)
    )
    return [polls, load.run(port, posts, connections=1)]


def _compared(what: str, alone: list[load.Report], beside: list[load.Report]) -> Iterator[Figure]:
    for kind, before, after in zip(("polls", "POSTs"), alone, beside, strict=True):
        middle = _median(before)
        yield Figure(f"{kind} alone, median", "ms", [middle * 1e3])
        yield Figure(f"{what}, {kind}, median", "ms", [_median(after) * 1e3], 1.5 * middle * 1e3)
        yield Figure(f"{what}, {kind}, p99", "ms", [after.p99 * 1e3], 100)


def _median(report: load.Report) -> float:
    return sorted(report.latencies)[len(report.latencies) // 2]


@contextlib.contextmanager
def _beside(port: int, requests: Iterator[bytes], *, connections: int) -> Iterator[None]:
    thread = threading.Thread(
        target=lambda: load.run(port, requests, connections=connections, source=_GREEDY), daemon=True
    )
    thread.start()
    yield
    thread.join(60)


def _stored(world: World) -> tuple[int, int]:
    with contextlib.closing(sqlite3.connect(world.database)) as connection:
        count, size = connection.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM upstream_documents"
        ).fetchone()
    return int(count), int(size)
