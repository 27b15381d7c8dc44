"""What places in the queue cost: of one job that waits, and of all that many clients poll, in one look.

In this process, as CPU time, beside a look-up by primary key on a connection of the same database.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from asu_builder.database.connection import Database
from asu_builder.database.queue import SqlJobQueue
from asu_builder.domain.job import Entry, Submission
from asu_builder.domain.request import BuildRequest, request_hash
from bench.figures import Figure, Yardstick, alternate
from bench.sample import TARGET

_LENGTHS = {200: 5.0, 2_000: 5.0, 20_000: 5.0}
"""How many jobs wait, and how many look-ups the position of one may cost."""
_POLLED, _POLLED_BUDGET = 200, 60.0
_CALLERS = 250
_AT_ONCE = 1000
_TIMES = 30


def standing(*, rounds: int) -> Iterator[Figure]:
    """The position of the last job in queues of each length; then 200 standings of the longest queue.

    Before each of these looks a job gets another place, as in a service that works.
    """
    with (
        tempfile.TemporaryDirectory(prefix="asu-bench-") as name,
        closing(Database(Path(name) / "bench.db")) as database,
    ):
        queue = SqlJobQueue(database)
        jobs: dict[str, int] = {}
        for length, budget in _LENGTHS.items():
            jobs |= _enqueue(queue, range(len(jobs), length))
            last = max(jobs.values(), key=queue.position)
            looks = {
                "position": partial(_spend, database, partial(queue.position, last)),
                "look-up": partial(_spend, database, partial(_look_up, database, last)),
            }
            values = alternate(rounds, looks)
            yardstick = Yardstick("look-up", values["look-up"])
            yield Figure(
                f"position of the last of {length:,}, CPU", "µs", values["position"], budget, yardstick
            )
        polled = random.Random(1).sample(sorted(jobs), _POLLED)
        looks["standings"] = partial(_spend, database, partial(queue.standings, polled))
        values = alternate(rounds, looks)
        yield Figure(
            f"one look for {_POLLED} polled of {len(jobs):,}, CPU",
            "µs",
            values["standings"],
            _POLLED_BUDGET,
            Yardstick("look-up", values["look-up"]),
        )


def _enqueue(queue: SqlJobQueue, numbers: range) -> dict[str, int]:
    """New jobs of many callers; the id of each hash."""
    jobs = {}
    for begin in range(numbers.start, numbers.stop, _AT_ONCE):
        submissions = []
        for number in range(begin, min(begin + _AT_ONCE, numbers.stop)):
            request = BuildRequest("24.10.5", TARGET, "vendor_router", packages=(f"package-{number}",))
            caller = f"192.0.2.{number * 7919 % _CALLERS}"
            submissions.append(Submission(request, request_hash(request), "bench", caller))
        for entry in queue.submit_all(submissions):
            assert isinstance(entry, Entry)
            jobs[entry.job.request_hash] = entry.job.id
    return jobs


def _look_up(database: Database, job_id: int) -> None:
    with database.reading() as connection:
        connection.execute("SELECT state FROM build_jobs WHERE id = ?", (job_id,)).fetchone()


def _spend(database: Database, look: Callable[[], object]) -> float:
    """CPU of one look in microseconds."""
    spent = 0.0
    for _ in range(_TIMES):
        with database.writing() as connection:
            connection.execute("UPDATE build_jobs SET deprioritized = NOT deprioritized WHERE id = 1")
        before = time.thread_time()
        look()
        spent += time.thread_time() - before
    return spent / _TIMES * 1e6
