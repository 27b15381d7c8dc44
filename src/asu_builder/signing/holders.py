"""What holds keys: a file, which a separate process reads, a program, or another host."""

import contextlib
import os
import select
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread
from typing import NamedTuple, TypeVar

from asu_builder.domain.errors import SigningUnavailable
from asu_builder.ports import KeyHolder
from asu_builder.settings import Settings
from asu_builder.signing import pem, usign
from asu_builder.signing.usign import BadKey

DEADLINE_SECONDS = 60.0
"""For whatever signs, for each file."""
READ_SECONDS = 10.0
"""For the file of a key or a certificate."""
_MOST_ANSWERED = 4096
_IDLE_SECONDS = 10.0
"""The images of a build follow each other sooner, unless they are enormous."""
_START = """
import sys
sys.path[:] = sys.argv[2:]
from asu_builder.signing.child import main
main(float(sys.argv[1]))
"""
_SHOWN = 300
_SIGNATURE_BYTES = 64

_Found = TypeVar("_Found")


class KeyKind(NamedTuple):
    """What a key is for, and how its file is written."""

    name: str
    """As `child.main` knows it."""
    title: str
    """As people do."""
    parse: Callable[[bytes], usign.PublicKey | pem.PublicKey]
    """Reads a public key from the text of its file; raises `BadKey`."""
    read_public_half: Callable[[Path], usign.PublicKey] | None
    """The public half in the file of a secret key, where it can be read alone; raises `BadKey`."""


IMAGES = KeyKind("usign", "signing key", usign.parse_public_key, usign.read_public_half)
PROVENANCE = KeyKind("pem", "provenance key", pem.parse_public_key, None)


class BoundedReads:
    """Reads small files, each in time or not at all, also from a disk that hangs; for any thread."""

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self._seconds = seconds
        self._lock = Lock()
        self._hanging: Thread | None = None

    def read(self, read: Callable[[Path], _Found], path: Path) -> _Found:
        """What `read` makes of a file. Raises `BadKey`, as it does, and where the disk does not answer."""
        found: Future[_Found] = Future()

        def fill() -> None:
            try:
                found.set_result(read(path))
            except Exception as problem:  # noqa: BLE001 - raised where it is waited for
                found.set_exception(problem)

        with self._lock:
            # One thread waits for a disk that is away, not one more for each question.
            if self._hanging is None or not self._hanging.is_alive():
                thread = Thread(target=fill, name="read-key", daemon=True)
                thread.start()
                with contextlib.suppress(TimeoutError):
                    return found.result(self._seconds)
                self._hanging = thread
        raise BadKey(f"it was not read within {self._seconds:g} seconds; its disk does not answer")


