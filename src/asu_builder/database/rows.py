"""Jobs, requests and outcomes as rows and back."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from asu_builder.database.secrets import Sealed, Secrets
from asu_builder.domain.errors import FailureReason, SecretsUnavailable
from asu_builder.domain.job import (
    Attempt,
    BuildFailure,
    BuildResult,
    HandedOver,
    Job,
    JobState,
    Priority,
    Stage,
)
from asu_builder.domain.request import BuildRequest, Terms

_COLUMNS = """
    job.id, job.request_hash, request.request, job.state, job.enqueued_at, job.client, job.caller,
    job.priority, job.joined, job.stage, job.attempts, job.retries, job.history, job.started_at,
    job.finished_at, job.reason, request.sealed, job.edition, job.errata, job.rules
"""
SELECT_JOB = f"""
    SELECT {_COLUMNS}, result.completed, result.document, secret.secrets_key, secret.wrapped, secret.sealed,
           job.handed_over
      FROM build_jobs AS job
      JOIN build_requests AS request ON request.request_hash = job.request_hash
      LEFT JOIN build_results AS result ON result.job_id = job.id
      LEFT JOIN build_secrets AS secret ON request.sealed AND secret.request_hash = job.request_hash
"""
SELECT_WITHOUT_OUTCOME = f"""
    SELECT {_COLUMNS}, NULL, NULL, NULL, NULL, NULL, job.handed_over
      FROM build_jobs AS job
      JOIN build_requests AS request ON request.request_hash = job.request_hash
"""


FINAL = "state IN ('completed', 'failed', 'cancelled')"
"""The states of `FINAL_STATES`, as the indexes name them."""


# Made while this is loaded, by one thread: docs/decisions/values-are-structs.md.
REQUEST = msgspec.json.Decoder(BuildRequest)
HISTORY = msgspec.json.Decoder(tuple[Attempt, ...])
_OUTCOMES: tuple[msgspec.json.Decoder[BuildFailure], msgspec.json.Decoder[BuildResult]] = (
    msgspec.json.Decoder(BuildFailure),
    msgspec.json.Decoder(BuildResult),
)
"""By whether the job completed."""
HANDED_OVER = msgspec.json.Decoder(HandedOver)


def to_micros(at: datetime) -> int:
    """An aware time as whole microseconds since 1970, UTC."""
    return int(at.timestamp() * 1_000_000)


def span_micros(span: timedelta) -> int:
    """A span of time in whole microseconds."""
    return span // timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """The time that a row's microseconds mean."""
    return datetime.fromtimestamp(micros / 1_000_000, UTC)


def to_job(row: Sequence[Any], secrets: Secrets | None = None) -> Job:
    """The job of a row of `SELECT_JOB` or `SELECT_WITHOUT_OUTCOME`.

    Without `secrets` an encrypted script and keys stay digests, for those who need neither.
    """
    request, withheld = REQUEST.decode(row[2]), None
    if secrets is not None and row[16]:
        stored = None if row[22] is None else Sealed(row[22], bytes(row[23]), bytes(row[24]))
        try:
            request = secrets.unseal(request, row[1], stored)
        except SecretsUnavailable as unavailable:
            withheld = unavailable
    return Job(
        id=row[0],
        request_hash=row[1],
        request=request,
        state=JobState(row[3]),
        enqueued_at=moment(row[4]),
        client=row[5],
        caller=row[6],
        priority=Priority(row[7]),
        joined=bool(row[8]),
        stage=None if row[9] is None else Stage(row[9]),
        attempts=row[10],
        retries=row[11],
        history=HISTORY.decode(row[12]),
        started_at=None if row[13] is None else moment(row[13]),
        finished_at=None if row[14] is None else moment(row[14]),
        reason=FailureReason(row[15]) if row[15] else None,
        outcome=_OUTCOMES[row[20]].decode(row[21]) if row[21] is not None else None,
        withheld=withheld,
        terms=Terms(row[17], row[18], row[19]),
        handed_over=HANDED_OVER.decode(row[25]) if row[25] is not None and row[3] == "building" else None,
    )
