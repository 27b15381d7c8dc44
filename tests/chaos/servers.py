"""The server's process, one after the other and for moments two at once, on one database and store."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos.clock import Clock, forget_process
from e2e.service import PATIENCE, Service


class Server(Service):
    """A process whose clock is another's, and whose database and store are shared; no round is hurried."""

    program: Sequence[str] = ("-m", "asu_builder", "serve")

    def __init__(
        self, place: Path, name: str, settings: Mapping[str, object], *, clock: Clock | None = None
    ) -> None:
        super().__init__(place / name, settings, below=clock.below() if clock else ())
        self.name = name
        self.store = Path(str(self._settings["public_path"])) / "store"
        self.database = Path(str(self._settings["database_path"]))

    @property
    def is_running(self) -> bool:
        """Whether there is a process; it may have ended by itself."""
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """It does nothing any more, its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def wait(self, *, seconds: float = PATIENCE) -> int:
        """See the base."""
        pid = self.pid
        status = super().wait(seconds=seconds)
        forget_process(pid)
        return status

    def _signal(self, number: int) -> None:
        # `env` has become the service itself.
        os.kill(self.pid, number)


class Disturbance:
    """Something is disturbed now and then; whether it was, can be told afterwards."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._disturbed = 0
        self._disturbances = 0
        self._told = 0

    @contextmanager
    def disturbed(self) -> Iterator[None]:
        """While this is entered, it is."""
        with self._lock:
            self._disturbed += 1
            self._disturbances += 1
        try:
            yield
        finally:
            with self._lock:
                self._disturbed -= 1
                self._disturbances += 1

    def was_disturbed(self) -> bool:
        """Whether it is disturbed, or was since this was asked last."""
        now = self.calm_since()
        with self._lock:
            last, self._told = self._told, now
        return now < 0 or now != last

    def calm_since(self) -> int:
        """A number that changes with each disturbance; negative while one lasts."""
        with self._lock:
            return -1 if self._disturbed else self._disturbances


class Servers(Disturbance):
    """Two places to run the server at; clients are sent to the one that is current.

    While it is disturbed, a connection to the server may break.
    """

    def __init__(self, *every: Server) -> None:
        super().__init__()
        self.every = every
        """All places, of which some may have no process at the moment."""
        self.current = every[0]

    def asked(self) -> Server:
        """The one that a client asks now."""
        return self.current

    @property
    def other(self) -> Server:
        """The place that is not current."""
        return self.every[1] if self.current is self.every[0] else self.every[0]

    def start_again(self) -> Sequence[Server]:
        """Those to be started at the end, so that what was left behind is tidied up."""
        return [self.current]

    def printed(self) -> str:
        """What all its processes have logged."""
        return "".join(server.stderr() for server in self.every if server.log.exists())

    def installation(self) -> str:
        """The name on its containers' labels."""
        ((found,),) = self.current.rows("SELECT id FROM installation")
        return str(found)

    def published(self) -> set[str]:
        """Hashes whose files are in the store."""
        return set(self.current.published())

    def leftovers(self) -> list[str]:
        """Scratch directories."""
        return self.current.leftovers()

    def publication(self, request_hash: str) -> object:
        """What changes when the files of a hash are written again; None when there are none."""
        try:
            found = (self.current.store / request_hash).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def end(self) -> None:
        """Leaves no process behind."""
        for server in self.every:
            if server.is_running:
                with suppress(ProcessLookupError):
                    server.thaw()
                pid = server.pid
                server.end()
                forget_process(pid)
