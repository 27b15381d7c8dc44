"""The process that works out dependencies, and how the service asks it.

A library in C that computes on what strangers send stays out of the service: it may take memory and time,
or crash, and then only one verdict is lost (docs/decisions/libsolv-beside-the-service.md).
"""

import contextlib
import gc
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.health import Breaker
from asu_builder.domain.package_index import IndexedPackage, PackageManager
from asu_builder.domain.preflight import Feasibility, Foretold, PackageIndexes, unknown

if TYPE_CHECKING:
    from asu_builder.resolver.pool import PackagePool
    from asu_builder.upstream.package_index import ReadIndex

_log = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")
_LONGEST_MESSAGE = 256 << 20
_BYTES_A_PACKAGE = 2_500
"""Memory of a package with its part of the pool; 1,900 were measured."""
_SHOWN_BYTES = 4096
_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = 70
_UNBUILDABLE_SECONDS = 600.0
_MOST_UNBUILDABLE = 32
_ENDING_SECONDS = 2.0


class Limits(Struct, frozen=True):
    """What the process may take. Seconds, and bytes."""

    memory: int = 512 << 20
    """Address space of the process."""
    worlds: int = 100 << 20
    """Memory of the sets of indexes that are kept, the last used ones: about twenty."""
    answering: float = 0.1
    """Computing for one answer."""
    building: float = 2.0
    """Computing to read a set of indexes the first time."""
    patience: float = 5.0
    """Waiting for any message, however busy the machine is."""
    idle: float = 300.0
    """After that without a question the process ends."""
    waiting: int = 32
    """Questions that wait for their turn."""


class Question(Struct, frozen=True, tag=True):
    """From the service: what would be installed."""

    manager: PackageManager
    indexes: tuple[tuple[str, str, bool], ...]
    """Digest, name for people, and whether the request brings it."""
    names: tuple[str, ...]


class Wanted(Struct, frozen=True, tag=True):
    """To the service: indexes are about to be read, and the bytes of these are not here."""

    digests: tuple[str, ...]


class Supplied(Struct, frozen=True, tag=True):
    """From the service: the bytes that were wanted; None for what is gone."""

    indexes: Mapping[str, bytes | None]


class Built(Struct, frozen=True, tag=True):
    """To the service: the indexes were read; what takes long now is the question."""


class Outcome(Struct, frozen=True, tag=True):
    """To the service."""

    foretold: Foretold


_encode = msgspec.msgpack.Encoder().encode
_limits_decoder = msgspec.msgpack.Decoder(Limits)
_question_decoder = msgspec.msgpack.Decoder(Question)
_supplied_decoder = msgspec.msgpack.Decoder(Supplied)
_answer_decoder: "msgspec.msgpack.Decoder[Wanted | Built | Outcome]" = msgspec.msgpack.Decoder(
    Wanted | Built | Outcome
)


def main() -> None:
    """Answers questions on standard input until it ends. Its limits come first."""
    _end_with_the_service()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is no answer
    questions = sys.stdin.buffer
    if (message := _read(questions)) is None:
        return
    limits = _limits_decoder.decode(message)
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _Worlds(limits, questions, answers).serve()
    except (MemoryError, SystemError):  # CPython at times has no memory for the error itself
        os._exit(_OUT_OF_MEMORY)


