"""Builds over HTTP: submit, poll, cancel, each from memory where the answer is known (`http/answers.py`).

What a body means is known for a few seconds only: policy, catalog and package rules may change.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from asu_builder.core.live import Ends
from asu_builder.core.submit import Ask, Builds, BuildView
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import BuildNotFound, Unavailable
from asu_builder.domain.job import JobState
from asu_builder.domain.reading import Reading
from asu_builder.domain.request import REQUEST_HASH, BuildRequest
from asu_builder.http.answer_cache import CachedResponse, LruByteCache, prepare
from asu_builder.http.answers import PolledBuilds
from asu_builder.http.api.body import BuildRequestBody, client_from_user_agent, parse_request
from asu_builder.http.api.wire import (
    Accepted,
    Done,
    Failed,
    Problem,
    QueueLength,
    RenderedResponse,
    render_build,
    render_json,
    with_cancel_token,
)
from asu_builder.http.callers import Callers
from asu_builder.http.errors import answer_error
from asu_builder.http.openapi import operation
from asu_builder.http.shared_answers import Looked, SharedAnswers
from asu_builder.http.threads import Batcher, Relay, SingleFlight, Threads, Waiting, while_client_stays
from asu_builder.log_context import CURRENT_HASH, REQUEST_ID
from asu_builder.ports import Statistics

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope

_log = logging.getLogger(__name__)

LIVE_SECONDS = 0.5
FINAL_SECONDS = 5.0
"""How long a body means what it meant when it was last submitted: of a result so long, of others as above."""
_POLL_SECONDS = 15.0
"""How long a poll waits for a database that takes the question and is silent: a server that was paused."""
_UNKNOWN = "could not find provided request hash"
_BODIES_BYTES = 4 << 20
_LARGEST = 1 << 20
_LARGEST_BATCH = 32
_OVERHEAD = 1024
"""About what an entry takes beside its text."""


_BUILD_ANSWERS = {
    200: ("The images are there", Done),
    202: ("The job waits or is being built; ask again in some seconds", Accepted),
    500: ("The build failed, for good", Failed),
    503: ("A part of the service does not answer; Retry-After says when to try again", Problem),
}


class SubmittedBody(msgspec.Struct, frozen=True):
    """What the bytes of a POST body meant when they were last submitted."""

    body: bytes
    request: BuildRequest
    request_hash: str
    client: str
    """The name in the body; "" when only the User-Agent tells."""
    caller: str
    """Who sent them; another caller must join in the queue, which lets a live build be cancelled."""
    status: int
    job_id: int
    fresh_until: float


_Post = tuple[bytes, str, Caller, Reading]
"""A body, its User-Agent, its caller, and what it waits for."""
_Submitted = tuple[BuildView, Looked, str]
"""A job, the answer without its secret, and the client that the body names."""

BODY = "asu_builder.body"
"""Where in a scope the body of a POST is."""


class RequestScope(msgspec.Struct, frozen=True):
    """As much of a request as is looked at here; Starlette's has it too, but is not loaded at a start."""

    scope: "Scope"


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
        statistics: Statistics,
        standing_headers: tuple[tuple[bytes, bytes], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        revoked: Callable[[], object] = lambda: None,
        listen: Callable[[Callable[[str], None]], None] = lambda _: None,
        ends: Ends | None = None,
        shared: SharedAnswers | None = None,
    ) -> None:
        """`revoked` gives another value whenever an operator has taken an answer back, in any process.

        `listen` takes what is to be told the hash of each job that this process moves; `shared` are answers
        of other nodes.
        """
        self._builds = builds
        self._callers = callers
        self._reading = reading
        self._batcher = Batcher(submitting, self._submit_in_thread, largest=_LARGEST_BATCH)
        self._waiting = waiting
        self._statistics = statistics
        self._clock = clock
        generation = ends.generation if ends else None
        self.polled = PolledBuilds(
            builds,
            standing_headers=standing_headers,
            listen=listen,
            generation=generation,
            shared=shared,
            clock=clock,
        )
        if ends:
            ends.listen(self.polled.on_loop(self.forget))
        self._unknown = prepare(answer_error(BuildNotFound(_UNKNOWN)), standing_headers)
        # By a number that is quickly made; the body itself is compared.
        self._bodies: LruByteCache[int, SubmittedBody] = LruByteCache(
            budget=_BODIES_BYTES, largest=_LARGEST, seconds=FINAL_SECONDS, clock=clock
        )
        self._revoked = revoked
        self._seen = revoked()
        self._polls: SingleFlight[RenderedResponse] = SingleFlight()
        self._submits: Relay[_Submitted] = Relay()

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
    async def on_post(self, request: "RequestScope | Request") -> RenderedResponse:
        """Ask for images. The same request has the same answer, and is built once for all who ask."""
        scope = request.scope
        return await self.submit(scope[BODY], _header(scope, b"user-agent"), self._callers.of(scope))

    @operation(
        "/api/v1/build/{request_hash}",
        answers={**_BUILD_ANSWERS, 404: ("The request is unknown or has expired", Problem)},
    )
    async def on_get(self, request: "RequestScope | Request") -> RenderedResponse:
        """How far a build is. The headers X-Imagebuilder-Status and X-Queue-Position say it in short."""
        request_hash = require_hash(request.scope["path_params"]["request_hash"])
        answer, _ = await self._polls.ask(request_hash, lambda: self._poll(request_hash))
        return answer

    @operation(
        "/api/v1/build/{request_hash}",
        method="DELETE",
        answers={
            200: ("It is cancelled; the document is that of a cancelled build", Failed),
            403: ("Neither an operator's token nor the right secret was sent", Problem),
            401: ("An unknown token was sent", Problem),
            404: ("The request is unknown or has expired", Problem),
            409: ("It has ended before, or others wait for it too", Problem),
        },
    )
    async def on_delete(self, request: "Request") -> RenderedResponse:
        """Cancel a build that waits or runs. Needs an operator's token, or in the header X-Cancel-Token the
        secret that the request which started it was answered with.
        """
        caller = self._callers.of(request.scope)
        cancel_token = _header(request.scope, b"x-cancel-token")[:256]
        answer = await self.cancel(request.path_params["request_hash"], caller, cancel_token)
        return RenderedResponse(200, answer.body, answer.headers)

    @operation(
        "/api/v1/stats",
        answers={
            200: ("The length of the queue", QueueLength),
            503: ("The database does not answer", Problem),
        },
    )
    async def on_stats(self, _: "Request") -> RenderedResponse:
        """How many jobs wait."""
        pending = await self._reading.run(self._builds.pending)
        self.polled.note_queue_length(pending)
        return render_json(QueueLength(pending))

    def get_cached(self, request_hash: str) -> CachedResponse | None:
        """The answer to a poll, if it is known; never waits."""
        if self._revoked() != self._seen:
            self._drop_revoked()
        cached = self.polled.get(request_hash)
        if cached is not None or not is_request_hash(request_hash) or self._polls.runs(request_hash):
            return cached
        try:
            # One look into one index: docs/decisions/one-look-on-the-event-loop.md.
            return self._unknown if self._builds.find_id(request_hash) is None else None
        except Exception:  # noqa: BLE001 - a thread can wait for it, or tells what is wrong
            return None

    def get_cached_by_body(self, body: bytes, scope: "Scope") -> CachedResponse | None:
        """The answer to a POST of this body, if it is still fresh; never waits."""
        sent = self._bodies.get(crc32(body))
        # The queue notes who joins a live build, so that it is not cancelled under them.
        if sent is None or (sent.status != 200 and self._callers.of(scope).name != sent.caller):
            return None
        cached = self._get_submitted(sent, body)
        if cached is not None and sent.status == 200:
            self._count_hit(sent, _header(scope, b"user-agent"))
        return cached

    def get_cached_again(self, key: int, body: bytes, user_agent: str) -> CachedResponse | None:
        """The same for a body of this CRC if it is answered with a result, for any caller."""
        sent = self._bodies.get(key)
        if sent is None or sent.status != 200:
            return None
        cached = self._get_submitted(sent, body)
        if cached is not None:
            self._count_hit(sent, user_agent)
        return cached

    def _get_submitted(self, sent: SubmittedBody, body: bytes) -> CachedResponse | None:
        if sent.body != body or self._clock() >= sent.fresh_until:
            return None
        if self._revoked() != self._seen:
            self._drop_revoked()
        cached = self.polled.get(sent.request_hash)
        # Ended, or another job by now, which no caller of this name has joined: let the queue decide.
        if cached is None or cached.status != sent.status or cached.job_id != sent.job_id:
            return None
        return cached

    def _count_hit(self, sent: SubmittedBody, user_agent: str) -> None:
        client = sent.client or client_from_user_agent(user_agent)
        self._statistics.record("cache_hit", sent.request, client=client)

    async def submit(self, body: bytes, user_agent: str, caller: Caller) -> RenderedResponse:
        """The answer to a POST. Raises what `parse_request` and `Builds.submit` raise, and
        `ClientGone` when the client goes away.

        The secret to cancel by goes to the first caller and is never cached.
        """
        self._drop_revoked()
        post = body, user_agent, caller, self._waiting.reading(caller, body)
        with while_client_stays():
            (view, looked, client), first = await self._submits.ask(
                (body, caller.name), lambda: self._submit(post)
            )
        answer = looked.answer
        CURRENT_HASH.set(view.job.request_hash)
        if first and view.cancel_token:
            _log.info("build submitted")
            return with_cancel_token(answer, view.cancel_token)
        if not first and answer.status == 200:
            # The service has counted one of those who asked at the same time.
            client = client or client_from_user_agent(user_agent)
            self._statistics.record("cache_hit", view.job.request, client=client)
        return answer

    async def _submit(self, post: _Post) -> _Submitted:
        """The one call for equal requests."""
        self._drop_revoked()
        since = self.polled.mark()
        body, _, caller, reading = post
        view, looked, client = await self._waiting.until_whole(reading, lambda: self._batcher.ask(post))
        answer = looked.answer
        if view.cancel_token:
            self.polled.note_submission()
        self._drop_revoked()
        # Whether anything has changed is looked at each time.
        if not view.unchanged and self.polled.put(looked, since):
            job = view.job
            seconds = FINAL_SECONDS if job.state is JobState.COMPLETED else LIVE_SECONDS
            fresh_until = self._clock() + seconds
            sent = SubmittedBody(
                body, job.request, job.request_hash, client, caller.name, answer.status, job.id, fresh_until
            )
            self._bodies.put(crc32(body), sent, _OVERHEAD + 5 * len(body))
        return view, looked, client

    async def cancel(self, request_hash: str, caller: Caller, cancel_token: str) -> RenderedResponse:
        """The answer to a request to cancel. Raises what `Builds.cancel` raises."""
        require_hash(request_hash)
        view = await self._reading.run(
            partial(self._builds.cancel, request_hash, caller=caller, cancel_token=cancel_token)
        )
        self.forget(request_hash)
        return render_build(view)

    def forget(self, request_hash: str) -> None:
        """Drops the cached answer for this hash: an operator has changed what it means."""
        self.polled.forget(request_hash)
        self._part()

    def note_end(self, request_hash: str) -> None:
        """Drops what was answered while the build of this hash lived: somebody was told of its end."""
        if self.polled.lives(request_hash):
            self.forget(request_hash)

    def _drop_revoked(self) -> None:
        """Drops every answer if an operator has changed something in another process, which is rare."""
        if self._revoked() == self._seen:
            return
        self._seen = self._revoked()
        self.polled.clear()
        self._part()

    def _part(self) -> None:
        """Later callers do not join what began before."""
        self._polls.part()
        self._submits.part()

    async def _poll(self, request_hash: str) -> RenderedResponse:
        self._drop_revoked()
        since = self.polled.mark()
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                looked = await self._reading.run(self.polled.look, request_hash)
        except TimeoutError:
            raise Unavailable("The database does not answer: a look at a build takes too long.") from None
        self._drop_revoked()
        # A POST that came in between knows better than this poll.
        if not self.polled.holds(request_hash):
            self.polled.put(looked, since)
        return looked.answer

    def _submit_in_thread(self, posts: list[_Post]) -> list[_Submitted | Exception]:
        """One result for each; what is raised for one is not raised for those beside it."""
        if len(posts) > 1:
            REQUEST_ID.set("")  # the lines are about several requests
        results: dict[int, _Submitted | Exception] = {}
        asked: dict[int, Ask] = {}
        named: dict[int, str] = {}
        for number, (body, user_agent, caller, reading) in enumerate(posts):
            try:
                request, named[number] = parse_request(body)
            except Exception as refusal:  # noqa: BLE001
                results[number] = refusal
            else:
                client = named[number] or client_from_user_agent(user_agent)
                asked[number] = Ask(request, client, caller, reading)
        for number, view in zip(asked, self._builds.submit_all(list(asked.values())), strict=True):
            try:
                if isinstance(view, Exception):
                    results[number] = view
                    continue
                results[number] = view, Looked.of(view), named[number]
            except Exception as bug:  # noqa: BLE001
                results[number] = bug
        return [results[number] for number in range(len(posts))]


def is_request_hash(text: str) -> bool:
    """Whether this could name a request."""
    return REQUEST_HASH.fullmatch(text) is not None


def require_hash(text: str) -> str:
    """The same text. Raises `BuildNotFound` for what can be no request hash."""
    if not is_request_hash(text):
        raise BuildNotFound(_UNKNOWN)
    return text


def _header(scope: "Scope", name: bytes) -> str:
    """The first header of this name, which is in small letters; "" without one."""
    return next((value for sent, value in scope["headers"] if sent == name), b"").decode("latin-1")
