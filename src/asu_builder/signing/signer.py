"""Signs what is published: holders of keys, the certificate, and what becomes of an image."""

import contextlib
import hashlib
import os
import select
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, Thread

from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, FailureReason, SigningUnavailable
from asu_builder.domain.health import CheckResult, error, ok, warning
from asu_builder.domain.job import Image
from asu_builder.ports import KeyHolder
from asu_builder.settings import Settings
from asu_builder.signing import fwtool, pem, ucert, usign
from asu_builder.signing.usign import BadKey, PublicKey, Signature, mapped

DEADLINE_SECONDS = 60.0
"""For whatever signs, for each file."""
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
REVOKED = ".revoke"
"""Ending of a revoker below `public_path`/keys."""


class FileKey:
    """A key in a file, of which this process reads the public half alone; for any thread, one at a time."""

    def __init__(
        self,
        path: Path,
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
        self._deadline_seconds = deadline_seconds
        self._command = command
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._public: PublicKey | None = None

    def public_key(self) -> str:
        with self._lock:
            return self._known().text()

    def sign(self, path: Path) -> bytes:
        with self._lock:
            public = self._known()
            words = (os.fsencode(name.absolute()).hex() for name in (self._path, path))
            try:
                first, _, rest = self._ask(f"{' '.join(words)}\n".encode()).partition(" ")
            except BaseException:
                self._end()
                raise
        if first == "-":
            raise self._unusable(rest)
        if rest != f"{public.key_id}{public.raw.hex()}":
            raise self._unusable(f"it is another one than {public.key_id} by now; restart the service")
        return bytes.fromhex(first)

    def pid(self) -> int | None:
        """Of the process that signs, while it runs."""
        process = self._process
        return process.pid if process else None

    def _known(self) -> PublicKey:
        if self._public is None:
            try:
                self._public = usign.read_public_half(self._path)
            except BadKey as bad:
                raise self._unusable(str(bad)) from None
        return self._public

    def _unusable(self, why: str) -> SigningUnavailable:
        return SigningUnavailable(f"The signing key {self._path} cannot be used: {why}.")

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
            code = self._end()
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

    def _end(self) -> int | None:
        """Ends the process, if there is one; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
        if process.poll() is None:
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
        parse: Callable[[bytes], PublicKey | pem.PublicKey] = usign.parse_public_key,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """`parse` knows the kind of key; it raises `BadKey`."""
        self._command = shlex.split(command)
        self._parse = parse
        self._public_key = public_key
        self._deadline_seconds = deadline_seconds

    def public_key(self) -> str:
        try:
            return self._parse(usign.read_small_file(self._public_key)).text()
        except BadKey as bad:
            raise SigningUnavailable(f"The public key {self._public_key} cannot be used: {bad}.") from None

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


def open_key(settings: Settings) -> KeyHolder:
    """What holds the key of `signing_key`."""
    kind, _, value = settings.signing_key.partition(":")
    if kind == "exec":
        return ProgramKey(value, Path(settings.signing_public_key).expanduser())
    return FileKey(Path(value).expanduser())


class Signing:
    """Fulfils `ports.ImageSigning` with one key and its certificate, which is read each time it is needed."""

    def __init__(
        self,
        key: KeyHolder,
        *,
        certificate: Path | None,
        offered: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`offered` is the directory of revokers."""
        self._holder = key
        self._certificate = certificate
        self._offered = offered
        self._now = now
        self._public: PublicKey | None = None
        self._failure = ""

    @property
    def key_id(self) -> str:
        return self._key().key_id

    def public_text(self) -> str:
        """The two lines of the public key's file, as devices keep it in a directory of keys."""
        return self._key().text()

    def require(self) -> None:
        self._ready()

    def is_revoked(self, key_id: str) -> bool:
        return (self._offered / f"{key_id}{REVOKED}").exists()

    def sign_image(self, image: Image, path: Path) -> Image:
        key, chain = self._ready()
        if not path.stat().st_size:
            raise _broken(path, "it is empty")
        with mapped(path) as content:
            try:
                found = fwtool.read_trailers(content)
            except fwtool.BrokenTrailer as broken:
                raise _broken(path, str(broken)) from None
            cut = content[found.unsigned_bytes :]
            with memoryview(content) as view:
                digest = hashlib.sha256(view[: found.unsigned_bytes])
        if not found.unsigned_bytes:
            raise _broken(path, "it is nothing but a signature")
        os.truncate(path, found.unsigned_bytes)
        try:
            signature = self._signature(key, path)
            unsigned = digest.hexdigest()
            size = found.unsigned_bytes
            if found.has_metadata:
                chunk = fwtool.signature_chunk(chain + ucert.of_message(signature), found.crc)
                with path.open("ab") as file:
                    file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            else:
                _beside(path).write_text(signature.text())
        except BaseException:
            # As it was: it may be published without our signature.
            os.truncate(path, found.unsigned_bytes)
            with path.open("ab") as file:
                file.write(cut)
            raise
        return replace(image, sha256=digest.hexdigest(), sha256_unsigned=unsigned, size=size)

    def sign_file(self, path: Path) -> None:
        key, _ = self._ready()
        _beside(path).write_text(self._signature(key, path).text())

    def offers(self) -> Mapping[str, bytes]:
        found = {}
        for path in sorted(self._offered.glob(f"*{REVOKED}")) if self._offered.is_dir() else ():
            if usign.is_key_id(path.name.removesuffix(REVOKED)):
                found[path.name] = usign.read_small_file(path)
        with contextlib.suppress(SigningUnavailable):
            key = self._key()
            if f"{key.key_id}{REVOKED}" not in found:
                found[key.key_id] = key.text().encode()
                if self._certificate:
                    with contextlib.suppress(BadKey):
                        found[f"{key.key_id}.ucert"] = usign.read_small_file(self._certificate)
        return found

    def expires_at(self) -> datetime | None:
        validity = self._validity()
        return validity[1] if validity else None

    def check(self) -> CheckResult:
        remedy = "See `asu-builder keys show`, and security.md for what each key is for."
        try:
            key, _ = self._ready()
        except SigningUnavailable as problem:
            return error(str(problem), remedy)
        if self._failure:
            return warning(f"Signing failed lately: {self._failure}", remedy)
        validity = self._validity()
        if not validity:
            return ok(f"Images are signed by key {key.key_id}, without a certificate.")
        valid_from, expires_at = validity
        until = f"{expires_at:%Y-%m-%d}"
        if expires_at - self._now() < (expires_at - valid_from) / 3:
            return warning(
                f"The certificate of key {key.key_id} expires on {until}: devices then refuse its images.",
                "asu-builder keys renew",
            )
        return ok(f"Images are signed by key {key.key_id}; its certificate is valid until {until}.")

    def _validity(self) -> tuple[datetime, datetime] | None:
        """Since when and until when the whole chain is valid; None without a certificate that can be read."""
        if not self._certificate:
            return None
        try:
            elements = ucert.parse_container(usign.read_small_file(self._certificate))
            valid_from = max(element.valid_from for element in elements)
            expires_at = min(element.expires_at for element in elements)
            return datetime.fromtimestamp(valid_from, UTC), datetime.fromtimestamp(expires_at, UTC)
        except (BadKey, ValueError, OverflowError, OSError):
            return None

    def _key(self) -> PublicKey:
        if self._public is None:
            self._public = usign.parse_public_key(self._holder.public_key().encode())
        return self._public

    def _ready(self) -> tuple[PublicKey, bytes]:
        """The key and its chain of certificates, which all hold now. Raises `SigningUnavailable`."""
        key = self._key()
        if self.is_revoked(key.key_id):
            raise SigningUnavailable(f"The signing key {key.key_id} is revoked; make another one.")
        if not self._certificate:
            return key, b""
        try:
            chain = usign.read_small_file(self._certificate)
            ucert.require_chain(ucert.parse_container(chain), key, now=self._now().timestamp())
            if len(chain) + ucert.MESSAGE_BYTES > ucert.MOST_IN_IMAGE:
                raise BadKey(f"with a signature it is longer than {ucert.MOST_IN_IMAGE} bytes")
        except BadKey as bad:
            raise SigningUnavailable(
                f"The signing certificate {self._certificate} cannot be used: {bad}."
            ) from None
        return key, chain

    def _signature(self, key: PublicKey, path: Path) -> Signature:
        try:
            signature = Signature(key.key_id, self._holder.sign(path))
            with mapped(path) as content:
                if not usign.is_signed(content, signature, key):
                    raise SigningUnavailable(
                        f"What signs made a signature that key {key.key_id} does not have."
                    )
        except SigningUnavailable as problem:
            self._failure = str(problem)
            raise
        self._failure = ""
        return signature


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _broken(path: Path, why: str) -> BuildFailed:
    return BuildFailed(
        FailureReason.INCOMPLETE_OUTPUT, f"Error: Image {path.name} cannot be signed: {why}. Try again later."
    )
