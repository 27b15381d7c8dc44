"""Builds as HTTP sees them: submit, look, and what was answered a moment ago.

Two thousand waiting clients mostly see what the last one saw, so rendered answers are remembered:
one that may still change for half a second, a final one for five, after which the next caller looks
again (files may be gone, the result may have expired).
"""

import hashlib
import logging
import time
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.submit import Ask, Builds, BuildView
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import BuildNotFound
from asu_builder.domain.job import FINAL_STATES, JobState
from asu_builder.domain.request import REQUEST_HASH, BuildRequest
from asu_builder.http.api.body import BuildRequestBody, client_from_user_agent, parse_request
from asu_builder.http.api.documents import Accepted, Done, Failed, Problem
from asu_builder.http.api.wire import Answer, render_build
from asu_builder.http.cache import LruByteCache
from asu_builder.http.callers import Callers
from asu_builder.http.errors import respond
from asu_builder.http.openapi import operation
from asu_builder.http.threads import Batcher, SingleFlight, Threads
from asu_builder.http.waiting import Waiting, while_client_stays
from asu_builder.log_context import CURRENT_HASH, REQUEST_ID
from asu_builder.ports import Reading

_log = logging.getLogger(__name__)

LIVE_SECONDS = 0.5
FINAL_SECONDS = 5.0
_ANSWERS_BYTES = 16 << 20
_BODIES_BYTES = 4 << 20
_LARGEST = 1 << 20
_SUBMITTED_TOGETHER = 32
_OVERHEAD = 1024
"""About what an entry takes beside its text."""


_BUILD_ANSWERS = {
    200: ("The images are there", Done),
    202: ("The job waits or is being built; ask again in some seconds", Accepted),
    500: ("The build failed, for good", Failed),
    503: ("A part of the service does not answer; Retry-After says when to try again", Problem),
}


class CachedResponse(msgspec.Struct, frozen=True):
    """An answer and until when, on the monotonic clock, it is given without another look."""

    answer: Answer
    fresh_until: float
    headers: tuple[tuple[bytes, bytes], ...]
    """Everything that is the same each time, ready to be sent."""
    job_id: int


class Asked(msgspec.Struct, frozen=True):
    """What the bytes of a POST body meant when they were last submitted."""

    request: BuildRequest
    request_hash: str
    client: str
    """The name in the body; "" when only the User-Agent tells."""
    caller: str
    """Who sent them; somebody else must be known to the queue, which lets a live build be cancelled."""
    status: int
    job_id: int
    fresh_until: float


class _Submitted(msgspec.Struct, frozen=True):
    view: BuildView
    answer: Answer
    """As anybody may see it."""
    asked: BuildRequest
    client: str


class _Post(msgspec.Struct, frozen=True):
    body: bytes
    user_agent: str
    caller: Caller
    reading: Reading


