"""An answer about a build as it was looked up: in the database, or among what another node has rendered."""

from collections.abc import Callable

from msgspec import MsgspecError, Struct, msgpack

from asu_builder.core.submit import Builds, BuildView, Progress
from asu_builder.domain.errors import SigningUnavailable
from asu_builder.domain.job import FINAL_STATES, JobState
from asu_builder.http.api.wire import BuildFrame, RenderedResponse, frame_of, render_build
from asu_builder.ports import SharedCopies


class Looked(Struct, frozen=True):
    """A build as it was just read, and how it is told."""

    request_hash: str
    job_id: int
    state: JobState
    answer: RenderedResponse
    frame: BuildFrame | None = None
    """Of a live build, and its progress."""
    progress: Progress | None = None

    @classmethod
    def of(cls, view: BuildView) -> "Looked":
        """A build that was read from the database, rendered here."""
        job, frame = view.job, frame_of(view.job)
        answer = render_build(view, frame)
        if job.state in FINAL_STATES:
            return cls(job.request_hash, job.id, job.state, answer)
        return cls(job.request_hash, job.id, job.state, answer, frame, view.progress)


class _FinalAnswer(Struct, frozen=True, array_like=True):
    """The answer to a poll of a build that has ended, as nodes share it."""

    terms: str
    """What it depends on beside the job."""
    job_id: int
    state: JobState
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


_DECODE_FINAL = msgpack.Decoder(_FinalAnswer).decode
_ANSWER = "answer:"


def copy_of(request_hash: str) -> str:
    """The name under which nodes share the answer of this hash."""
    return _ANSWER + request_hash


class SharedAnswers(Struct, frozen=True):
    """Final answers that another node has rendered, and those that others need not render again.

    Raises `Unavailable` as a look into the database does.
    """

    copies: SharedCopies
    builds: Builds
    terms: Callable[[], str]
    """The same on two nodes whose answers to one job are the same."""

    def find(self, request_hash: str) -> Looked | None:
        """What another node has rendered, as long as that job answers here, with its files."""
        content = self.copies.get(copy_of(request_hash))
        if content is None:
            return None
        try:
            found = _DECODE_FINAL(content)
        except MsgspecError:
            return None  # of another version
        if found.terms != self._terms() or self.builds.newest_id(request_hash) != found.job_id:
            return None
        completed = [request_hash] if found.state is JobState.COMPLETED else []
        if self.builds.lost(completed, checked=completed):
            return None
        self.builds.touch(request_hash)
        answer = RenderedResponse(found.status, found.body, found.headers)
        return Looked(request_hash, found.job_id, found.state, answer)

    def offer(self, looked: Looked, view: BuildView, *, since: int) -> None:
        """Lets others read an answer that is final, holds no secret, and is of a job in the database."""
        request, answer, terms = view.job.request, looked.answer, self._terms()
        is_secret = request.defaults or request.repository_keys
        if looked.frame or looked.job_id < 0 or is_secret or not terms:
            return
        final = _FinalAnswer(terms, looked.job_id, looked.state, answer.status, answer.headers, answer.body)
        self.copies.put(copy_of(looked.request_hash), msgpack.encode(final), since=since)

    def _terms(self) -> str:
        """ "" while the key cannot be read by which it is known."""
        try:
            return self.terms()
        except SigningUnavailable:
            return ""
