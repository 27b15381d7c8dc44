"""The operator's interface: its documents, its addresses, lists and acts, each behind a right of a token."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec.structs import asdict
from starlette.requests import Request

from asu_builder.core.operator import Operator
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import BuildNotFound, RequestRejected
from asu_builder.domain.job import Job, JobFilter, JobState, Stage
from asu_builder.domain.preflight import PreflightMode
from asu_builder.domain.request import HASH_PREFIX
from asu_builder.http.api.builds import is_request_hash
from asu_builder.http.api.wire import Problem, RenderedResponse, render_json
from asu_builder.http.callers import Callers
from asu_builder.http.openapi import A_HASH, A_TIME, HASH_PATTERN, number, operation, says
from asu_builder.http.threads import Threads


class JobDocument(msgspec.Struct):
    """One job as an operator sees it."""

    id: Annotated[int, says("Its number; page with `before`", 4711)]
    request_hash: Annotated[str, says("Names the request", A_HASH, pattern=HASH_PATTERN)]
    state: Annotated[JobState, says("The state", "building")]
    stage: Annotated[Stage | None, says("The stage of the build", "building_image", None)]
    priority: Annotated[str, says("The class of `caller`", "normal", enum=["bulk", "normal", "interactive"])]
    version: Annotated[str, says("The requested version", "24.10.4")]
    target: Annotated[str, says("Target and subtarget", "ath79/generic")]
    profile: Annotated[str, says("The profile", "tplink_archer-c7-v5")]
    caller: Annotated[
        str,
        says(
            "Whose turn it takes, a token's name or an address: who asked first, unless one who joined "
            "while it waited would have come earlier",
            "192.0.2.7",
        ),
    ]
    client: Annotated[str, says("The client of the first request", "owut/2026.03.30")]
    joined: Annotated[bool, says("Whether other callers wait for it too", False)]
    attempts: Annotated[int, says("How often its worker was lost during the build", 0, minimum=0)]
    retries: Annotated[int, says("How often the infrastructure failed", 0, minimum=0)]
    reason: Annotated[str | None, says("Why it failed", "impossible_selection", None)]
    enqueued_at: Annotated[datetime, says("When it was created, UTC", A_TIME, format="date-time")]
    started_at: Annotated[datetime | None, says("When it was last claimed", A_TIME, None)]
    finished_at: Annotated[datetime | None, says("When it ended", A_TIME, None)]


class JobList(msgspec.Struct):
    """Jobs, newest first."""

    jobs: Annotated[list[JobDocument], says("The jobs", [])]


class NodeDocument(msgspec.Struct):
    """One process on this database, as it was seen last."""

    name: Annotated[str, says("Its name (`worker_id`)", "builder-1")]
    answers: Annotated[bool, says("Whether it answers clients", True)]
    builds: Annotated[bool, says("Whether it has workers", True)]
    concurrent: Annotated[int, says("How many builds it runs at once", 4, minimum=0)]
    running: Annotated[int, says("How many run now", 1, minimum=0)]
    drained: Annotated[bool, says("Whether it takes no more jobs until an operator lets it", False)]
    lost: Annotated[bool, says("Whether it gave no sign of life for half a minute", False)]
    hindrance: Annotated[str, says("Why it can start no build; empty where it could", "engine", "")]
    version: Annotated[str, says("The version of its program", "0.3.0")]
    rules: Annotated[str, says("The digest of its package rules; empty before it has read them", A_HASH)]
    room: Annotated[int | None, says("Free bytes of its store above `disk_floor`", 50_000_000_000, None)]
    seen_at: Annotated[datetime, says("Its last sign of life, UTC", A_TIME, format="date-time")]


class WorkersDocument(msgspec.Struct):
    """Whether the workers take jobs, and the processes they belong to."""

    paused: Annotated[bool, says("Whether the workers are paused", False)]
    since: Annotated[datetime | None, says("Since when", A_TIME, None)] = None
    operator: Annotated[str | None, says("Who paused them", "alice", None)] = None
    nodes: Annotated[list[NodeDocument], says("Every process that was seen within a day, by name", [])] = []


class ActDocument(msgspec.Struct):
    """One act of an operator."""

    at: Annotated[datetime, says("When, UTC", A_TIME, format="date-time")]
    operator: Annotated[str, says("The token's name, or cli and the user's", "alice")]
    act: Annotated[str, says("The action", "cancel")]
    subject: Annotated[str, says("What it concerns: a request hash, a version and target, or empty", A_HASH)]


class ActList(msgspec.Struct):
    """Acts, newest first."""

    acts: Annotated[list[ActDocument], says("The actions", [])]


class PreflightTargetDocument(msgspec.Struct):
    """How right *impossible* was for one version and target."""

    version: Annotated[str, says("The version", "24.10.4")]
    target: Annotated[str, says("Target and subtarget", "ath79/generic")]
    mode: Annotated[
        PreflightMode,
        says(
            "`enforce`: impossible selections are refused; `advise`: a build has proved one possible",
            "advise",
        ),
    ]
    since: Annotated[datetime, says("Since when, UTC", A_TIME, format="date-time")]
    sampled: Annotated[int, says("Builds that were foretold as impossible and compared", 7, minimum=0)]
    disagreements: Annotated[int, says("Of these, those that the package manager accepted", 1, minimum=0)]
    last_disagreement: Annotated[str, says("The latest of them: what was foretold, and what it did", "")]


class PreflightDocument(msgspec.Struct):
    """The targets of which builds were compared, those on advise first."""

    targets: Annotated[list[PreflightTargetDocument], says("The targets", [])]


class DoneDocument(msgspec.Struct):
    """An act was done."""

    status: Annotated[int, says("The HTTP status", 200, const=200)]
    detail: Annotated[str, says("The action", "requeued")]


class SettingDocument(msgspec.Struct):
    """One setting."""

    name: Annotated[str, says("Its name in a file; variables have the prefix ASU_", "job_timeout")]
    value: Annotated[Any, says("The value, as it is written in a file", "10m", 8080, True)]
    origin: Annotated[str, says("Its source: a file, a variable, or default", "variable ASU_CORS")]
    default: Annotated[Any, says("The default; null if it depends on the machine", "10m", None)]
    meaning: Annotated[str, says("What it does", "After this time the build's container is killed.")]


class ConfigurationDocument(msgspec.Struct):
    """The settings in effect, those that somebody chose first."""

    settings: Annotated[tuple[SettingDocument, ...], says("The settings", [])]


_REFUSED: Mapping[int, tuple[str, object]] = {
    401: ("No known token was sent", Problem),
    403: ("The token lacks the right", Problem),
}
_PAUSE = {200: ("How they are", WorkersDocument), **_REFUSED}


class OperatorActs:
    """Each act needs the right `operate`. Raises `NotAuthenticated`, `NotAllowed`, and as `Operator` does."""

    def __init__(self, operator: Operator, *, threads: Threads, forget: Callable[[str], None]) -> None:
        """`forget` drops the cached answer to a request."""
        self._threads = threads
        self._forget = forget
        self._on_jobs = {"cancel": operator.cancel, "requeue": operator.requeue, "purge": operator.purge}
        self._on_workers = {"pause": operator.pause, "resume": operator.resume}
        self._enforce = operator.enforce

    async def on_job(self, caller: Caller, act: str, request_hash: str) -> None:
        """`cancel`, `requeue` or `purge` the newest job of a hash. Raises `BuildNotFound` or `Conflict`."""
        caller.require(Right.OPERATE)
        if not is_request_hash(request_hash):
            raise BuildNotFound("There is no job under this hash.")
        try:
            await self._threads.run(lambda: self._on_jobs[act](request_hash, operator=caller.name))
        finally:
            self._forget(request_hash)

    async def on_workers(self, caller: Caller, act: str) -> None:
        """`pause` or `resume` the workers of every process."""
        caller.require(Right.OPERATE)
        await self._threads.run(lambda: self._on_workers[act](operator=caller.name))

    async def enforce(self, caller: Caller, version: str, target: str) -> None:
        """Lets *impossible* refuse again for a version and target. Raises `BuildNotFound` or `Conflict`."""
        caller.require(Right.OPERATE)
        await self._threads.run(lambda: self._enforce(version, target, operator=caller.name))


_JOBS = (100, 1000)


class OperatorEndpoints:
    """Every answer needs a token: `read` for what is shown, `operate` for what is done."""

    def __init__(
        self,
        operator: Operator,
        acts: OperatorActs,
        *,
        callers: Callers,
        threads: Threads,
        configuration: Callable[[], ConfigurationDocument],
    ) -> None:
        self._operator = operator
        self._configuration = configuration
        self._acts = acts
        self._callers = callers
        self._threads = threads

    @operation(
        "/api/v1/jobs",
        answers={200: ("The jobs", JobList), 400: ("A filter makes no sense", Problem), **_REFUSED},
        query=("state", "version", "target", "profile", "caller", "request_hash", "before", "limit"),
    )
    async def jobs(self, request: Request) -> RenderedResponse:
        """Every job, newest first. Needs a token with the right read."""
        self._require_to_read(request)
        wanted = job_filter(request)
        found = await self._threads.run(self._operator.jobs, wanted)
        return render_json(JobList([describe_job(job) for job in found]))

    @operation(
        "/api/v1/jobs/{request_hash}/requeue",
        method="POST",
        answers={
            200: ("It waits", DoneDocument),
            **_REFUSED,
            404: ("This was never requested", Problem),
            409: ("It waits already", Problem),
        },
    )
    async def requeue(self, request: Request) -> RenderedResponse:
        """Build once more what has ended, or give a running build back to the queue. Needs operate."""
        return await self._act(request, "requeue", "requeued")

    @operation(
        "/api/v1/results/{request_hash}",
        method="DELETE",
        answers={
            200: ("It is forgotten", DoneDocument),
            **_REFUSED,
            404: ("There is none", Problem),
            409: ("Somebody downloads from it: it answers no more, its images go later", Problem),
        },
    )
    async def purge(self, request: Request) -> RenderedResponse:
        """Forget a result or a failure now, with its images. Needs operate."""
        return await self._act(request, "purge", "purged")

    @operation("/api/v1/workers", answers=_PAUSE)
    async def workers(self, request: Request) -> RenderedResponse:
        """Whether the workers are paused, and the processes on this database. Needs read."""
        self._require_to_read(request)
        return await self._workers()

    @operation("/api/v1/workers/pause", method="POST", answers=_PAUSE)
    async def pause(self, request: Request) -> RenderedResponse:
        """Let no worker of any process claim a job; what is built goes on. Needs operate."""
        await self._acts.on_workers(self._callers.of(request.scope), "pause")
        return await self._workers()

    @operation("/api/v1/workers/resume", method="POST", answers=_PAUSE)
    async def resume(self, request: Request) -> RenderedResponse:
        """Let workers claim jobs again. Needs operate."""
        await self._acts.on_workers(self._callers.of(request.scope), "resume")
        return await self._workers()

    @operation(
        "/api/v1/acts",
        answers={200: ("The actions", ActList), 400: ("limit is no number", Problem), **_REFUSED},
        query=("limit",),
    )
    async def acts(self, request: Request) -> RenderedResponse:
        """What operators did, newest first. Needs read."""
        self._require_to_read(request)
        found = await self._threads.run(
            self._operator.acts, number(request, "limit", otherwise=_JOBS[0], highest=_JOBS[1])
        )
        return render_json(
            ActList([ActDocument(act.at, act.operator, act.act, act.subject) for act in found])
        )

    @operation("/api/v1/preflight", answers={200: ("The targets", PreflightDocument), **_REFUSED})
    async def preflight(self, request: Request) -> RenderedResponse:
        """Where builds were compared with an impossible verdict, and whether it holds. Needs read."""
        self._require_to_read(request)
        found = await self._threads.run(self._operator.preflight_targets)
        documents = [
            PreflightTargetDocument(
                it.version,
                it.target,
                it.mode,
                it.since,
                it.sampled,
                it.disagreements,
                it.last_disagreement,
            )
            for it in found
        ]
        return render_json(PreflightDocument(documents))

    @operation(
        "/api/v1/preflight/{version}/{target}/{subtarget}/enforce",
        method="POST",
        answers={
            200: ("It holds again", DoneDocument),
            **_REFUSED,
            404: ("No build of it was compared", Problem),
            409: ("It holds already", Problem),
        },
    )
    async def enforce(self, request: Request) -> RenderedResponse:
        """Refuse impossible selections of a version and target again. Needs operate."""
        given = request.path_params
        target = f"{given['target']}/{given['subtarget']}"
        await self._acts.enforce(self._callers.of(request.scope), given["version"], target)
        return render_json(DoneDocument(200, "enforced"))

    @operation("/api/v1/configuration", answers={200: ("The settings", ConfigurationDocument), **_REFUSED})
    async def configuration(self, request: Request) -> RenderedResponse:
        """The settings in effect and where each was chosen, without secrets. Needs read."""
        self._require_to_read(request)
        return render_json(await self._threads.run(self._configuration))

    async def _workers(self) -> RenderedResponse:
        return await self._threads.run(self._read_workers)

    def _read_workers(self) -> RenderedResponse:
        pause = self._operator.paused()
        nodes = [
            NodeDocument(
                **asdict(node.facts),
                name=node.name,
                drained=node.drained,
                lost=node.lost,
                seen_at=node.seen_at,
            )
            for node in self._operator.nodes()
        ]
        since, operator = (pause.since, pause.operator) if pause else (None, None)
        return render_json(WorkersDocument(pause is not None, since, operator, nodes))

    async def _act(self, request: Request, act: str, done: str) -> RenderedResponse:
        await self._acts.on_job(self._callers.of(request.scope), act, request.path_params["request_hash"])
        return render_json(DoneDocument(200, done))

    def _require_to_read(self, request: Request) -> None:
        """Raises `NotAuthenticated` or `NotAllowed`."""
        self._callers.of(request.scope).require(Right.READ)


def job_filter(request: Request) -> JobFilter:
    """What the address asks for. Raises `RequestRejected`."""
    given = request.query_params
    state = given.get("state", "")
    if state and state not in set(JobState):
        raise RequestRejected(f"state: expected one of {', '.join(JobState)}, got {state[:40]!r}")
    prefix = given.get("request_hash", "")
    if prefix and not HASH_PREFIX.fullmatch(prefix):
        raise RequestRejected(f"request_hash: expected 4 to 64 hexadecimal digits, got {prefix[:80]!r}")
    return JobFilter(
        state=JobState(state) if state else None,
        version=given.get("version", "")[:64],
        target=given.get("target", "")[:65],
        profile=given.get("profile", "")[:128],
        caller=given.get("caller", "")[:128],
        request_hash=prefix,
        before=number(request, "before", otherwise=0, highest=1 << 62) or None,
        limit=number(request, "limit", otherwise=_JOBS[0], highest=_JOBS[1]),
    )


def describe_job(job: Job) -> JobDocument:
    """A job as operators see it."""
    request = job.request
    return JobDocument(
        id=job.id,
        request_hash=job.request_hash,
        state=job.state,
        stage=job.stage,
        priority=job.priority.name.lower(),
        version=request.version,
        target=request.target,
        profile=request.profile,
        caller=job.caller,
        client=job.client,
        joined=job.joined,
        attempts=job.attempts,
        retries=job.retries,
        reason=job.reason,
        enqueued_at=job.enqueued_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
