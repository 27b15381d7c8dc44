"""What systemd is told, and the socket that it may hold for us: sd_notify(3) and sd_listen_fds(3)."""

import contextlib
import logging
import os
import socket
from collections.abc import Mapping

_FIRST_DESCRIPTOR = 3
_log = logging.getLogger(__name__)


def inherited_sockets(environment: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening socket that was passed to this process; none when there is none.

    systemd keeps it open over a restart, so that whoever connects meanwhile waits instead of being
    refused.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS", "0") == "0":
        return []
    passed = socket.socket(fileno=_FIRST_DESCRIPTOR)
    passed.set_inheritable(False)
    _log.info("Serving on the socket that was passed, %s", passed.getsockname())
    return [passed]


class Supervisor:
    """Tells the program that started us how we are; silent where nobody listens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = int(environment.get("WATCHDOG_USEC", "0")) if watched else 0
        self.seconds = max(1, microseconds // 3_000_000) if microseconds else 3600
        """How often it wants to hear: three times in the span after which it would restart us."""
        self._ready = False

    @property
    def listens(self) -> bool:
        """Whether anybody wants to be told."""
        return bool(self._address)

    async def alive(self) -> None:
        """The event loop turns; said first when the port answers."""
        self._tell("WATCHDOG=1" if self._ready else "READY=1\nWATCHDOG=1")
        self._ready = True

    def stopping(self) -> None:
        """Running builds end, then the process does."""
        self._tell("STOPPING=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), address)
