"""Where jobs stand: their states, and how many wait ahead of each.

To count what is ahead costs as much as there is. So the queue is also held in memory, in its order, and
before each look takes in the moves that the database has noted since: docs/decisions/the-queue-in-memory.md.
"""

import threading
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, json

from asu_builder.database.dialect import Connection
from asu_builder.database.rows import moment
from asu_builder.domain.job import JobState, Stage, Standing

ANSWERS = "(job.state IN ('pending', 'building') OR job.expires_at > :now)"
"""What answers for its hash: anything live, and what is final and not past its time."""

NEWEST_ID = (
    f"SELECT job.id FROM build_jobs AS job WHERE job.request_hash = :hash AND {ANSWERS}"
    " ORDER BY job.id DESC LIMIT 1"
)
"""Of one hash the newest job that answers; read in its index alone."""

OUTDATED = f"""
    SELECT min(job.expires_at),
           group_concat(CASE WHEN job.id = CAST(wanted.value AS BIGINT) THEN NULL ELSE wanted.key END)
      FROM json_each(:ids) AS wanted LEFT JOIN build_jobs AS job
        ON job.id = (SELECT job.id FROM build_jobs AS job
                      WHERE job.request_hash = wanted.key AND {ANSWERS} ORDER BY job.id DESC LIMIT 1)
"""
"""Of hashes with ids of jobs those that another job answers, or none; and when the first one expires."""

NEWEST = f"""
    SELECT job.request_hash, job.id, job.state, job.stage, job.expires_at, job.started_at
      FROM json_each(:hashes) AS wanted CROSS JOIN build_jobs AS job
     WHERE job.id = (SELECT job.id FROM build_jobs AS job
                      WHERE job.request_hash = wanted.value AND {ANSWERS} ORDER BY job.id DESC LIMIT 1)
"""
"""Of each hash the newest job that answers."""

# A descending column among ascending ones makes a comparison of rows no range of an index. So what is ahead
# is counted column by column, equal in those before, earlier in this one: four ranges of build_jobs_order.
AHEAD = """
    SELECT (SELECT count(*) FROM build_jobs WHERE state = 'pending' AND deprioritized < mine.deprioritized)
         + (SELECT count(*) FROM build_jobs WHERE state = 'pending' AND deprioritized = mine.deprioritized
               AND priority > mine.priority)
         + (SELECT count(*) FROM build_jobs WHERE state = 'pending' AND deprioritized = mine.deprioritized
               AND priority = mine.priority AND fair_start < mine.fair_start)
         + (SELECT count(*) FROM build_jobs WHERE state = 'pending' AND deprioritized = mine.deprioritized
               AND priority = mine.priority AND fair_start = mine.fair_start AND id < mine.id)
      FROM build_jobs AS mine WHERE mine.id = ?
"""

_MOST_MOVES = 500
"""More are caught up with by reading the whole queue."""
KEPT_MOVES = 5000
FORGET_MOVES = f"DELETE FROM queue_moves WHERE seq <= (SELECT max(seq) FROM queue_moves) - {KEPT_MOVES}"
_WAITING = "job.id, job.request_hash, job.deprioritized, job.priority, job.fair_start, job.started_at"
ALL_WAITING = f"SELECT {_WAITING} FROM build_jobs AS job WHERE job.state = 'pending'"
MOVES = f"""
    SELECT move.seq, move.job_id, {_WAITING} FROM queue_moves AS move
      LEFT JOIN build_jobs AS job ON job.id = move.job_id AND job.state = 'pending'
     WHERE move.seq >= ? ORDER BY move.seq LIMIT ?
"""
"""From a move on, each with its job as it waits now, whatever moved it since."""


def count_ahead(connection: Connection, job_id: int) -> int:
    """How many waiting jobs are before this one, as this connection sees it; 0 for one that is not there."""
    row = connection.execute(AHEAD, (job_id,)).fetchone()
    return int(row[0]) if row else 0


