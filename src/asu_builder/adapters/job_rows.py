"""Jobs, requests and outcomes as rows and back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from asu_builder.domain.errors import Fault
from asu_builder.domain.job import BuildFailure, BuildResult, Job, JobState, Outcome, Stage
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import Submission

SELECT_JOB = """
    SELECT job.id, job.request_hash, request.request, job.state, job.enqueued_at, job.client, job.stage,
           job.attempts, job.retries, job.started_at, job.finished_at, result.completed, result.document
      FROM build_jobs AS job
      JOIN build_requests AS request ON request.request_hash = job.request_hash
      LEFT JOIN build_results AS result ON result.job_id = job.id
"""


def to_micros(at: datetime) -> int:
    """An aware time as whole microseconds since 1970, UTC."""
    return int(at.timestamp() * 1_000_000)


def to_moment(micros: int | None) -> datetime | None:
    """The time that a row's microseconds mean, or None."""
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)


def encode(value: BuildRequest | Outcome) -> str:
    """A request or outcome as the JSON text that a row keeps."""
    return msgspec.json.encode(value).decode()


def to_job(row: Sequence[Any]) -> Job:
    """The job of a `SELECT_JOB` row."""
    enqueued_at = to_moment(row[4])
    assert enqueued_at is not None  # the column is NOT NULL
    return Job(
        id=row[0],
        request_hash=row[1],
        request=msgspec.json.decode(row[2], type=BuildRequest),
        state=JobState(row[3]),
        enqueued_at=enqueued_at,
        client=row[5],
        stage=None if row[6] is None else Stage(row[6]),
        attempts=row[7],
        retries=row[8],
        started_at=to_moment(row[9]),
        finished_at=to_moment(row[10]),
        outcome=_to_outcome(row[11], row[12]),
    )


def new_job(job_id: int, submission: Submission, enqueued_at: int) -> Job:
    """The job of a row that was just inserted, without reading it back."""
    moment = to_moment(enqueued_at)
    assert moment is not None
    return Job(
        id=job_id,
        request_hash=submission.request_hash,
        request=submission.request,
        state=JobState.PENDING,
        enqueued_at=moment,
        client=submission.client,
    )


def _to_outcome(completed: int | None, document: str | None) -> Outcome | None:
    if completed is None or document is None:
        return None
    if completed:
        return msgspec.json.decode(document, type=BuildResult)
    return msgspec.json.decode(document, type=BuildFailure)


def is_stale_failure(job: Job, *, cool_down_start: datetime) -> bool:
    """Whether a repeated request may try anew: the failure was not the user's and has cooled down."""
    return (
        isinstance(job.outcome, BuildFailure)
        and job.outcome.fault is not Fault.USER
        and job.finished_at is not None
        and job.finished_at <= cool_down_start
    )
