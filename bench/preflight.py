"""What it costs to foretell a selection: indexes of real size read once, then each answer.

CPU of the process that works it out and of the thread that asks it, beside nothing: both are compared with
milliseconds, because a worker's minute is what they save.
"""

import gzip
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from asu_builder.database.connection import Database
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.access import digest_of
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import CarriedPackages, Feasibility, PackageIndexes
from asu_builder.resolver.child import ChildResolver
from bench import load
from bench.figures import Figure, alternate
from bench.process import Server, cpu_seconds
from bench.sample import PROFILE, TARGET, VERSION, download_server
from bench.scenarios import seeded, service

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_PACKAGES = 2_100
_READING_BUDGET, _ANSWER_BUDGET = 150.0, 2.0
_REQUESTS = 100
_TOKEN = "of the benchmark"


def foretelling(*, rounds: int) -> Iterator[Figure]:
    """Recorded indexes and requests where they lie beside the repository, else made ones of their size."""
    for manager in PackageManager:
        known, requests = _recorded(manager) or _made(manager)
        reading, answering = [], []
        with closing(ChildResolver()) as resolver:
            resolver.resolve(_copy(known, "first"), requests[0])
            for number in range(rounds):
                fresh = _copy(known, str(number))
                reading.append(_spent(resolver, fresh, requests[:1]))
                answering.append(_spent(resolver, fresh, requests) / len(requests))
        yield Figure(f"indexes of a release read once, {manager}, CPU", "ms", reading, _READING_BUDGET)
        yield Figure(f"a selection foretold, {manager}, CPU", "ms", answering, _ANSWER_BUDGET)


def _spent(resolver: ChildResolver, known: PackageIndexes, requests: Sequence[Sequence[str]]) -> float:
    """CPU of both ends in milliseconds."""
    before = _cpu(resolver)
    for names in requests:
        resolver.resolve(known, names)
    return _cpu(resolver) - before


def _cpu(resolver: ChildResolver) -> float:
    """Milliseconds so far, of this process and of the one beside it."""
    nanoseconds = Path(f"/proc/{resolver.pid()}/schedstat").read_text().split()[0]
    return int(nanoseconds) / 1e6 + time.process_time() * 1e3


def _copy(known: PackageIndexes, mark: str) -> PackageIndexes:
    """The same under other digests, so that they are read again."""
    indexes = tuple(
        PackageIndex(index.name, index.address, f"{mark}-{index.digest}"[:64], index.manager, index.read)
        for index in known.indexes
    )
    return PackageIndexes(known.manager, indexes)


def _recorded(manager: PackageManager) -> tuple[PackageIndexes, list[list[str]]] | None:
    sys.path.append(str(_TESTS))
    from recorded_indexes import recorded_indexes, recorded_verdicts

    try:
        return recorded_indexes(manager), [one["request"] for one in recorded_verdicts(manager)[:_REQUESTS]]
    except FileNotFoundError:
        return None


def _made(manager: PackageManager) -> tuple[PackageIndexes, list[list[str]]]:
    """Each package needs three of those before it; requests name a dozen."""
    from adb_writer import index, package, packages_text
    from recorded_indexes import index_of

    chance = random.Random(1)
    needs = {
        f"package-{number}": [f"package-{number // divisor}" for divisor in (2, 3, 5)]
        for number in range(1, _PACKAGES)
    }
    if manager is PackageManager.APK:
        data = index(
            *(
                package(
                    name=name,
                    version="1.0-r1",
                    depends=[[other] for other in dict.fromkeys(others) if other in needs and other != name],
                    provides=[[f"{name}-any"]],
                )
                for name, others in needs.items()
            )
        )
    else:
        data = packages_text(
            *(
                {
                    "Package": name,
                    "Version": "1.0-r1",
                    "Architecture": "all",
                    "Depends": ", ".join(other for other in others if other in needs) or name,
                }
                for name, others in needs.items()
            )
        )
    known = PackageIndexes(manager, (index_of("made", data, manager),))
    return known, [chance.sample(sorted(needs), 12) for _ in range(_REQUESTS)]


def submitting(*, rounds: int) -> Iterator[Figure]:
    """A new request each time, judged by indexes of real size before it is entered, and one that is not."""
    known, requests = _recorded(PackageManager.OPKG) or _made(PackageManager.OPKG)
    with closing(ChildResolver()) as resolver:
        fine = [names for names in requests if resolver.resolve(known, names).verdict is Feasibility.FINE]
    texts = [_unpacked(index.read() or b"") for index in known.indexes]
    base, own = (
        f"/releases/{VERSION}/packages/mips_24kc/base",
        f"/releases/{VERSION}/targets/{TARGET}/packages",
    )
    carried = b"".join(
        f"Package: {name}\nVersion: {version}\nArchitecture: x86_64\n\n".encode()
        for name, version in {"base-files": "1", "libc": "1", "kernel": "1"}.items()
        if not any(b"Package: %b\n" % name.encode() in text for text in texts)
    )
    files = {
        f"{base}/Packages": b"\n".join(texts),
        f"{own}/Packages": b"Package: own\nVersion: 1\nArchitecture: all\n\n",
    }
    tokens = json.dumps([{"name": "bench", "digest": digest_of(_TOKEN), "rights": ["read"]}])
    with ExitStack() as opened:
        upstream = opened.enter_context(download_server(files))
        repositories = (f"{upstream}{base}", f"{upstream}{own}", "file:packages")
        learnt = CarriedPackages("1", "r28959-29397011cc", PackageManager.OPKG, carried, repositories)
        measures = {}
        for mode in ("enforce", "off"):
            folder = opened.enter_context(seeded())
            with closing(Database(folder / "bench.db")) as database:
                SqlPreflightRecords(database).learn(f"releases/{VERSION}", TARGET, learnt)
            server = opened.enter_context(
                service(folder, workers=0, upstream=upstream, preflight=mode, api_tokens=tokens)
            )
            bodies = (
                _body(names, rootfs_size_mb=size) for size, names in itertools.product(range(1, 1024), fine)
            )
            _post(server, bodies, 20)
            report = load.run(server.port, iter([_body(["no-such-package"])]), connections=1)
            expected = {"enforce": {500: 1}, "off": {202: 1}}[mode]
            if report.statuses != expected:
                raise SystemExit(
                    f"With preflight={mode} an impossible request was answered {report.statuses}."
                )
            measures[mode] = partial(_post, server, bodies, _REQUESTS)
        spent = alternate(rounds, measures)
    more = [judged - plain for judged, plain in zip(spent["enforce"], spent["off"], strict=True)]
    yield Figure("new POST that is judged by the indexes, CPU more", "ms", more, _ANSWER_BUDGET)


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _post(server: Server, bodies: Iterator[bytes], count: int) -> float:
    """CPU milliseconds of the service and its child for each of so many new requests."""
    requests = [*itertools.islice(bodies, count)]
    before = cpu_seconds(server.pid)
    report = load.run(server.port, iter(requests), connections=1)
    if report.statuses != {202: count}:
        raise SystemExit(f"New requests were answered {report.statuses}.")
    return (cpu_seconds(server.pid) - before) / count * 1e3


def _body(packages: Sequence[str], **more: object) -> bytes:
    request = {"version": VERSION, "target": TARGET, "profile": PROFILE, "packages": packages, **more}
    return load.post("/api/v1/build", json.dumps(request).encode(), token=_TOKEN)