class _Waiting(Struct, frozen=True, gc=False):
    request_hash: str
    place: int
    """Orders those that wait: deprioritized, priority, fair-queue start and id in one number."""
    started_at: int | None


class WaitingJobs:
    """Those that wait, in order, in memory. For any thread, with a separate connection.

    No transaction that has read before may use it, because it may be older than what is here, and none
    that writes, because what is rolled back would stay.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[int, _Waiting] = {}
        self._ids: dict[str, int] = {}
        self._places: list[int] = []
        self._seen: int | None = None
        """The last move that is in here; None when all has to be read."""

    def count(self, connection: Connection) -> int:
        """How many wait."""
        with self._lock:
            self._catch_up(connection)
            return len(self._places)

    def ahead(self, connection: Connection, job_id: int) -> int:
        """How many wait before this job; for one that does not wait, before its place."""
        with self._lock:
            self._catch_up(connection)
            job = self._jobs.get(job_id)
            if job is not None:
                return bisect_left(self._places, job.place)
        return count_ahead(connection, job_id)

    def standings(
        self, connection: Connection, request_hashes: Collection[str], at: int
    ) -> Mapping[str, Standing]:
        """Of each hash the newest job that answers at that time; `connection` is in a transaction."""
        standings: dict[str, Standing] = {}
        others = []
        with self._lock:
            self._catch_up(connection)
            for request_hash in request_hashes:
                job_id = self._ids.get(request_hash)
                if job_id is None:
                    others.append(request_hash)
                    continue
                job = self._jobs[job_id]
                ahead = bisect_left(self._places, job.place)
                started_at = None if job.started_at is None else moment(job.started_at)
                standings[request_hash] = Standing(job_id, JobState.PENDING, None, ahead, None, started_at)
        if others:
            standings.update(_find_others(connection, others, at))
        return standings

    def _catch_up(self, connection: Connection) -> None:
        """Takes in what has moved. Where that fails, the next look reads everything."""
        seen, self._seen = self._seen, None
        if seen is not None:
            moves = connection.execute(MOVES, (seen, _MOST_MOVES)).fetchall()
            if len(moves) < _MOST_MOVES and (not seen or (moves and moves[0][0] == seen)):
                for seq, job_id, *row in moves:
                    if seq != seen:
                        self._remove(job_id)
                        if row[0] is not None:
                            insort(self._places, self._add(*row))
                self._seen = moves[-1][0] if moves else seen
                return
        # In this order: what moves in between is taken in twice.
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM queue_moves").fetchone()
        self._read_all(connection.execute(ALL_WAITING))
        self._seen = last

    def _read_all(self, rows: Iterable[tuple[int, str, int, int, int, int | None]]) -> None:
        self._jobs.clear()
        self._ids.clear()
        self._places = sorted([self._add(*row) for row in rows])

    def _add(
        self,
        job_id: int,
        request_hash: str,
        deprioritized: int,
        priority: int,
        fair_start: int,
        started_at: int | None,
    ) -> int:
        place = ((((deprioritized << 8) - priority) << 64) + fair_start << 64) + job_id
        self._jobs[job_id] = _Waiting(request_hash, place, started_at)
        self._ids[request_hash] = job_id
        return place

    def _remove(self, job_id: int) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            del self._ids[job.request_hash]
            del self._places[bisect_left(self._places, job.place)]


def _find_others(connection: Connection, request_hashes: Collection[str], at: int) -> Mapping[str, Standing]:
    # Sorted, so that neighbours in the index of hashes are read from one page.
    values = {"hashes": json.encode(sorted(request_hashes)).decode(), "now": at}
    return {
        request_hash: Standing(
            job_id,
            JobState(state),
            None if stage is None else Stage(stage),
            None,
            None if expires_at is None else moment(expires_at),
            None if started_at is None else moment(started_at),
        )
        for request_hash, job_id, state, stage, expires_at, started_at in connection.execute(NEWEST, values)
    }
