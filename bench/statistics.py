"""What the page of statistics costs with 100,000 finished builds and 300,000 events."""

import random
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from asu_builder.core.statistics import PERIODS, Charts
from asu_builder.database.connection import Database
from asu_builder.database.retention import SqlRetention
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import JobState, Stage
from asu_builder.domain.request import BuildRequest
from asu_builder.http.pages.statistics import draw_statistics
from bench.figures import Figure, Yardstick, alternate
from bench.pages import BUDGET, say_hello
from bench.sample import PROFILE, TARGET, seed
from bench.yardsticks import hello

EVENTS = 300_000
_DAYS = 90
_REQUESTS = 2000
_NAMES = [f"package-number-{number}" for number in range(2000)]
_KINDS = ("request", "completed", "cache_hit", "failed")
_SHARES = (34, 28, 32, 6)


def counting(*, rounds: int, finished_jobs: int) -> Iterator[Figure]:
    """The whole view, charts drawn, on a database that was just opened; nothing is remembered."""
    with tempfile.TemporaryDirectory(prefix="asu-bench-") as name, hello() as raw:
        seed(Path(name), finished_jobs=finished_jobs)
        _fill(Path(name) / "bench.db")
        for days in PERIODS:
            view = partial(_view, Path(name) / "bench.db", days)
            spent = alternate(rounds, {"view": view, "hello": partial(say_hello, raw)})
            known = Yardstick("raw hello", spent["hello"])
            yield Figure(
                f"statistics of {days} days, {EVENTS} events, CPU", "ms", spent["view"], BUDGET, known
            )


def _view(path: Path, days: int) -> float:
    database = Database(path)
    charts = Charts(SqlStatistics(database, now=_now), now=_now)
    began = time.process_time()
    draw_statistics(charts, days)
    spent = time.process_time() - began
    database.close()
    return spent * 1e3


def _fill(path: Path) -> None:
    """Events as the service records them, day by day, with fifteen versions and every reason to fail."""
    chance = random.Random(7)
    database = Database(path)
    at = _now()
    statistics = SqlStatistics(database, now=lambda: at)
    requests = [_request(chance) for _ in range(_REQUESTS)]
    stages = (JobState.PENDING, *Stage, JobState.BUILDING)
    for day in range(_DAYS - 1, -1, -1):
        at = _now() - timedelta(days=day)
        for kind in chance.choices(_KINDS, _SHARES, k=EVENTS // _DAYS):
            reason = chance.choice(list(FailureReason)) if kind == "failed" else ""
            statistics.record(kind, chance.choice(requests), client="owut/1", reason=reason)  # type: ignore[arg-type]
        for stage in stages * 100:
            statistics.record_duration(stage, timedelta(seconds=chance.lognormvariate(1, 1)))
        statistics.flush()
    # As housekeeping does once an hour.
    SqlRetention(database).forget_statistics(older_than=timedelta(days=400))
    database.close()


def _request(chance: random.Random) -> BuildRequest:
    names = dict.fromkeys(_NAMES[int(len(_NAMES) * chance.random() ** 3)] for _ in range(40))
    version = f"24.10.{chance.randrange(15)}"
    return BuildRequest(version, TARGET, PROFILE, packages=tuple(names), diff_packages=chance.random() < 0.7)


def _now() -> datetime:
    return datetime.now(UTC)
