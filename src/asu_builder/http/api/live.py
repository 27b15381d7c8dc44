"""How a build is followed: the addresses, and the messages that watchers are sent, as types and rendered."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from asu_builder.core.submit import BuildView, Progress
from asu_builder.domain.job import BuildFailure, JobState, LogLine, Stage
from asu_builder.http.api.wire import Problem, render_build
from asu_builder.http.openapi import A_SENTENCE, A_TIME, operation, says
from asu_builder.loading import Late

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from asu_builder.http.api.streams import LiveStreams

_Stage = Annotated[Stage, says("The stage that printed it", "building_image")]


class StateEvent(msgspec.Struct, tag="state"):
    """How far the build is; sent first, and whenever it changes."""

    state: Annotated[JobState, says("The state of the job", "building")]
    stage: Annotated[Stage | None, says("The current stage; null unless it is building", "building_image")]
    position: Annotated[int | None, says("Number of jobs ahead; null unless the job waits", 3, None)]
    eta_seconds: Annotated[int | None, says("Estimated seconds until the end; null if unknown", 42)]
    waiting_for: Annotated[
        str | None, says("Why no build can start; null if the job only waits in the queue", "engine", None)
    ] = None
    late: Annotated[bool, says("Whether it takes longer than builds usually do", False)] = False


class LineDocument(msgspec.Struct):
    """One line that a command of the build printed."""

    seq: Annotated[int, says("Number of the line in this build, from 1", 17, minimum=1)]
    at: Annotated[datetime, says("When it was printed, UTC", A_TIME, format="date-time")]
    stage: _Stage
    text: Annotated[
        str, says("The line, without control characters, at most 2000 long", "Building images...")
    ]


class LinesEvent(msgspec.Struct, tag="lines"):
    """Lines that were printed since the last such message."""

    lines: Annotated[Sequence[LineDocument], says("In the order in which they were printed", [])]


class FinalEvent(msgspec.Struct, tag="final"):
    """The end: nothing follows. `document` is what GET of the build answers, `status` its HTTP status."""

    status: Annotated[int, says("The HTTP status", 200, 500)]
    document: Annotated[
        Mapping[str, Any], says("Done or Failed, as in the response to GET of the build", {"status": 200})
    ]


class ProblemEvent(msgspec.Struct, tag="problem"):
    """Why nothing follows, though the build has not ended."""

    status: Annotated[int, says("The corresponding HTTP status", 404, 429, 503)]
    title: Annotated[str, says("The kind of error", "Not Found")]
    detail: Annotated[str, says("What is wrong and what to do", A_SENTENCE)]


Event = StateEvent | LinesEvent | FinalEvent | ProblemEvent

_encode = msgspec.json.Encoder().encode


class Message:
    """One message, rendered once for all who are sent it, in whichever form they read."""

    __slots__ = ("_event", "_text", "json", "kind", "last")

    def __init__(self, kind: str, body: str, *, text: Callable[[], str] | bytes, last: int = 0) -> None:
        """`body` is JSON, `text` is or makes what people read, `last` is the highest `seq` in it."""
        self.kind = kind
        self.json = body
        self.last = last
        self._text = text
        self._event: bytes | None = None

    @property
    def text(self) -> bytes:
        """In lines, for people."""
        if not isinstance(self._text, bytes):
            self._text = self._text().encode()
        return self._text

    @property
    def event(self) -> bytes:
        """As a server-sent event."""
        if self._event is None:
            number = f"id: {self.last}\n" if self.last else ""
            self._event = f"event: {self.kind}\n{number}data: {self.json}\n\n".encode()
        return self._event


def render_state(progress: Progress) -> Message:
    """How far a build is."""
    standing = progress.standing
    stage = (standing.stage or Stage.INIT) if standing.state is JobState.BUILDING else None
    position = (standing.ahead or 0) if standing.state is JobState.PENDING else None
    event = StateEvent(
        standing.state,
        stage,
        position,
        progress.eta_seconds,
        progress.waiting_for or None,
        progress.late,
    )
    parts = [str(standing.state)]
    parts += [f"{position} ahead"] if position is not None else []
    parts += [f"about {event.eta_seconds} s left"] if event.eta_seconds is not None else []
    return Message("state", _encode(event).decode(), text=f"-- {', '.join(parts)}\n".encode())


def render_lines(lines: Sequence[LogLine]) -> Message:
    """Lines, at least one."""
    event = LinesEvent([LineDocument(line.seq, line.at, line.stage, line.text) for line in lines])
    return Message("lines", _encode(event).decode(), text=partial(render_text, lines), last=lines[-1].seq)


def render_final(view: BuildView) -> Message:
    """The end of a build, as GET answers it."""
    answer = render_build(view)
    body = f'{{"type":"final","status":{answer.status},"document":{answer.body.decode()}}}'
    outcome, state = view.job.outcome, view.job.state
    text = f"{state}: {outcome.detail}" if isinstance(outcome, BuildFailure) else str(state)
    return Message("final", body, text=lambda: f"-- {text}\n")


def render_problem_event(status: int, title: str, detail: str) -> Message:
    """Why nothing follows."""
    return Message(
        "problem", _encode(ProblemEvent(status, title, detail)).decode(), text=lambda: f"-- {detail}\n"
    )


def render_text(lines: Sequence[LogLine]) -> str:
    """`HH:MM:SS stage  text`, in UTC, one a line."""
    return "".join(f"{line.at:%H:%M:%S} {line.stage:<17}  {line.text}\n" for line in lines)


class WatchLimits(msgspec.Struct, frozen=True):
    """How many may watch: in all, of one address or token; and how long one message may take to send.

    A process often has no more than 1,024 descriptors, and builds need some of them.
    """

    total: int = 700
    each: int = 100
    seconds: float = 15.0


EVENTS = "/api/v1/build/{request_hash}/events"
STREAM = "asu_builder.stream"
"""Where in a scope an answer that lasts leaves its rest, to be awaited with the scope and `send`."""
_WATCHED: dict[int, tuple[str, Any]] = {
    400: ("after is no number", Problem),
    404: ("The request is unknown or has expired", Problem),
    503: ("A part of the service does not answer; Retry-After says when to try again", Problem),
    401: ("An unknown token was sent", Problem),
    429: ("Too many watch builds, of this address or in all; Retry-After says when to try again", Problem),
}


class LiveEndpoints:
    """Endpoints on the event loop; what stays open is loaded with the first that is asked for."""

    def __init__(self, load: Callable[[], "LiveStreams"]) -> None:
        """`load` is called once."""
        self._streams = Late(load)

    @operation(
        EVENTS,
        answers={200: ("Events until the build has ended", None), **_WATCHED},
        query=("after",),
        content_type="text/event-stream",
        events=Event,
    )
    async def events(self, request: "Request") -> Any:
        """Follow a build: by WebSocket, where each message is one of the documents below with its name as
        `type`, else as server-sent events with the same documents, where a client that comes back sends
        Last-Event-ID.
        """
        return await self._streams().events(request)

    @operation(
        "/api/v1/build/{request_hash}/log",
        answers={200: ("The lines", None), **_WATCHED},
        query=("after", "follow"),
        content_type="text/plain",
    )
    async def log(self, request: "Request") -> Any:
        """What a build has printed, one line each: time, stage, text. With follow=1 also what it will print,
        to its end.
        """
        return await self._streams().log(request)

    def socket(
        self, scope: "Scope", receive: "Receive", send: "Send", request_id: bytes
    ) -> Awaitable[tuple[str, int]]:
        """Answers a WebSocket; the route and the HTTP status, for the counters."""
        return self._streams().answer_socket(scope, receive, send, request_id)

    @property
    def watchers(self) -> int:
        """How many watch a build."""
        streams = self._streams.value
        return streams.watchers if streams else 0

    def stop(self) -> None:
        """Ends what is open."""
        if self._streams.value:
            self._streams.value.stop()
