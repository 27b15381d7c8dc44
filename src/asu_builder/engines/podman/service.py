"""Reaching the Podman service: which socket, what its errors mean, one client per user of it."""

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from asu_builder.domain.errors import EngineUnavailable
from asu_builder.engines.guard import SILENCE, Limits
from asu_builder.loading import LOADING
from asu_builder.outgoing import causes
from asu_builder.ports import ArchiveSource
from asu_builder.proxy.channels import BuildProxy
from asu_builder.settings import Settings

if TYPE_CHECKING:
    from podman import PodmanClient

INSTALLATION = "asu.installation"
"""The label of what is made for one installation."""
UNTIL = "asu.until"
"""The label of a container that no job has: the second since 1970 until which no sweep takes it."""
_SYSTEM_PLACES = ("/run/podman", "/var/run/podman")


class Timeouts(Struct, frozen=True):
    """How long Podman may be silent; it does hang in reality. Only tests choose other numbers."""

    call: timedelta = timedelta(seconds=30)
    """In an ordinary call, and before a streamed answer begins."""
    question: timedelta = timedelta(seconds=5)
    """In a call that a healthy engine answers within milliseconds, whatever else it does."""
    check: timedelta = timedelta(seconds=4)
    """In the call that tells health."""
    watch: timedelta = timedelta(seconds=3)
    """Between two looks at a container or a pull in progress."""
    kill: timedelta = timedelta(seconds=3)
    """Between killing a container and cutting off what is still read from it."""
    silence: timedelta = SILENCE
    """While a command runs or a pull is on its way, before it is given up."""


class PodmanOptions(Struct, frozen=True):
    """The settings, what comes with the installation, and what only tests change."""

    settings: Settings = field(default_factory=Settings)
    installation: str = "default"
    """Tells our containers from those of another server on the same engine."""
    archives: ArchiveSource | None = None
    """What stands in for container images that are missing."""
    tls_verify: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict)
    """Variables for builds that have a network."""
    proxy: BuildProxy | None = None
    """The way out of builds that have none."""
    refresh_after: timedelta = timedelta(minutes=15)
    """How old the image of a moving tag may get before the registry is asked again."""
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)


def socket_candidates(setting: str = "", *, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Where Podman's socket may be, best first. A setting is taken at its word."""
    environment = os.environ if environment is None else environment
    if setting:
        return [Path(setting.removeprefix("unix://"))]
    candidates = []
    host = environment.get("CONTAINER_HOST", "")
    if host.startswith("unix://"):
        candidates.append(Path(host.removeprefix("unix://")))
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime, "podman/podman.sock"))
    candidates.append(Path(f"/run/user/{os.getuid()}/podman/podman.sock"))
    candidates.append(Path("/run/podman/podman.sock"))
    return list(dict.fromkeys(candidates))


def systemctl_option(socket: Path) -> str:
    """What `systemctl` is told to start the Podman at a socket: nothing for the system's, else ` --user`."""
    is_systems = os.geteuid() == 0 or any(socket.is_relative_to(place) for place in _SYSTEM_PLACES)
    return "" if is_systems else " --user"


def start_line(
    socket: Path, *, environment: Mapping[str, str] | None = None, has_systemd: bool = True
) -> str:
    """The line that makes Podman listen at a socket: systemd's units know the usual places only."""
    if has_systemd and socket in socket_candidates(environment=environment):
        return f"systemctl{systemctl_option(socket)} enable --now podman.socket"
    return f"mkdir -p {socket.parent} && podman system service --time=0 unix://{socket} &"


def _start_hint(socket: Path) -> str:
    """The same as the end of a sentence, without its full stop."""
    return f"Start Podman's service with `{start_line(socket)}`"


def what_helps(path: Path, *, environment: Mapping[str, str] | None = None) -> str:
    """What to do when no socket is at the path that an operator has chosen."""
    if other := find_socket(environment=environment):
        return f"There is a socket at {other}: set container_socket_path to that, or leave it empty"
    if path.exists():
        return f"{path} is no socket. Set container_socket_path to one, or leave it empty"
    return f"{_start_hint(path)}, or correct container_socket_path"


