"""`python -m bench`: prints what the service costs, with spread and budgets (docs/performance.md)."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from urllib.parse import urlsplit

from bench import (
    builds,
    cluster,
    downloads,
    hanging,
    hostile,
    idle_watchers,
    kept,
    load,
    mixed,
    package_cache,
    pages,
    polls,
    positions,
    preflight,
    scenarios,
    signing,
    soak,
    statistics,
    store,
    watchers,
    wire,
)
from bench.figures import Figure, render_head, render_line
from bench.process import Server


def main() -> int:
    """Prints every figure as soon as it is known; 1 with `--strict` when a budget is missed."""
    options = _options()
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    print(render_head())
    missed = 0
    for figure in _figures(options):
        print(render_line(figure), flush=True)
        missed += figure.missed
    print(f"{missed} budgets missed" if missed else "every budget kept")
    return 1 if missed and options.strict else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "scenario",
        nargs="?",
        choices=("figures", *_DEFAULT, *_LONG),
        default="figures",
        help=f"what to measure (figures: {', '.join(_DEFAULT)})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds per figure (5)")
    parser.add_argument("--requests", type=int, default=20_000, help="requests per round (20000)")
    parser.add_argument("--finished-jobs", type=int, default=100_000, help="rows of the full table (100000)")
    parser.add_argument("--builds", type=int, help="builds of a soak (10000, in Podman 200)")
    parser.add_argument("--seconds", type=float, default=mixed.SECONDS, help="length of a mixed load (60)")
    parser.add_argument("--paced-seconds", type=float, default=8.0, help="length of a paced load (8)")
    parser.add_argument(
        "--watched-seconds",
        type=float,
        default=kept.WATCHED_SECONDS,
        help=f"how long a service that keeps results is watched after its start ({kept.WATCHED_SECONDS})",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it works")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a budget is missed")
    parser.add_argument("--url", help="a running service on this host, instead of one of our own")
    parser.add_argument(
        "--path", default="/api/v1/stats", help="what to ask of it, for example a finished build"
    )
    parser.add_argument("--pid", type=int, help="its process, to know what it spends")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests, options.finished_jobs = 1, 500, 500
        options.paced_seconds, options.watched_seconds = 2.0, 5.0
    return options


def _figures(options: argparse.Namespace) -> Iterable[Figure]:
    if options.url:
        return _running(options)
    if options.scenario == "figures":
        return chain.from_iterable(measure(options) for measure in _DEFAULT.values())
    return (_DEFAULT | _LONG)[options.scenario](options)


def _enqueueing(options: argparse.Namespace) -> Iterator[Figure]:
    enqueueing = partial(scenarios.enqueueing, rounds=options.rounds)
    yield enqueueing(connections=1, finished_jobs=0, budget=13)
    for finished_jobs in (0, options.finished_jobs):
        yield enqueueing(connections=16, finished_jobs=finished_jobs, budget=10)
        yield enqueueing(connections=16, finished_jobs=finished_jobs, packages=150)
    yield enqueueing(connections=16, finished_jobs=options.finished_jobs, budget=13, rested=False)


def _running(options: argparse.Namespace) -> Iterator[Figure]:
    server = Server(options.pid or os.getpid(), urlsplit(options.url).port or 80)
    rounds = [
        scenarios.cost(server, [load.get(options.path)], count=options.requests)
        for _ in range(options.rounds)
    ]
    if options.pid:
        yield Figure(f"GET {options.path[:40]}, CPU", "µs", [cpu for cpu, _ in rounds])
    yield Figure(f"GET {options.path[:40]}, p99", "ms", [report.p99 * 1e3 for _, report in rounds])


_DEFAULT: dict[str, Callable[[argparse.Namespace], Iterable[Figure]]] = {
    "answers": lambda options: scenarios.finished_answers(rounds=options.rounds, count=options.requests),
    "polls": lambda options: polls.polling(rounds=options.rounds, seconds=options.paced_seconds),
    "asking": lambda options: polls.asking(rounds=options.rounds, count=options.requests // 4),
    "positions": lambda options: positions.standing(rounds=options.rounds),
    "preflight": lambda options: chain(
        preflight.foretelling(rounds=options.rounds), preflight.submitting(rounds=options.rounds)
    ),
    "signing": lambda options: signing.signing(rounds=4 * options.rounds),
    "enqueue": _enqueueing,
    "wire": lambda options: wire.wiring(rounds=options.rounds, count=options.requests // 4),
    "start": lambda options: scenarios.starting(rounds=options.rounds),
    "storm": lambda options: scenarios.storm(),
    "downloads": lambda options: downloads.downloading(rounds=options.rounds),
    "memory-of-watchers": lambda options: idle_watchers.idling(rounds=options.rounds, cpu=False),
    "kept": lambda options: kept.keeping(
        rounds=options.rounds, results=options.finished_jobs, seconds=options.watched_seconds
    ),
    "first-container": lambda options: builds.building(rounds=options.rounds),
}
"""What runs unless something else is asked for; each may be asked for alone."""
_LONG: dict[str, Callable[[argparse.Namespace], Iterable[Figure]]] = {
    "cluster": lambda options: cluster.clustering(
        rounds=options.rounds, count=options.requests, finished_jobs=options.finished_jobs
    ),
    "soak": lambda options: soak.soaking(builds=options.builds or soak.FAKED),
    "soak-podman": lambda options: soak.soaking_in_podman(builds=options.builds or soak.REAL),
    "builds": lambda options: chain(
        builds.building(rounds=options.rounds),
        builds.building_in_podman(rounds=options.rounds),
        package_cache.building_again(rounds=options.rounds),
    ),
    "hostile": lambda options: chain(hanging.asking_upstream(), hostile.attacking()),
    "pages": lambda options: pages.paging(rounds=options.rounds, finished_jobs=options.finished_jobs),
    "mixed": lambda options: mixed.mixing(seconds=options.seconds),
    "statistics": lambda options: statistics.counting(
        rounds=options.rounds, finished_jobs=options.finished_jobs
    ),
    "store": lambda options: store.storing(rounds=options.rounds),
    "watchers": lambda options: watchers.watching(pairs=options.rounds),
    "idle-watchers": lambda options: idle_watchers.idling(rounds=options.rounds),
    "mixed-podman": lambda options: mixed.mixing_in_podman(seconds=options.seconds),
}
"""What runs only when it is asked for: it takes minutes."""


if __name__ == "__main__":
    sys.exit(main())
