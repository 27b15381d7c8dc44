"""What builds print: kept while they run, and read by those who watch."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from msgspec import Struct, field

from asu_builder.core.submit import Builds, BuildView, Progress
from asu_builder.domain.errors import AsuError
from asu_builder.domain.job import Job, Lease, LogLine, PrintedLine, Stage
from asu_builder.domain.make import Lines
from asu_builder.ports import BuildLog

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
"""How long what was printed may wait for its transaction."""
_END_SECONDS = 2.0
"""How long the end of a build waits for its last lines to be written; then they are left to chance."""
_MOST_WAITING = 2 << 20
"""Bytes of one build that wait to be written; about twice what is kept of it in all."""

_Piece = tuple[datetime, Stage, int, bytes]


class BuildLogWriter(Struct, eq=False):
    """One attempt of a build, fed by the thread that builds; made by `Recorder.begin`."""

    request_hash: str
    lease: Lease
    now: Callable[[], datetime]
    noted: Callable[[], None]
    """Called when something waits to be written."""
    stage: Stage = Stage.INIT
    """That to which what is printed from now on belongs."""
    pieces: list[_Piece] = []
    # Two counts, because each has one thread that changes it.
    received: int = 0
    taken: int = 0
    lines: Lines = field(default_factory=Lines)
    closed: bool = False
    ended: bool = False
    written: threading.Event = field(default_factory=threading.Event)
    """Set when nothing of it will be written any more."""

    def on_output(self, stream: int, chunk: bytes) -> None:
        """Takes the next piece of a stream; fulfils `ports.OutputCallback`."""
        if self.closed or self.received - self.taken > _MOST_WAITING:
            return
        self.received += len(chunk)
        # Appending is one step, and so is taking from the front: no lock in the way of the build.
        self.pieces.append((self.now(), self.stage, stream, chunk))
        self.noted()

    def close(self) -> None:
        """Takes nothing more."""
        self.closed = True
        self.pieces.clear()


class Recorder:
    """One thread that writes for all builds of this process, in batches.

    `notify` is called with a request hash when there is something new to see of it, from any thread.
    """

    def __init__(
        self, log: BuildLog, *, now: Callable[[], datetime], notify: Callable[[str], None] = lambda _: None
    ) -> None:
        self._log = log
        self._now = now
        self.tell = notify
        self._noted = threading.Event()
        self._hurry = threading.Event()
        self._stopping = False
        self._writers: list[BuildLogWriter] = []
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._warned = False

    def begin(self, job: Job, lease: Lease) -> BuildLogWriter:
        """Listens to one attempt; the caller ends it by `end`."""
        writer = BuildLogWriter(job.request_hash, lease, self._now, self._noted.set)
        with self._starting:
            self._writers.append(writer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="build-log", daemon=True)
                self._thread.start()
        self.tell(job.request_hash)
        return writer

    def end(self, writer: BuildLogWriter) -> None:
        """Returns when its last line is written, or soon: the outcome must not come before it."""
        writer.ended = True
        self._hurry.set()
        self._noted.set()
        writer.written.wait(_END_SECONDS)

    def stop(self) -> None:
        """Writes what was printed and ends the thread."""
        self._stopping = True
        self._hurry.set()
        self._noted.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._stopping:
            self._noted.wait()
            self._hurry.wait(FLUSH_SECONDS)
            self._noted.clear()
            self._hurry.clear()
            self._flush()
        self._flush()  # what came while the last round was written

    def _flush(self) -> None:
        """Writes what came; what cannot be written is dropped, and said once until it can again."""
        for writer in list(self._writers):
            over = writer.ended
            try:
                count = len(writer.pieces)
                pieces = writer.pieces[:count]
                del writer.pieces[:count]
                writer.taken += sum(len(chunk) for *_, chunk in pieces)
                lines = [
                    PrintedLine(at, stage, text)
                    for at, stage, stream, chunk in pieces
                    for text in writer.lines.feed(stream, chunk)
                ]
                if over:
                    lines += [PrintedLine(self._now(), writer.stage, text) for text in writer.lines.end()]
                if lines:
                    if not self._log.append(writer.lease, lines):
                        writer.close()
                    self._warned = False
                    self.tell(writer.request_hash)
            except AsuError as error:
                if not self._warned:
                    _log.warning("Output of builds is not kept for now: %s", error)
                self._warned = True
            except Exception:  # noqa: BLE001 - a bug here must not cost a build its end
                if not self._stopping:
                    _log.exception("keeping a build's output failed")
                writer.close()
            if over:
                self._writers.remove(writer)
                writer.written.set()


AT_ONCE = 1000
"""Lines of one look at most."""


class Notifier:
    """Tells listeners that there is something new of a build in this process."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[str], object], ...] = ()
        self._changing = threading.Lock()

    def listen(self, listener: Callable[[str], object]) -> None:
        """Calls it with a request hash, from any thread; it must return at once."""
        with self._changing:
            self._listeners = (*self._listeners, listener)

    def notify(self, request_hash: str) -> None:
        """Something is new."""
        for listener in self._listeners:
            listener(request_hash)


class Ends(Struct, frozen=True):
    """How a database server announces which final answers have ended, whichever process ended them.

    Callbacks given to `listen` are called with each hash, from any thread. `generation` returns the same
    number as long as no announcement was missed, and None while that is uncertain.
    """

    generation: Callable[[], int | None]
    listen: Callable[[Callable[[str], object]], None]


class Look(Struct, frozen=True):
    """A build at one moment, and lines of it: those behind `after`, at most `AT_ONCE`.

    `last` is the highest `seq` there is. A final build gets no more of them.
    """

    view: BuildView
    after: int
    lines: Sequence[LogLine]
    last: int


class LiveBuilds:
    """Reads the database, so that it does not matter which process builds."""

    def __init__(self, builds: Builds, log: BuildLog, notifier: Notifier) -> None:
        self._builds = builds
        self._log = log
        self.listen = notifier.listen

    def stamp(self) -> int | None:
        """The same as before where nothing was written to the database; None where that cannot be told now.

        Read it before a look. For the event loop.
        """
        try:
            return self._builds.changes()
        except AsuError:
            return None

    def note_watched(self, request_hash: str) -> None:
        """Somebody watches this build, which counts as a poll."""
        self._builds.touch(request_hash)

    def progress(self, request_hashes: Collection[str]) -> Mapping[str, Progress]:
        """How far these builds are, without their lines; those that are not there are missing."""
        return self._builds.progress(request_hashes)

    def look(self, request_hash: str, *, after: int = 0, job_id: int | None = None) -> Look:
        """The newest job of this hash, and its lines behind `after`. Raises `BuildNotFound`.

        If it is another job than `job_id`, or has not printed as many lines as `after`, it is told
        from its first line on: the same request was asked again.
        """
        # In this order: an outcome is kept after the last line, so what is final has all its lines.
        view = self._builds.look(request_hash)
        last = self._log.last(view.job.id)
        if job_id not in (None, view.job.id) or after > last:
            after = 0
        lines = self.lines(view.job.id, after=after) if after < last else ()
        return Look(view, after, lines, last)

    def lines(self, job_id: int, *, after: int = 0) -> Sequence[LogLine]:
        """At most `AT_ONCE` lines of a job."""
        return self._log.read(job_id, after=after, limit=AT_ONCE)

    def whole(self, request_hash: str, *, after: int = 0) -> Sequence[LogLine]:
        """Every line behind `after` that is there, however many. Raises `BuildNotFound`."""
        job_id = self._builds.look(request_hash).job.id
        return self._log.read(job_id, after=after if after <= self._log.last(job_id) else 0)
