"""The operator's interface: lists and acts, each behind a right that a token gives."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.access import Right
from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.job import Job, JobState
from asu_builder.domain.request import HASH_PREFIX
from asu_builder.ports import JobFilter
from asu_builder.services.operator import Operator
from asu_builder.web.asker import Askers
from asu_builder.web.errors import respond
from asu_builder.web.operator_acts import OperatorActs
from asu_builder.web.operator_documents import (
    ActDocument,
    ActList,
    ConfigurationDocument,
    DoneDocument,
    JobDocument,
    JobList,
    WorkersDocument,
)
from asu_builder.web.queries import number
from asu_builder.web.threads import Threads
from asu_builder.web.wire import render_json

_JOBS = (100, 1000)


class OperatorEndpoints:
    """Every answer needs a token: `read` for what is shown, `operate` for what is done."""

    def __init__(
        self,
        operator: Operator,
        acts: OperatorActs,
        *,
        askers: Askers,
        threads: Threads,
        configuration: Callable[[], ConfigurationDocument],
    ) -> None:
        self._operator = operator
        self._configuration = configuration
        self._acts = acts
        self._askers = askers
        self._threads = threads

    async def jobs(self, request: Request) -> Response:
        """Jobs by state, version, target, profile and asker, newest first."""
        self._require_to_read(request)
        wanted = job_filter(request)
        found = await self._threads.run(self._operator.jobs, wanted)
        return respond(render_json(JobList([describe_job(job) for job in found])))

    async def requeue(self, request: Request) -> Response:
        """Builds once more what has ended, or gives a running build back."""
        return await self._act(request, "requeue", "requeued")

    async def purge(self, request: Request) -> Response:
        """Forgets a result or failure with its images."""
        return await self._act(request, "purge", "purged")

    async def workers(self, request: Request) -> Response:
        """Whether the workers are paused."""
        self._require_to_read(request)
        return await self._workers()

    async def pause(self, request: Request) -> Response:
        """Lets no worker claim a job."""
        await self._acts.on_workers(self._askers.of(request.scope), "pause")
        return await self._workers()

    async def resume(self, request: Request) -> Response:
        """Lets workers claim again."""
        await self._acts.on_workers(self._askers.of(request.scope), "resume")
        return await self._workers()

    async def acts(self, request: Request) -> Response:
        """What operators did."""
        self._require_to_read(request)
        found = await self._threads.run(
            self._operator.acts, number(request, "limit", otherwise=_JOBS[0], highest=_JOBS[1])
        )
        return respond(
            render_json(ActList([ActDocument(act.at, act.who, act.act, act.subject) for act in found]))
        )

    async def configuration(self, request: Request) -> Response:
        """The settings in effect."""
        self._require_to_read(request)
        return respond(render_json(await self._threads.run(self._configuration)))

    async def _workers(self) -> Response:
        pause = await self._threads.run(self._operator.paused)
        if pause is None:
            return respond(render_json(WorkersDocument(paused=False)))
        return respond(render_json(WorkersDocument(True, pause.since, pause.who)))

    async def _act(self, request: Request, act: str, done: str) -> Response:
        await self._acts.on_job(self._askers.of(request.scope), act, request.path_params["request_hash"])
        return respond(render_json(DoneDocument(200, done)))

    def _require_to_read(self, request: Request) -> None:
        """Raises `NotAuthenticated` or `NotAllowed`."""
        self._askers.of(request.scope).require(Right.READ)


def job_filter(request: Request) -> JobFilter:
    """What the address asks for. Raises `RequestRejected`."""
    given = request.query_params
    state = given.get("state", "")
    if state and state not in set(JobState):
        raise RequestRejected(f"state: expected one of {', '.join(JobState)}, got {state[:40]!r}")
    return JobFilter(
        state=JobState(state) if state else None,
        version=given.get("version", "")[:64],
        target=given.get("target", "")[:65],
        profile=given.get("profile", "")[:128],
        asker=given.get("asker", "")[:128],
        request_hash=_prefix(given.get("request_hash", "")),
        before=number(request, "before", otherwise=0, highest=1 << 62) or None,
        limit=number(request, "limit", otherwise=_JOBS[0], highest=_JOBS[1]),
    )


def _prefix(text: str) -> str:
    if text and not HASH_PREFIX.fullmatch(text):
        raise RequestRejected(f"request_hash: expected 4 to 64 hexadecimal digits, got {text[:80]!r}")
    return text


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
        asker=job.asker,
        client=job.client,
        joined=job.joined,
        attempts=job.attempts,
        retries=job.retries,
        reason=job.reason,
        enqueued_at=job.enqueued_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