class BuildAnswers:
    """Answers to build requests; lives on the event loop, reaches the services through threads."""

    def __init__(
        self,
        builds: Builds,
        *,
        callers: Callers,
        reading: Threads,
        submitting: Threads,
        waiting: Waiting,
        record_cache_hit: Callable[[BuildRequest, str], None],
        standing_headers: tuple[tuple[bytes, bytes], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        revoked: Callable[[], object] = lambda: None,
    ) -> None:
        """`revoked` gives another value whenever an operator has taken an answer back, in any process."""
        self._builds = builds
        self._callers = callers
        self._note_interest = builds.touch
        self._reading = reading
        self._together = Batcher(submitting, self._submit_in_thread, largest=_SUBMITTED_TOGETHER)
        self._waiting = waiting
        self._record_cache_hit = record_cache_hit
        self._standing_headers = standing_headers
        self._clock = clock
        self._kept: LruByteCache[str, CachedResponse] = LruByteCache(
            budget=_ANSWERS_BYTES, largest=_LARGEST, seconds=FINAL_SECONDS, clock=clock
        )
        self._asked: LruByteCache[bytes, Asked] = LruByteCache(
            budget=_BODIES_BYTES, largest=_LARGEST, seconds=FINAL_SECONDS, clock=clock
        )
        self._forgotten = 0
        """How often an operator has changed something: what was looked up before is not kept after."""
        self._revoked = revoked
        self._seen = revoked()
        self._looks: SingleFlight[Answer] = SingleFlight()
        self._submits: SingleFlight[_Submitted] = SingleFlight()

    @operation(
        "/api/v1/build",
        method="POST",
        answers={
            **_BUILD_ANSWERS,
            400: ("The request cannot be served here", Problem),
            408: ("The body did not arrive in time", Problem),
            413: ("The body is too large", Problem),
            422: ("The body is no build request; detail names the field", Problem),
            401: ("An unknown token was sent", Problem),
            429: ("The queue is full, or this address asks too often; Retry-After says when", Problem),
        },
        body=BuildRequestBody,
    )
    async def on_post(self, request: Request) -> Response:
        """Ask for images. The same request has the same answer, and is built once for all who ask."""
        agent = request.headers.get("user-agent", "")
        return respond(await self.submit(await request.body(), agent, self._callers.of(request.scope)))

    @operation(
        "/api/v1/build/{request_hash}",
        answers={**_BUILD_ANSWERS, 404: ("Nobody knows this request, or it has expired", Problem)},
    )
    async def on_get(self, request: Request) -> Response:
        """How far a build is. The headers X-Imagebuilder-Status and X-Queue-Position say it in short."""
        return respond(await self.look(request.path_params["request_hash"]))

    @operation(
        "/api/v1/build/{request_hash}",
        method="DELETE",
        answers={
            200: ("It is cancelled; the document is that of a cancelled build", Failed),
            403: ("Neither an operator's token nor the right secret was sent", Problem),
            401: ("An unknown token was sent", Problem),
            404: ("Nobody knows this request, or it has expired", Problem),
            409: ("It has ended before, or others wait for it too", Problem),
        },
    )
    async def on_delete(self, request: Request) -> Response:
        """Cancel a build that waits or runs. Needs an operator's token, or in the header X-Cancel-Token the
        secret that the request which started it was answered with.
        """
        caller = self._callers.of(request.scope)
        cancel_token = request.headers.get("x-cancel-token", "")[:256]
        answer = await self.cancel(request.path_params["request_hash"], caller, cancel_token)
        return respond(Answer(200, answer.body, answer.headers))

    def get_cached(self, request_hash: str) -> CachedResponse | None:
        """The answer to a poll, if the last one is still fresh; never waits."""
        self._notice_revocations()
        kept = self._kept.get(request_hash)
        if kept is None or self._clock() >= kept.fresh_until:
            return None
        self._note_interest(request_hash)
        return kept

    def get_cached_by_body(
        self, body: bytes, user_agent: str, caller_of: Callable[[], Caller]
    ) -> CachedResponse | None:
        """The answer to a POST of these very bytes, if it is still fresh; never waits."""
        asked = self._asked.get(hashlib.sha256(body).digest())
        if asked is None or self._clock() >= asked.fresh_until:
            return None
        # Whoever joins a live build is noted there, so that it is not cancelled under them.
        if asked.status != 200 and caller_of().name != asked.caller:
            return None
        kept = self.get_cached(asked.request_hash)
        # Ended, or another job by now, which nobody of this name has joined: let the queue decide.
        if kept is None or kept.answer.status != asked.status or kept.job_id != asked.job_id:
            return None
        if asked.status == 200:
            self._record_cache_hit(asked.request, asked.client or client_from_user_agent(user_agent))
        return kept

    async def look(self, request_hash: str) -> Answer:
        """The answer to a poll. Raises `BuildNotFound`, also for what could be no hash."""
        _require_hash(request_hash)
        kept = self.get_cached(request_hash)
        if kept is not None:
            return kept.answer
        answer, _ = await self._looks.ask(request_hash, lambda: self._look(request_hash))
        return answer

    async def _look(self, request_hash: str) -> Answer:
        before, forgotten = self._kept.get(request_hash), self._forgotten
        view, answer = await self._reading.run(self._look_in_thread, request_hash)
        # A POST that came in between knows better than this look.
        self._notice_revocations()
        if self._kept.get(request_hash) is before and self._forgotten == forgotten:
            self._keep(view, answer)
        return answer

    def _look_in_thread(self, request_hash: str) -> tuple[BuildView, Answer]:
        view = self._builds.look(request_hash)
        return view, render_build(view)

    async def submit(self, body: bytes, user_agent: str, caller: Caller) -> Answer:
        """The answer to a POST. Raises what `parse_request` and `Builds.submit` raise, and
        `ClientDisconnect` when the client goes away.

        The secret to cancel by is for the one who came first, and never kept.
        """
        self._notice_revocations()
        digest = hashlib.sha256(body).digest()
        post = _Post(body, user_agent, caller, self._waiting.reading(caller, digest.hex()))
        with while_client_stays():
            submitted, first = await self._submits.ask(
                (digest, caller.name), lambda: self._submit(digest, post)
            )
        CURRENT_HASH.set(submitted.view.job.request_hash)
        if first:
            if submitted.view.cancel_token:
                _log.info("build submitted")
            return render_build(submitted.view) if submitted.view.cancel_token else submitted.answer
        if submitted.answer.status == 200:
            # The service has counted one of those who asked together.
            client = submitted.client or client_from_user_agent(user_agent)
            self._record_cache_hit(submitted.asked, client)
        return submitted.answer

    async def cancel(self, request_hash: str, caller: Caller, cancel_token: str) -> Answer:
        """The answer to a wish to cancel. Raises what `Builds.cancel` raises."""
        _require_hash(request_hash)
        forgotten = self._forgotten
        view = await self._reading.run(
            partial(self._builds.cancel, request_hash, caller=caller, cancel_token=cancel_token)
        )
        answer = render_build(view)
        self._notice_revocations()
        if self._forgotten == forgotten:
            self._keep(view, answer)
        return answer

    def forget(self, request_hash: str) -> None:
        """Gives no remembered answer for this hash any more: an operator has changed what it means."""
        self._forgotten += 1
        self._kept.drop(request_hash)
        # Nor does anybody join a look at how it was before.
        self._looks.part()
        self._submits.part()

    def _notice_revocations(self) -> None:
        if self._revoked() != self._seen:
            self._forget_all()

    def _forget_all(self) -> None:
        """Rarely done: what was taken back, and by whom, need not be known."""
        self._seen = self._revoked()
        self._forgotten += 1
        self._kept.clear()
        self._looks.part()
        self._submits.part()

    async def _submit(self, digest: bytes, post: _Post) -> _Submitted:
        forgotten = self._forgotten
        submitted = await self._waiting.until_whole(post.reading, lambda: self._together.ask(post))
        self._notice_revocations()
        if self._forgotten != forgotten:
            return submitted
        view = submitted.view
        self._keep(view, submitted.answer)
        seconds = FINAL_SECONDS if view.job.state is JobState.COMPLETED else LIVE_SECONDS
        asked = Asked(
            view.job.request,
            view.job.request_hash,
            submitted.client,
            post.caller.name,
            submitted.answer.status,
            view.job.id,
            self._clock() + seconds,
        )
        self._asked.put(digest, asked, _OVERHEAD + 4 * len(post.body))
        return submitted

    def _submit_in_thread(self, posts: list[_Post]) -> list[_Submitted | Exception]:
        if len(posts) > 1:
            REQUEST_ID.set("")  # what is logged in here is nobody's alone
        parsed = [_parse(post.body) for post in posts]
        asked = [
            Ask(found[0], found[1] or client_from_user_agent(post.user_agent), post.caller, post.reading)
            for found, post in zip(parsed, posts, strict=True)
            if not isinstance(found, Exception)
        ]
        answers = iter(self._builds.submit_all(asked))
        return [
            found if isinstance(found, Exception) else _submitted(found, next(answers)) for found in parsed
        ]

    def _keep(self, view: BuildView, answer: Answer) -> None:
        seconds = FINAL_SECONDS if view.job.state in FINAL_STATES else LIVE_SECONDS
        headers = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
            *self._standing_headers,
        )
        kept = CachedResponse(answer, self._clock() + seconds, headers, view.job.id)
        self._kept.put(view.job.request_hash, kept, len(answer.body) + _OVERHEAD)


def is_request_hash(text: str) -> bool:
    """Whether this could name a request."""
    return REQUEST_HASH.fullmatch(text) is not None


def _require_hash(request_hash: str) -> None:
    if not is_request_hash(request_hash):
        raise BuildNotFound("could not find provided request hash")


def _parse(body: bytes) -> tuple[BuildRequest, str] | Exception:
    try:
        return parse_request(body)
    except Exception as refusal:  # noqa: BLE001 - raised for this request, not for those beside it
        return refusal


def _submitted(post: tuple[BuildRequest, str], answer: BuildView | Exception) -> _Submitted | Exception:
    if isinstance(answer, Exception):
        return answer
    request, client = post
    try:
        return _Submitted(answer, render_build(replace(answer, cancel_token="")), request, client)
    except Exception as bug:  # noqa: BLE001 - met by this answer alone
        return bug
