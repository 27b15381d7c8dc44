"""The server's process, one after the other and for moments two at once, on one database and store."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos.clock import Clock, forget_process
from e2e.service import PATIENCE, Service


class Server(Service):
    """A process whose clock is another's, and whose database and store are shared; no round is hurried."""

    program = ("-m", "asu_builder", "serve")

    def __init__(self, place: Path, name: str, settings: Mapping[str, object], *, clock: Clock) -> None:
        super().__init__(place / name, settings, below=clock.below())
        self.store = Path(str(settings["public_path"])) / "store"
        self.database = Path(str(settings["database_path"]))

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


class Servers:
    """Two places to run the server at; clients are sent to the one that is current."""

    def __init__(self, place: Path, settings: Mapping[str, object], *, clock: Clock) -> None:
        self.both = tuple(Server(place, name, settings, clock=clock) for name in ("one", "two"))
        self.current: Server = self.both[0]
        self._lock = threading.Lock()
        self._disturbed = 0
        self._disturbances = 0

    @property
    def other(self) -> Server:
        """The place that is not current."""
        return self.both[1] if self.current is self.both[0] else self.both[0]

    @contextmanager
    def disturbed(self) -> Iterator[None]:
        """While this is entered, a connection to the server may break."""
        with self._lock:
            self._disturbed += 1
            self._disturbances += 1
        try:
            yield
        finally:
            with self._lock:
                self._disturbed -= 1
                self._disturbances += 1

    def calm_since(self) -> int:
        """A number that changes with each disturbance; negative while one lasts."""
        with self._lock:
            return -1 if self._disturbed else self._disturbances

    def printed(self) -> str:
        """What all its processes have logged."""
        return "".join(server.stderr() for server in self.both if server.log.exists())

    def installation(self) -> str:
        """The name on its containers' labels."""
        ((found,),) = self.current.rows("SELECT id FROM installation")
        return str(found)

    def end(self) -> None:
        """Leaves no process behind."""
        for server in self.both:
            if server.is_running:
                with suppress(ProcessLookupError):
                    server.thaw()
                pid = server.pid
                server.end()
                forget_process(pid)