class FileKey:
    """A key in a file, of which this process never reads the secret half; for any thread, one at a time."""

    def __init__(
        self,
        path: Path,
        kind: KeyKind = IMAGES,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        idle_seconds: float = _IDLE_SECONDS,
        command: Sequence[str] = (sys.executable, "-IBc", _START),
    ) -> None:
        """The process is started again for what is signed more than `idle_seconds` after the last file.

        `command` starts it; these seconds and the paths of our modules follow.
        """
        self._idle_seconds = idle_seconds
        self._path = path
        self._kind = kind
        self._reads = BoundedReads()
        self._deadline_seconds = deadline_seconds
        self._command = command
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._public = ""

    def public_key(self) -> str:
        with self._lock:
            return self._known()

    def examine(self) -> None:
        with self._lock:
            self._ask_key(self._known())
            beside = self._path.with_name(f"{self._path.name}.pub")
            try:
                stated = self._reads.read(usign.read_small_file, beside) if beside.exists() else b""
                is_other = stated and self._kind.parse(stated).text() != self._public
            except (BadKey, OSError):
                return  # that file may be anything
        if is_other:
            raise self._unusable(f"it is damaged, or {beside} is the public half of another key")

    def sign(self, path: Path) -> bytes:
        with self._lock:
            return bytes.fromhex(self._ask_key(self._known(), path))

    def pid(self) -> int | None:
        """Of the process that signs, while it runs."""
        process = self._process
        return process.pid if process else None

    def _known(self) -> str:
        if not self._public:
            if self._kind.read_public_half is None:
                self._ask_key()
            else:
                try:
                    self._public = self._reads.read(self._kind.read_public_half, self._path).text()
                except BadKey as bad:
                    raise self._unusable(str(bad)) from None
        return self._public

    def _ask_key(self, expected: str = "", message: Path | None = None) -> str:
        """The signature of a message, in hexadecimal digits; `expected` is the public half as it was."""
        files = (self._path, message) if message else (self._path,)
        words = (os.fsencode(name.absolute()).hex() for name in files)
        try:
            answer = self._ask(f"{self._kind.name} {' '.join(words)}\n".encode())
        except BaseException:
            self._end()
            raise
        public, _, signature = answer.partition(" ")
        if public == "-":
            raise self._unusable(signature)
        text = bytes.fromhex(public).decode()
        if expected not in ("", text):
            raise self._unusable(
                "it is another one by now than when the service started; restart the service"
            )
        self._public = text
        return signature

    def _unusable(self, why: str) -> SigningUnavailable:
        return SigningUnavailable(f"The {self._kind.title} {self._path} cannot be used: {why}.")

    def _ask(self, order: bytes) -> str:
        """A process that was idle may end while it is asked: then another one is."""
        if self._process is not None:
            try:
                return self._asked(self._process, order)
            except (EOFError, BrokenPipeError):
                self._end()
        try:
            return self._asked(self._begin(), order)
        except (EOFError, BrokenPipeError):
            code = self._end(patience=1)
            raise SigningUnavailable(f"The process that signs has ended with {code}.") from None

    def _begin(self) -> "subprocess.Popen[bytes]":
        # Without the environment, which may hold secrets, and with no descriptor but the two pipes.
        # `-I` leaves out the paths of the environment as well: they are passed as they are here.
        try:
            process = subprocess.Popen(
                [*self._command, str(self._idle_seconds), *(path for path in sys.path if path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"},
                start_new_session=True,
            )
        except OSError as problem:
            raise SigningUnavailable(f"No process that signs can be started: {problem.strerror}.") from None
        self._process = process
        Thread(target=self._watch, args=[process], name="signing", daemon=True).start()
        return process

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """Lets go of a process once it has ended."""
        process.wait()
        with self._lock:
            if self._process is process:
                self._end()

    def _asked(self, process: "subprocess.Popen[bytes]", order: bytes) -> str:
        """Raises `EOFError` or `BrokenPipeError` where it has ended, and `SigningUnavailable`."""
        assert process.stdin and process.stdout
        process.stdin.write(order)
        until = time.monotonic() + self._deadline_seconds
        answer = b""
        while not answer.endswith(b"\n"):
            poll = select.poll()
            poll.register(process.stdout, select.POLLIN)
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise self._unusable(f"nothing was signed within {self._deadline_seconds:g} seconds")
            if not (part := process.stdout.read(_MOST_ANSWERED)):
                raise EOFError
            answer += part
        return answer.decode(errors="replace").strip()

    def _end(self, patience: float = 0) -> int | None:
        """Ends the process, if there is one; its exit code.

        One that has closed its pipe has `patience` seconds to end by itself, so that the code is its own.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        if process.returncode is None:
            process.kill()
        try:
            # One that waits for a disk cannot be ended; it goes when the disk answers.
            return process.wait(1)
        except subprocess.TimeoutExpired:
            return None


class ProgramKey:
    """A key that a program holds: it reads a file from standard input and answers with the signature.

    That is what usign writes, or the 64 bytes alone.
    """

    def __init__(
        self,
        command: str,
        public_key: Path,
        kind: KeyKind = IMAGES,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._command = shlex.split(command)
        self._public = PublicHalf(public_key, kind)
        self._deadline_seconds = deadline_seconds

    def public_key(self) -> str:
        return self._public.public_key()

    def examine(self) -> None:
        self._public.examine()
        if not shutil.which(self._command[0]):
            raise SigningUnavailable(f"{self._command[0]} cannot be started: there is no such program.")

    def sign(self, path: Path) -> bytes:
        name = self._command[0]
        try:
            file = path.open("rb")
        except OSError as problem:
            raise SigningUnavailable(f"{path} cannot be read: {problem.strerror}.") from None
        with file:
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as problem:
                raise SigningUnavailable(f"{name} cannot be started: {problem.strerror}.") from None
        try:
            answer, complaint = self._answer(process)
            code = process.wait(self._deadline_seconds)
        except subprocess.TimeoutExpired:
            raise SigningUnavailable(
                f"{name} did not end within {self._deadline_seconds:g} seconds."
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
        if code:
            said = complaint.decode(errors="replace").strip()[-_SHOWN:]
            raise SigningUnavailable(f"{name} ended with {code}: {said or 'it said nothing'}.")
        if len(answer) == _SIGNATURE_BYTES:
            return answer
        try:
            return usign.parse_signature(answer).raw
        except BadKey as bad:
            raise SigningUnavailable(f"{name} answered with no signature: {bad}.") from None

    def _answer(self, process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
        """What it has printed when it closes both, at most so much that a signature fits."""
        assert process.stdout and process.stderr
        printed = {process.stdout: bytearray(), process.stderr: bytearray()}
        until = time.monotonic() + self._deadline_seconds
        with selectors.DefaultSelector() as selector:
            for stream in printed:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                left = until - time.monotonic()
                if left <= 0:
                    raise subprocess.TimeoutExpired(process.args, self._deadline_seconds)
                for key, _ in selector.select(left):
                    part = os.read(key.fd, _MOST_ANSWERED)
                    if part:
                        # The beginning of an answer, the end of a complaint.
                        whole = printed[key.fileobj]  # type: ignore[index]
                        whole += part
                        del whole[: -_MOST_ANSWERED if key.fileobj is process.stderr else 0]
                        del whole[2 * _MOST_ANSWERED :]
                    else:
                        selector.unregister(key.fileobj)
        return bytes(printed[process.stdout]), bytes(printed[process.stderr])


class PublicHalf:
    """The public half of a key that other hosts hold."""

    def __init__(self, path: Path, kind: KeyKind = IMAGES) -> None:
        self._path = path
        self._kind = kind
        self._reads = BoundedReads()

    def public_key(self) -> str:
        try:
            return self._kind.parse(self._reads.read(usign.read_small_file, self._path)).text()
        except BadKey as bad:
            raise SigningUnavailable(f"The public key {self._path} cannot be used: {bad}.") from None

    def examine(self) -> None:
        self.public_key()

    def sign(self, path: Path) -> bytes:
        raise SigningUnavailable(f"Only the public half of the {self._kind.title} is here.")


def open_signing_key(settings: Settings) -> KeyHolder | None:
    """What holds the key of `signing_key`, or knows the public half of it; None where there is neither."""
    return _open(settings.signing_key, settings.signing_public_key, IMAGES)


def open_provenance_key(settings: Settings) -> KeyHolder | None:
    """The same of `provenance_key`."""
    return _open(settings.provenance_key, settings.provenance_public_key, PROVENANCE)


def _open(key: str, public_key: str, kind: KeyKind) -> KeyHolder | None:
    form, _, value = key.partition(":")
    public = Path(public_key).expanduser()
    if form == "exec":
        return ProgramKey(value, public, kind)
    if form == "file":
        return FileKey(Path(value).expanduser(), kind)
    return PublicHalf(public, kind) if public_key else None