def find_socket(setting: str = "", *, environment: Mapping[str, str] | None = None) -> Path | None:
    """The first candidate that exists; one that we may not look at counts, if there is no other."""
    hidden = None
    for candidate in socket_candidates(setting, environment=environment):
        try:
            if candidate.is_socket():
                return candidate
        except PermissionError:
            hidden = hidden or candidate
    return hidden


class Engine:
    """One Podman service, found again for each client: its socket may come and go."""

    def __init__(self, setting: str, *, timeouts: Timeouts | None = None) -> None:
        self._setting = setting
        self.timeouts = timeouts or Timeouts()

    def socket(self) -> Path:
        """The service's socket. Raises `EngineUnavailable`."""
        if found := find_socket(self._setting):
            return found
        candidates = socket_candidates(self._setting)
        tried = ", ".join(str(path) for path in candidates)
        remedy = what_helps(candidates[0]) if self._setting else _start_hint(candidates[0])
        raise EngineUnavailable(f"Podman's socket was not found (tried {tried}). {remedy}.")

    @contextmanager
    def client(self, *, timeout: timedelta | None = None) -> Iterator["PodmanClient"]:
        """A podman-py client for one thread: its `requests.Session` is not to be shared.

        `timeout` bounds each call's silence, that of an ordinary one if not given. Foreign errors
        leave as `EngineUnavailable`.
        """
        # Imported here because it takes longer than the rest of the start-up together.
        with LOADING:
            from asu_builder.engines.podman.client import a_client

        socket = self.socket()
        with podman_errors(socket), a_client(socket, timeout=timeout or self.timeouts.call) as client:
            yield client

    def ping(self, *, timeout: timedelta) -> None:
        """Asks for a sign of life, nothing more. Raises `EngineUnavailable`."""
        with self.client(timeout=timeout) as client:
            client.api.get("/_ping").raise_for_status()


@contextmanager
def podman_errors(socket: Path | None = None) -> Iterator[None]:
    """The one place where podman-py's errors become ours. `socket` is told where it matters.

    They come in two families without a common base (style notes, §1.9): `APIError`, which is one
    of requests' errors and so an `OSError`, and `PodmanError`. urllib3's appear while a body is read.
    """
    with LOADING:
        from podman.errors import PodmanError
        from urllib3.exceptions import HTTPError

    try:
        yield
    except (OSError, PodmanError, HTTPError, http.client.HTTPException) as error:
        # What happened and what to do, from the error at the bottom of the chain.
        chain = list(causes(error))
        for kind, sentence in _SENTENCES.items():
            if any(isinstance(link, kind) for link in chain):
                start = _start_hint(socket or socket_candidates()[0])
                raise EngineUnavailable(sentence.format(start=start)) from error
        explanation = getattr(error, "explanation", None) or str(error)
        raise EngineUnavailable(f"Podman failed: {one_line(explanation)}.") from error
    except (KeyError, ValueError) as error:
        raise EngineUnavailable("Podman gave an answer that could not be understood.") from error


_SILENT = "Podman did not answer in time; look at its service, and restart it if it hangs."
_SENTENCES: Mapping[type[BaseException], str] = {
    PermissionError: "Podman's socket may not be used by this user. Let the user that runs this server into "
    "the group of the socket and of its directory, or give it its own Podman.",
    FileNotFoundError: "Podman's socket is gone. {start}.",
    ConnectionRefusedError: "No service listens on Podman's socket. {start}.",
    TimeoutError: _SILENT,
    # A socket whose queue of callers is full: the service accepts none of them.
    BlockingIOError: _SILENT,
    ConnectionError: "Podman's service went away in the middle of a call; look at its log.",
}


def one_line(text: str, *, length: int = 300) -> str:
    """Foreign text, fit to be the end of a sentence, without its full stop."""
    return " ".join(text.split())[:length].rstrip(".")
