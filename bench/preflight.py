"""What it costs to foretell a selection: indexes of real size read once, then each answer.

CPU of the process that works it out and of the thread that asks it, beside nothing: both are compared with
milliseconds, because a worker's minute is what they save.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.preflight import PackageIndexes
from asu_builder.resolver.child import ChildResolver
from bench.figures import Figure

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_PACKAGES = 2_100
_READING_BUDGET, _ANSWER_BUDGET = 150.0, 2.0
_REQUESTS = 100


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
