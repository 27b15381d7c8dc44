"""What clients read: the one place that knows the words old clients expect.

Our states and stages become `queued`, `started`, `done` and a closed list of step names
(facts on clients, §2.4); our own words stand beside them. What clients send is in `body.py`.
"""

import math
from datetime import UTC, datetime

import msgspec

from asu_builder.core.submit import BuildView
from asu_builder.domain.errors import Fault, Side
from asu_builder.domain.job import BuildFailure, BuildResult, Job, JobState, Stage
from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.http.api.documents import (
    Accepted,
    AppliedRuleDocument,
    AttemptDocument,
    Done,
    Failed,
    ImageDocument,
    PackageChangesDocument,
    Problem,
    RequestEcho,
    render_build_problem,
)


class RenderedResponse(msgspec.Struct, frozen=True):
    """A rendered answer: what goes over the wire, apart from what every answer carries."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


_encode = msgspec.json.Encoder().encode


def render_problem(
    status: int, title: str, detail: str, *, code: str = "", side: Side | None = None, field: str = ""
) -> RenderedResponse:
    """An error in the one form that all of them have."""
    problem = Problem(status, title, detail, code, side or msgspec.UNSET, field)
    return RenderedResponse(status, _encode(problem))


def render_json(document: object) -> RenderedResponse:
    """Any other document, with 200."""
    return RenderedResponse(200, _encode(document))


def render_build(view: BuildView) -> RenderedResponse:
    """A job as its clients see it; GET and POST render the same."""
    job = view.job
    if isinstance(job.outcome, BuildResult):
        return _build_answer(200, _done(job, job.outcome), job, step="done")
    if isinstance(job.outcome, BuildFailure) or job.state is JobState.CANCELLED:
        return _build_answer(500, _failed(job), job, step="failed")
    eta = eta_of(view)
    waits = job.state is JobState.PENDING
    stage = job.stage or Stage.INIT
    position = view.position or 0
    accepted = Accepted(
        status=202,
        detail="queued" if waits else "started",
        state=job.state,
        request_hash=job.request_hash,
        enqueued_at=job.enqueued_at,
        request=_echo(job),
        queue_position=position if waits else msgspec.UNSET,
        imagebuilder_status=msgspec.UNSET if waits else stage,
        eta_seconds=msgspec.UNSET if eta is None else eta,
        waiting_for=view.waiting_for or msgspec.UNSET,
        cancel_token=view.cancel_token or msgspec.UNSET,
    )
    if waits:
        return _build_answer(202, accepted, job, step="queued", position=position)
    return _build_answer(202, accepted, job, step=stage)


def eta_of(view: BuildView) -> int | None:
    """Whole seconds until the end, where something can be told."""
    return None if view.remaining is None else math.ceil(view.remaining.total_seconds())


def _build_answer(
    status: int, document: object, job: Job, *, step: str, position: int = 0
) -> RenderedResponse:
    headers = [
        (b"x-imagebuilder-status", step.encode()),
        (b"x-queue-position", b"%d" % position),
    ]
    # How long the job has waited for its (last) start and was built, once that is over.
    spans = []
    waited_until = job.started_at or job.finished_at
    if waited_until:
        spans.append(b"wait;dur=%.0f" % _milliseconds(job.enqueued_at, waited_until))
    if job.started_at and job.finished_at:
        spans.append(b"build;dur=%.0f" % _milliseconds(job.started_at, job.finished_at))
    if spans:
        headers.append((b"server-timing", b", ".join(spans)))
    return RenderedResponse(status, _encode(document), tuple(headers))


def _milliseconds(since: datetime, until: datetime) -> float:
    return max(0.0, (until - since).total_seconds() * 1e3)  # a clock may have been set back


def _echo(job: Job) -> RequestEcho:
    request = job.request
    return RequestEcho(
        distro="openwrt",
        version=request.version,
        version_code=request.version_code,
        target=request.target,
        profile=request.profile,
        packages=request.packages,
        packages_versions=request.packages_versions,
        diff_packages=request.diff_packages,
        defaults=request.defaults or None,
        rootfs_size_mb=request.rootfs_size_mb,
        filesystem=request.filesystem,
        repositories=request.repositories,
        repositories_mode=request.repositories_mode,
        repository_keys=request.repository_keys,
        client=job.client,
    )


def _done(job: Job, result: BuildResult) -> dict[str, object]:
    described = result.description
    titles = described.get("titles")
    done = Done(
        status=200,
        detail="done",
        state=job.state,
        imagebuilder_status="done",
        request_hash=job.request_hash,
        bin_dir=job.request_hash,
        enqueued_at=job.enqueued_at,
        id=job.request.profile,
        target=job.request.target,
        version_number=_text(described.get("version_number"), job.request.version),
        version_code=_text(described.get("version_code"), job.request.version_code),
        # The Firmware Selector reads titles[0] before it shows any link.
        titles=titles if isinstance(titles, list) else [],
        build_at=_build_at(job, described.get("source_date_epoch")),
        images=tuple(
            ImageDocument(
                image.name,
                image.type,
                image.sha256,
                image.sha256_unsigned,
                image.size,
                image.filesystem or msgspec.UNSET,
            )
            for image in result.images
        ),
        manifest=result.manifest,
        build_cmd=result.build_cmd,
        build_cmd_packages=result.packages,
        stdout=result.stdout,
        stderr=result.stderr,
        warnings=result.warnings,
        package_changes=render_changes(result.package_changes),
        request=_echo(job),
    )
    # Ours come last: nothing that left a container may replace them.
    return {**described, **msgspec.structs.asdict(done)}


def render_changes(record: PackageChangesRecord) -> PackageChangesDocument:
    """The record as clients read it."""
    return PackageChangesDocument(
        [
            AppliedRuleDocument(entry.rule, entry.why, entry.added, entry.removed, entry.renamed)
            for entry in record.applied
        ],
        record.warnings,
        record.missing_defaults,
    )


def _failed(job: Job) -> Failed:
    """What failed, or was cancelled: a 500 too, because that is what every old client stops at."""
    failed = Failed(
        status=500,
        title="Build cancelled",
        detail="cancelled",
        state=job.state,
        imagebuilder_status="failed",
        fault=Fault.USER,
        reason="cancelled",
        code="cancelled",
        side=Side.USER,
        request_hash=job.request_hash,
        enqueued_at=job.enqueued_at,
        stdout="",
        stderr="",
        request=_echo(job),
    )
    if not isinstance(job.outcome, BuildFailure):
        return failed
    failure = job.outcome
    attempts = tuple(
        AttemptDocument(attempt.started_at, attempt.ended_at, attempt.stage, attempt.ending)
        for attempt in failure.attempts
    )
    return msgspec.structs.replace(
        failed,
        title="Build failed",
        detail=failure.detail or "failed",
        fault=failure.fault,
        reason=failure.reason,
        code=failure.reason,
        side=failure.side,
        stdout=failure.stdout,
        stderr=failure.stderr,
        build_cmd=failure.build_cmd or msgspec.UNSET,
        attempts=attempts or msgspec.UNSET,
        field=failure.field or msgspec.UNSET,
        problem=render_build_problem(failure.problem),
    )


def _text(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) else otherwise


def _build_at(job: Job, epoch: object) -> str:
    """When the sources were made, in UTC as JavaScript reads it; the number may come as text."""
    try:
        moment = datetime.fromtimestamp(int(str(epoch)), UTC)
    except (ValueError, OverflowError, OSError):
        moment = job.finished_at or job.enqueued_at
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
