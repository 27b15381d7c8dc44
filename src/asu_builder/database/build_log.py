"""What builds printed, in SQL."""

from collections.abc import Sequence

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.rows import moment, to_micros
from asu_builder.domain.job import (
    LOG_LEFT_OUT,
    MAX_LOG_BYTES,
    MAX_LOG_LINES,
    Lease,
    LogLine,
    PrintedLine,
    Stage,
)

_HELD = """
    SELECT 1 FROM build_jobs WHERE id = ? AND state = 'building' AND worker = ? AND lease_token = ?
    /*postgresql FOR UPDATE*/
"""


class SqlBuildLog:
    """Fulfils `ports.BuildLog` on the embedded database. The rows go with their job, by foreign key."""

    def __init__(
        self, database: SqlDatabase, *, max_lines: int = MAX_LOG_LINES, max_bytes: int = MAX_LOG_BYTES
    ) -> None:
        self._database = database
        self._max_lines = max_lines
        self._max_bytes = max_bytes

    def append(self, lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        with self._database.writing(own_rows=True) as connection:
            holder = (lease.job_id, lease.worker, lease.token)
            if connection.execute(_HELD, holder).fetchone() is None:
                return False
            last = connection.execute(
                "SELECT seq, bytes FROM build_log WHERE job_id = ? ORDER BY seq DESC LIMIT 1", (lease.job_id,)
            ).fetchone()
            seq, size = last or (0, 0)
            if size > self._max_bytes:
                return False
            rows: list[tuple[int, int, int, str, str, int]] = []
            for line in lines:
                seq, text = seq + 1, line.text
                size += len(text.encode())
                if seq > self._max_lines or size > self._max_bytes:
                    # A size beyond the limit is how the last line is known.
                    text, size = LOG_LEFT_OUT, self._max_bytes + 1
                rows.append((lease.job_id, seq, to_micros(line.at), line.stage, text, size))
                if size > self._max_bytes:
                    break
            connection.executemany(
                "INSERT INTO build_log (job_id, seq, at, stage, text, bytes) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
        return size <= self._max_bytes

    def read(self, job_id: int, *, after: int = 0, limit: int = MAX_LOG_LINES + 1) -> Sequence[LogLine]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT seq, at, stage, text FROM build_log WHERE job_id = ? AND seq > ?"
                " ORDER BY seq LIMIT ?",
                (job_id, after, limit),
            ).fetchall()
        return [LogLine(seq, moment(at), Stage(stage), text) for seq, at, stage, text in rows]

    def last(self, job_id: int) -> int:
        with self._database.reading() as connection:
            (last,) = connection.execute(
                "SELECT coalesce(max(seq), 0) FROM build_log WHERE job_id = ?", (job_id,)
            ).fetchone()
        return int(last)