def _end_with_the_service() -> None:
    """Even a stopped process ends with the thread that started it."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read(stream: BinaryIO) -> bytes | None:
    """One message; None at the end."""
    head = stream.read(_LENGTH.size)
    return stream.read(*_LENGTH.unpack(head)) if len(head) == _LENGTH.size else None


class _Worlds:
    """The other end of the pipes."""

    def __init__(self, limits: Limits, questions: BinaryIO, answers: BinaryIO) -> None:
        # What is loaded now counts for no question.
        make_pool(PackageManager.APK, (), 0)
        make_pool(PackageManager.OPKG, (), 0).nearest(["", ""])
        from asu_builder.upstream.package_index import read_index

        self._read_packages = read_index
        self._limits = limits
        self._questions = questions
        self._answers = answers
        self._worlds: OrderedDict[tuple[PackageManager, tuple[str, ...]], PackagePool] = OrderedDict()
        self._read: dict[str, ReadIndex] = {}
        """Indexes of the worlds that are kept: many share those of an architecture."""

    def serve(self) -> None:
        while (message := _read(self._questions)) is not None:
            foretold = self._answer(_question_decoder.decode(message))
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._send(Outcome(foretold))

    def _send(self, message: Wanted | Built | Outcome) -> None:
        data = _encode(message)
        self._answers.write(_LENGTH.pack(len(data)) + data)

    def _answer(self, question: Question) -> Foretold:
        everything = tuple(digest for digest, _, _ in question.indexes)
        own = tuple(digest for digest, _, is_foreign in question.indexes if not is_foreign)
        kinds = dict.fromkeys((everything, own))
        if reason := self._build(question, kinds):
            return unknown(reason)
        # The default act of this signal ends the process, wherever it computes.
        signal.setitimer(signal.ITIMER_PROF, self._limits.answering)
        foretold = self._pool(question.manager, everything).resolve(question.names)
        if foretold.verdict is Feasibility.IMPOSSIBLE and own != everything:
            without_foreign = self._pool(question.manager, own).resolve(question.names)
            if without_foreign.verdict is not Feasibility.IMPOSSIBLE:
                reason = "It is impossible only because of what the request's own repositories say."
                return replace(foretold, verdict=Feasibility.UNKNOWN, reason=reason)
        return foretold

    def _pool(self, manager: PackageManager, digests: tuple[str, ...]) -> "PackagePool":
        self._worlds.move_to_end((manager, digests))
        return self._worlds[manager, digests]

    def _build(self, question: Question, kinds: Iterable[tuple[str, ...]]) -> str:
        """Makes the worlds that a question needs; why one cannot be made, or ""."""
        missing = [digests for digests in kinds if (question.manager, digests) not in self._worlds]
        if not missing:
            return ""
        wanted = dict.fromkeys(d for digests in missing for d in digests if d not in self._read)
        self._send(Wanted(tuple(wanted)))
        message = _read(self._questions)
        if message is None:
            sys.exit()
        supplied = _supplied_decoder.decode(message).indexes
        signal.setitimer(signal.ITIMER_PROF, self._limits.building)
        names = {digest: name for digest, name, _ in question.indexes}
        for digest in wanted:
            if reason := self._read_index(question.manager, digest, names[digest], supplied.get(digest)):
                return reason
        for digests in missing:
            self._keep((question.manager, digests))
        gc.freeze()  # a question shall not pay for a look at all packages
        self._send(Built())
        return ""

    def _read_index(self, manager: PackageManager, digest: str, name: str, data: bytes | None) -> str:
        from asu_builder.upstream.lenient import Notes, Unreadable

        if data is None:
            return f"The package index {name} is not here any more."
        try:
            self._read[digest] = self._read_packages(manager, data, Notes())
        except Unreadable as unreadable:
            return f"The package index {name} cannot be read: {unreadable}."
        return ""

    def _keep(self, key: tuple[PackageManager, tuple[str, ...]]) -> None:
        """Makes a world, and lets go of those not used for the longest time."""
        manager, digests = key
        read = [self._read[digest] for digest in digests]
        packages = [package for index in read for package in index.packages]
        room = self._limits.worlds - len(packages) * _BYTES_A_PACKAGE
        while self._worlds and self._size() > room:
            self._worlds.popitem(last=False)
        self._worlds[key] = make_pool(manager, packages, sum(index.left_out for index in read))
        used = {digest for _, digests in self._worlds for digest in digests}
        self._read = {digest: index for digest, index in self._read.items() if digest in used}

    def _size(self) -> int:
        return sum(len(world.packages) for world in self._worlds.values()) * _BYTES_A_PACKAGE


def make_pool(manager: PackageManager, packages: Iterable[IndexedPackage], left_out: int) -> "PackagePool":
    """The packages of some indexes as their package manager sees them, as far as what is installed allows."""
    from asu_builder.resolver.opkg import OpkgPool
    from asu_builder.resolver.pool import NamesOnly

    if manager is PackageManager.OPKG:
        return OpkgPool(packages, left_out)
    try:
        from asu_builder.resolver.apk import ApkPool

        return ApkPool(packages, left_out)
    except ImportError:
        return NamesOnly(packages, left_out)


class _Lost(Exception):
    """The process has ended, or does not answer."""

    was_building = False
    """Whether it had a set of indexes to read at that time."""


_START = "import sys; sys.path[:] = sys.argv[1:]; from asu_builder.resolver.child import main; main()"


class _Child:
    """A running process; used by one thread, the one that made it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Without the environment, which may hold secrets, and with no descriptor but the three pipes.
        # `-I` leaves out the paths of the environment as well: they are passed as they are here.
        self.process = subprocess.Popen(
            [sys.executable, "-IBc", _START, *(path for path in sys.path if path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"},
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._questions = self.process.stdin.fileno()
        self._answers = self.process.stdout.fileno()
        self._errors = self.process.stderr.fileno()
        for descriptor in (self._questions, self._answers, self._errors):
            os.set_blocking(descriptor, False)
        self._is_cut_off = False
        self._send(limits)

    def ask(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        """Raises `_Lost`."""
        building = False
        indexes = tuple((index.digest, index.name, index.is_foreign) for index in known.indexes)
        try:
            self._send(Question(known.manager, indexes, tuple(names)))
            while not isinstance(message := self._receive(), Outcome):
                building = isinstance(message, Wanted)
                if isinstance(message, Wanted):
                    bytes_of = {index.digest: index.read for index in known.indexes}
                    self._send(Supplied({digest: bytes_of[digest]() for digest in message.digests}))
        except _Lost as lost:
            lost.was_building = building
            raise
        return message.foretold

    def end(self) -> str:
        """Ends the process whatever it does; how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A moment for one whose pipes are closed already.
            self.process.wait(_ENDING_SECONDS if self._is_cut_off else 0)
        ended_itself = self.process.returncode is not None
        self.process.kill()
        code = self.process.wait()
        said = b""
        with contextlib.suppress(OSError):
            said = os.read(self._errors, _SHOWN_BYTES)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        if not ended_itself:
            return "it did not answer in time"
        if said:
            _log.warning("What works out dependencies said: %s", said.decode(errors="replace").strip())
        known = {-signal.SIGPROF: "it took too long to compute", _OUT_OF_MEMORY: "it needed too much memory"}
        return known.get(code, f"it ended with {code}")

    def _send(self, message: Limits | Question | Supplied) -> None:
        data = _encode(message)
        left = memoryview(_LENGTH.pack(len(data)) + data)
        until = time.monotonic() + self._limits.patience
        while left:
            self._wait(self._questions, select.POLLOUT, until)
            try:
                left = left[os.write(self._questions, left) :]
            except BlockingIOError:
                continue
            except OSError:
                self._is_cut_off = True
                raise _Lost from None

    def _receive(self) -> Wanted | Built | Outcome:
        until = time.monotonic() + self._limits.patience
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, until))
        if length > _LONGEST_MESSAGE:
            raise _Lost
        try:
            return _answer_decoder.decode(self._read(length, until))
        except msgspec.DecodeError:
            raise _Lost from None

    def _read(self, length: int, until: float) -> bytes:
        parts = []
        while length:
            self._wait(self._answers, select.POLLIN, until)
            try:
                part = os.read(self._answers, length)
            except BlockingIOError:
                continue
            if not part:
                self._is_cut_off = True
                raise _Lost
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise _Lost


class _Waiting:
    """A question in the queue."""

    def __init__(self, known: PackageIndexes, names: Sequence[str]) -> None:
        self.known = known
        self.names = names
        self.done = threading.Event()
        self.foretold = unknown("The question was not reached.")
        self.is_given_up = False


class ChildResolver:
    """Asks one process, one question after the other; see `ports::PackageResolver`.

    The process is started by the first question, and again after it was lost. One that is lost twice in a
    row rests for a growing span; a set of indexes at which it was lost is not tried for ten minutes.
    """

    def __init__(self, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._breaker = Breaker(clock=clock)
        self._losses = 0
        self._unbuildable: dict[str, float] = {}
        """Digests of sets of indexes, and until when they are not tried."""
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._thread: threading.Thread | None = None
        self._child: _Child | None = None
        self._is_closed = False

    def pid(self) -> int | None:
        """Of the process, while it runs."""
        child = self._child
        return child.process.pid if child else None

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        """What is installed for these names, or why nothing can be."""
        if not known.indexes:
            return unknown(known.lacking or "No package index is known.")
        question = _Waiting(known, names)
        with self._changed:
            if self._is_closed:
                return unknown("The service is ending.")
            if len(self._queue) >= self._limits.waiting:
                return unknown("Too many selections are being looked at.")
            self._queue.append(question)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="resolver", daemon=True)
                self._thread.start()
            self._changed.notify()
        if not question.done.wait(2 * self._limits.patience):
            question.is_given_up = True
            return unknown("Too many selections are being looked at.")
        foretold = question.foretold
        if known.lacking:
            foretold = replace(foretold, verdict=Feasibility.UNKNOWN, reason=known.lacking)
        return replace(foretold, indexes=known.digest)

    def close(self) -> None:
        """Ends the process; what still waits is not known."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            thread, child = self._thread, self._child
        if child:
            with contextlib.suppress(OSError):
                child.process.kill()
        if thread:
            thread.join(self._limits.patience)

    def _work(self) -> None:
        """Serves the queue until nothing was asked for a while."""
        while (question := self._next()) is not None:
            if not question.is_given_up:
                try:
                    question.foretold = self._ask(question.known, question.names)
                except Exception:  # noqa: BLE001 - whatever it is, the build decides
                    _log.exception("A selection could not be looked at.")
                    self._lose()
                    question.foretold = unknown("It could not be worked out.")
            question.done.set()
        self._lose()

    def _next(self) -> _Waiting | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closed, self._limits.idle)
            if self._queue and not self._is_closed:
                return self._queue.popleft()
            self._thread = None
            for question in self._queue:
                question.done.set()
            self._queue.clear()
            return None

    def _ask(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        digest, now = known.digest, self._clock()
        if now < self._unbuildable.get(digest, now):
            return unknown("These package indexes could not be read within the limits.")
        if not self._breaker.admits():
            return unknown(self._breaker.sentence)
        try:
            if self._child and self._child.process.poll() is not None:
                self._lose()  # it was killed while nothing was asked
            if self._child is None:
                self._child = _Child(self._limits)
            foretold = self._child.ask(known, names)
        except _Lost as lost:
            if self._is_closed:
                return unknown("The service is ending.")
            sentence = f"It could not be worked out: {self._lose()}."
            self._losses += 1
            if self._losses > 1:
                self._breaker.failed(sentence)
            if lost.was_building:
                self._unbuildable[digest] = now + _UNBUILDABLE_SECONDS
                while len(self._unbuildable) > _MOST_UNBUILDABLE:
                    del self._unbuildable[next(iter(self._unbuildable))]
            _log.warning("%s %d packages were asked for.", sentence, len(names))
            return unknown(sentence)
        self._losses = 0
        self._breaker.worked()
        return foretold

    def _lose(self) -> str:
        """Ends the process, if there is one; how it ended."""
        child, self._child = self._child, None
        return child.end() if child else "it could not be started"
