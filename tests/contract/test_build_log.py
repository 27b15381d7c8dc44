"""What every place for builds' output does."""

from datetime import timedelta
from typing import Any

import pytest

from asu_builder.core.housekeeping import delete_with_files
from asu_builder.database.build_log import SqlBuildLog
from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import LOG_LEFT_OUT, Lease, LogLine, PrintedLine, Retention, Stage
from asu_builder.ports import BuildLog, JobQueue, RetentionRepository
from database_clock import at_time
from factories import NOON, a_result, a_submission, removes

_MINUTE = timedelta(minutes=1)


@pytest.fixture
def log(database: SqlDatabase) -> BuildLog:
    """The one adapter of the port, with small limits."""
    return SqlBuildLog(database, max_lines=10, max_bytes=100)


@pytest.fixture
def lease(queue: JobQueue) -> Lease:
    """Of a job that is being built."""
    return claimed(queue)


def claimed(queue: JobQueue, **changes: Any) -> Lease:
    at_time(queue, NOON).submit(a_submission(**changes))
    claim = at_time(queue, NOON).claim("host/1", lease_for=_MINUTE)
    assert claim is not None
    return claim[1]


def printed(*texts: str, stage: Stage = Stage.BUILDING_IMAGE) -> list[PrintedLine]:
    return [PrintedLine(NOON, stage, text) for text in texts]


def texts(log: BuildLog, job_id: int, after: int = 0) -> list[str]:
    return [line.text for line in log.read(job_id, after=after)]


def test_lines_come_back_in_order_with_number_time_and_stage(log: BuildLog, lease: Lease) -> None:
    assert log.read(lease.job_id) == []
    assert log.last(lease.job_id) == 0
    assert log.append(lease, printed("one", stage=Stage.VALIDATE_REVISION))
    assert log.append(lease, printed("two", "", "vier ü"))
    assert log.read(lease.job_id) == [
        LogLine(1, NOON, Stage.VALIDATE_REVISION, "one"),
        LogLine(2, NOON, Stage.BUILDING_IMAGE, "two"),
        LogLine(3, NOON, Stage.BUILDING_IMAGE, ""),
        LogLine(4, NOON, Stage.BUILDING_IMAGE, "vier ü"),
    ]
    assert log.last(lease.job_id) == 4


def test_reading_begins_behind_a_line_and_ends_at_a_limit(log: BuildLog, lease: Lease) -> None:
    log.append(lease, printed("a", "b", "c", "d"))
    assert texts(log, lease.job_id, after=2) == ["c", "d"]
    assert [line.seq for line in log.read(lease.job_id, after=1, limit=2)] == [2, 3]
    assert log.read(lease.job_id, after=4) == []


def test_jobs_do_not_share_lines(log: BuildLog, queue: JobQueue, lease: Lease) -> None:
    other = claimed(queue, packages=("vim",))
    log.append(lease, printed("mine"))
    log.append(other, printed("yours"))
    assert (texts(log, lease.job_id), texts(log, other.job_id)) == (["mine"], ["yours"])
    assert log.read(other.job_id)[0].seq == 1


def test_another_attempt_goes_on_counting_and_the_former_is_not_heard_any_more(
    log: BuildLog, queue: JobQueue, lease: Lease
) -> None:
    log.append(lease, printed("first"))
    queue.release(lease)
    assert not log.append(lease, printed("late"))
    again = queue.claim("host/2", lease_for=_MINUTE)
    assert again is not None
    assert log.append(again[1], printed("second"))
    assert not log.append(lease, printed("later"))
    assert [(line.seq, line.text) for line in log.read(lease.job_id)] == [(1, "first"), (2, "second")]


def test_a_job_that_has_ended_takes_no_more_lines(log: BuildLog, queue: JobQueue, lease: Lease) -> None:
    log.append(lease, printed("in time"))
    queue.finish(lease, a_result(), Retention(_MINUTE))
    assert not log.append(lease, printed("late"))
    assert texts(log, lease.job_id) == ["in time"]


def test_beyond_so_many_lines_one_says_that_the_rest_is_left_out(log: BuildLog, lease: Lease) -> None:
    assert log.append(lease, printed(*"abcdefghij"))
    assert not log.append(lease, printed("k", "l"))
    assert not log.append(lease, printed("m"))
    assert texts(log, lease.job_id) == [*"abcdefghij", LOG_LEFT_OUT]


def test_beyond_so_many_bytes_too_whichever_attempt_printed_them(
    log: BuildLog, queue: JobQueue, lease: Lease
) -> None:
    assert log.append(lease, printed("ü" * 40))
    queue.release(lease)
    again = queue.claim("host/2", lease_for=_MINUTE)
    assert again is not None
    assert log.append(again[1], printed("x" * 20))
    assert not log.append(again[1], printed("y", "z"))
    assert texts(log, lease.job_id) == ["ü" * 40, "x" * 20, LOG_LEFT_OUT]
    assert not log.append(again[1], printed(""))
    assert log.last(lease.job_id) == 3


def test_a_log_goes_with_its_job_and_leaves_no_text_in_the_file(
    log: BuildLog, queue: JobQueue, retention: RetentionRepository, database: SqlDatabase, lease: Lease
) -> None:
    log.append(lease, printed("a-secret-that-was-printed"))
    at_time(queue, NOON).finish(lease, a_result(), Retention(_MINUTE))
    name = a_submission().request_hash
    assert not delete_with_files(at_time(retention, NOON), name, remove=removes())
    assert log.last(lease.job_id) == 1
    assert delete_with_files(at_time(retention, NOON + _MINUTE), name, remove=removes())
    assert log.read(lease.job_id) == []
    if isinstance(database, Database):  # of a server the dead rows and the log are its own
        path = database._path
        database.close()
        assert b"a-secret-that-was-printed" not in path.read_bytes()


def test_a_database_that_is_gone_is_unavailable(log: BuildLog, database: SqlDatabase, lease: Lease) -> None:
    with database.writing() as connection:
        connection.execute("DROP TABLE build_log")
    with pytest.raises(Unavailable):
        log.append(lease, printed("x"))
