"""What is kept of finished jobs, how files and rows are removed together, and which answers are revoked."""

import contextlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import Struct

from asu_builder.database import statistics
from asu_builder.database.clock import DOWNTIME
from asu_builder.database.dialect import Connection, SqlDatabase
from asu_builder.database.rows import FINAL, HANDED_OVER, REQUEST, span_micros
from asu_builder.database.secrets import has_secrets, without_secrets
from asu_builder.database.statistics import DAY
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import DoomedJobs, EventKind, Image, StoredFiles
from asu_builder.domain.request import BuildRequest

_BYTES = 8


class Revocations:
    """A random number in a file beside the database, which each process has mapped into its memory.

    What takes an answer back writes another number, after it has gone from the database; a cache of
    answers compares. That costs a tenth of a microsecond, no system call and no wait for a
    disk, so it can be done for each poll. The database itself would have to be asked, and its own
    counter of changes moves with every line of a build's log.
    """

    def __init__(self, database: Path) -> None:
        """`database` is the database's file. Raises `Unavailable`."""
        path = database.with_name(f"{database.name}-revoked")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < _BYTES:
                    # Written, not only made longer: on a full disk the first change of a hole is the end
                    # of the process.
                    os.pwrite(descriptor, bytes(_BYTES), 0)
                    # Root's file is given to whom the database belongs, as SQLite does with those beside it.
                    facts = database.stat()
                    if os.geteuid() == 0:
                        os.fchown(descriptor, facts.st_uid, facts.st_gid)
                    os.fchmod(descriptor, facts.st_mode & 0o666)
                self._mapped = mmap.mmap(descriptor, _BYTES)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"The file {path} cannot be written ({error}). The user who runs the service must be able to "
                "write to it, and to the directory of the database."
            ) from error

    def current(self) -> bytes:
        """Another value than before means that something was taken back since."""
        return self._mapped[:_BYTES]

    def note(self) -> None:
        """An answer was taken back."""
        self._mapped[:_BYTES] = os.urandom(_BYTES)


# Of a hash's completed jobs the newest: the images are its own.
_PUBLISHED = (
    "job.state = 'completed' AND NOT EXISTS (SELECT 1 FROM build_jobs AS newer"
    " WHERE newer.state = 'completed' AND newer.request_hash = job.request_hash AND newer.id > job.id)"
)
# As the index of these requests names them.
_WITH_DROPPED = """
    SELECT request.request_hash, request.request FROM build_requests AS request
     WHERE instr(request.request, '"dropped":{"') > 0
       AND EXISTS (SELECT 1 FROM build_jobs AS job
                    WHERE job.request_hash = request.request_hash AND job.state = 'completed'
                      AND job.expires_at > ?)
     LIMIT ?
"""
_SIGNED_BY = """
    SELECT DISTINCT job.request_hash FROM build_jobs AS job
      JOIN build_results AS result ON result.job_id = job.id
     WHERE job.state = 'completed' AND job.expires_at > ?
       AND json_extract(result.document, '$.signed_by') = ?
"""
_SIGNED_OTHERWISE = """
    SELECT job.id FROM build_jobs AS job
      JOIN build_results AS result ON result.job_id = job.id
     WHERE job.state = 'completed' AND job.expires_at > ?
       AND json_extract(result.document, '$.signed_by') IS NOT ?
"""
_WITHOUT_STATEMENT = """
    SELECT job.id FROM build_jobs AS job
      JOIN build_results AS result ON result.job_id = job.id
     WHERE job.state = 'completed' AND job.expires_at > ?
       AND coalesce(json_extract(result.document, '$.provenance'), '') = ''
"""
# In the order of their hashes both tables are read once, side by side: a tenth of looking each of them up.
_OLD_REQUESTS = """
    SELECT request_hash FROM (
        SELECT request_hash, first_requested_at,
            sum(length(request) + 200) OVER (ORDER BY first_requested_at DESC, request_hash) AS total
        FROM build_requests WHERE request_hash IN (SELECT request_hash FROM build_requests
            EXCEPT SELECT request_hash FROM build_jobs ORDER BY request_hash)
    ) AS summed WHERE total > :most OR first_requested_at < :before ORDER BY total DESC LIMIT :at_once
"""
_NEWEST_RESULT = """
    SELECT result.document FROM build_jobs AS job JOIN build_results AS result ON result.job_id = job.id
     WHERE job.request_hash = ? AND job.state = 'completed' ORDER BY job.id DESC LIMIT 1
"""
_AT_ONCE = 1000


class _Files(Struct, frozen=True):
    """Of a result's document that alone: the output beside it is not made into text."""

    files: StoredFiles | None = None
    images: tuple[Image, ...] = ()


_FILES = msgspec.json.Decoder(_Files)
_DOCUMENT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAME_FILES = """
    UPDATE build_results SET document = ? WHERE job_id = (
        SELECT id FROM build_jobs WHERE request_hash = ? AND state = 'completed' ORDER BY id DESC LIMIT 1)
"""
_EVENTS_AT_ONCE = 5000
_KINDS = ", ".join(f"'{kind}'" for kind in get_args(EventKind))


class SqlRetention:
    """Fulfils `ports.RetentionRepository` on the embedded database."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database
        self._secret_in_log = False

    def expired(self, *, grace: timedelta = timedelta(0)) -> Sequence[str]:
        self._empty_log()
        with self._database.reading() as connection:
            # With DISTINCT all results would be read in the order of their hashes.
            rows = connection.execute(
                f"SELECT request_hash FROM build_jobs WHERE {FINAL} AND expires_at <= ? LIMIT ?",
                (self._database.now() - span_micros(grace), _AT_ONCE),
            ).fetchall()
        return list(dict.fromkeys(row[0] for row in rows))

    def doomed(
        self, request_hash: str, *, grace: timedelta = timedelta(0), unexpired: bool = False
    ) -> DoomedJobs:
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT id, {FINAL} AND (expires_at <= ? OR ?) FROM build_jobs WHERE request_hash = ?",
                (self._database.now() - span_micros(grace), unexpired, request_hash),
            ).fetchall()
        ids = [job_id for job_id, goes in rows if goes]
        return DoomedJobs(request_hash, ids, len(ids) == len(rows))

    def are_exclusive(self, jobs: DoomedJobs) -> bool:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id FROM build_jobs WHERE request_hash = ?", (jobs.request_hash,)
            )
            return all(row[0] in jobs.ids for row in rows)

    def delete(self, jobs: DoomedJobs) -> bool:
        with self._database.writing() as connection:
            connection.execute(
                "DELETE FROM build_jobs"
                f" WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each(?)) AND {FINAL}",
                (json.dumps(jobs.ids),),
            )
            (left,) = connection.execute(
                "SELECT count(*) FROM build_jobs WHERE request_hash = ?", (jobs.request_hash,)
            ).fetchone()
            scrubbed = not left and _scrub(connection, jobs.request_hash)
        self._secret_in_log |= scrubbed
        self._empty_log()
        return not left

    def _empty_log(self) -> None:
        """Removes what was scrubbed from the database's log; next time, where another connection reads it."""
        if self._secret_in_log:
            with contextlib.suppress(Unavailable):
                self._secret_in_log = not self._database.fold()

    def with_dropped(self) -> Sequence[tuple[str, BuildRequest]]:
        with self._database.reading() as connection:
            rows = connection.execute(_WITH_DROPPED, (self._database.now(), _AT_ONCE)).fetchall()
        return [(request_hash, REQUEST.decode(request)) for request_hash, request in rows]

    def signed_by(self, key_id: str) -> Sequence[str]:
        with self._database.reading() as connection:
            rows = connection.execute(_SIGNED_BY, (self._database.now(), key_id)).fetchall()
        return [row[0] for row in rows]

    def signed_otherwise(self, key_id: str) -> Sequence[int]:
        with self._database.reading() as connection:
            rows = connection.execute(_SIGNED_OTHERWISE, (self._database.now(), key_id)).fetchall()
        return [row[0] for row in rows]

    def without_statement(self) -> Sequence[int]:
        with self._database.reading() as connection:
            rows = connection.execute(_WITHOUT_STATEMENT, (self._database.now(),)).fetchall()
        return [row[0] for row in rows]

    def find_orphans(self, request_hashes: Sequence[str]) -> Sequence[str]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT value FROM json_each(?) WHERE NOT EXISTS"
                " (SELECT 1 FROM build_jobs WHERE request_hash = value) ORDER BY key",
                (json.dumps(list(request_hashes)),),
            ).fetchall()
        return [row[0] for row in rows]

    def completed_hashes(self) -> Iterator[str]:
        last = 0
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(
                    "SELECT id, request_hash FROM build_jobs WHERE state = 'completed' AND id > ?"
                    " ORDER BY id LIMIT ?",
                    (last, _AT_ONCE),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from (row[1] for row in rows)

    def stored_files(self, request_hash: str) -> StoredFiles | None:
        with self._database.reading() as connection:
            row = connection.execute(_NEWEST_RESULT, (request_hash,)).fetchone()
        return _FILES.decode(row[0]).files if row else None

    def names_handed_over(self, request_hash: str, folder: str) -> bool:
        """Whether a building job of this hash names these files, which were handed over to be signed."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT handed_over FROM build_jobs WHERE request_hash = ? AND state = 'building'"
                " AND handed_over IS NOT NULL",
                (request_hash,),
            ).fetchone()
        return row is not None and HANDED_OVER.decode(row[0]).folder == folder

    def image_digests(self, request_hash: str) -> Mapping[str, str]:
        """Of the newest result each image with its SHA-256."""
        with self._database.reading() as connection:
            row = connection.execute(_NEWEST_RESULT, (request_hash,)).fetchone()
        return {image.name: image.sha256 for image in _FILES.decode(row[0]).images} if row else {}

    def name_files(self, request_hash: str, files: StoredFiles) -> None:
        """Lets the newest result name these, and nothing else change of it."""
        with self._database.writing(durable=True) as connection:
            row = connection.execute(_NEWEST_RESULT, (request_hash,)).fetchone()
            document = _DOCUMENT.decode(row[0]) | {"files": msgspec.Raw(msgspec.json.encode(files))}
            connection.execute(_NAME_FILES, (msgspec.json.encode(document).decode(), request_hash))

    def has_results(self) -> bool:
        """Whether any completed job is left, expired or not; then files of it lie in the store."""
        with self._database.reading() as connection:
            # The index of those that were used names the state as this does.
            (found,) = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM build_jobs WHERE state = 'completed')"
            ).fetchone()
        return bool(found)

    def stored_bytes(self) -> int:
        with self._database.reading() as connection:
            (total,) = connection.execute("SELECT bytes FROM stored_images").fetchone()
        return int(total)

    def least_used(self, *, unused_for: timedelta) -> Sequence[tuple[str, int]]:
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT request_hash, stored_bytes FROM build_jobs AS job WHERE {_PUBLISHED}"
                f" AND last_accessed_at < ? - {DOWNTIME} ORDER BY last_accessed_at LIMIT ?",
                (self._database.now() - span_micros(unused_for), _AT_ONCE),
            ).fetchall()
        return [(str(name), int(size)) for name, size in rows]

    def forget_requests(self, *, older_than: timedelta, most_bytes: int) -> int:
        before = self._database.now() - span_micros(older_than)
        with self._database.reading() as connection:
            names = connection.execute(
                _OLD_REQUESTS, {"before": before, "most": most_bytes, "at_once": _AT_ONCE}
            ).fetchall()
        with self._database.writing() as connection:
            gone = connection.executemany(
                "DELETE FROM build_requests WHERE request_hash = ? AND NOT EXISTS"
                " (SELECT 1 FROM build_jobs WHERE request_hash = build_requests.request_hash)",
                names,
            ).rowcount
            connection.execute("DELETE FROM audit_log WHERE at < ?", (before,))
        return gone

    def forget_statistics(self, *, older_than: timedelta) -> int:
        now = self._database.now()
        before = now - span_micros(older_than)
        with self._database.writing() as connection:
            # The kinds are named so that the index is used.
            cursor = connection.execute(
                "DELETE FROM build_stats WHERE id IN (SELECT id FROM build_stats"
                f" WHERE kind IN ({_KINDS}) AND at < ? LIMIT ?)",
                (before, _EVENTS_AT_ONCE),
            )
            statistics.forget(connection, before=before // DAY, today=now // DAY)
        return cursor.rowcount


def _scrub(connection: Connection, request_hash: str) -> bool:
    """Leaves only digests of what may be secret: the script of the first boot, and the keys.

    Whether there was any.
    """
    # With its data key, without which nothing that is left of it anywhere can be read.
    if connection.execute("DELETE FROM build_secrets WHERE request_hash = ?", (request_hash,)).rowcount:
        connection.execute(
            "UPDATE build_requests SET scrubbed = TRUE, sealed = FALSE WHERE request_hash = ?",
            (request_hash,),
        )
        return True
    row = connection.execute(
        "SELECT request FROM build_requests WHERE request_hash = ? AND NOT scrubbed", (request_hash,)
    ).fetchone()
    if row is None:
        return False
    request = REQUEST.decode(row[0])
    if not has_secrets(request):
        return False
    connection.execute(
        "UPDATE build_requests SET request = ?, scrubbed = TRUE WHERE request_hash = ?",
        (msgspec.json.encode(without_secrets(request)).decode(), request_hash),
    )
    return True
