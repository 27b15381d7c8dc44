"""Short questions over HTTP, and to Podman's sockets, each of which ends within seconds."""

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from msgspec import Struct
from urllib3.exceptions import HTTPError

from asu_builder.outgoing import open_pool

PATIENCE_SECONDS = 4.0
"""For a connection, and then for each part of an answer; the check's own deadline bounds the whole."""


_MOST = 8 << 20


class Heard(Struct, frozen=True):
    """An answer: `headers` by their lower-case names, one entry for each time a header came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        """Its values as one, as HTTP allows; empty where there is none."""
        return ", ".join(self.all(name))


class Unheard(Exception):
    """No answer, or one that is none; the text is the end of a sentence, without its full stop."""


def ask(method: str, url: str, *, headers: Mapping[str, str] | None = None, directly: bool = False) -> Heard:
    """One question, asked once. Raises `Unheard`.

    It goes through the proxy that the environment names, like all that the service and Podman ask;
    `directly` is for this very service.
    """
    timeout = urllib3.Timeout(connect=PATIENCE_SECONDS, read=PATIENCE_SECONDS)
    try:
        with urllib3.PoolManager() if directly else open_pool(url) as pool:
            answer = pool.request(
                method,
                url,
                headers=dict(headers or {}),
                timeout=timeout,
                retries=urllib3.Retry(total=0, redirect=3),
                preload_content=False,
            )
            body = answer.read(_MOST)
            found = tuple((name.lower(), value) for name, value in answer.headers.iteritems())
            answer.release_conn()
    except (HTTPError, OSError) as error:
        raise Unheard(reason_of(error)) from error
    return Heard(answer.status, found, body)


def fetch(url: str) -> Heard:
    """A document that must be there. Raises `Unheard`."""
    heard = ask("GET", url)
    if heard.status != 200:
        raise Unheard(f"{url} is answered {heard.status}")
    return heard


def reason_of(error: BaseException) -> str:
    """What the error at the bottom of the chain says."""
    chain = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__ or getattr(chain[-1], "reason", None)) and (
        isinstance(below, BaseException) and below not in chain
    ):
        chain.append(below)
    if any(isinstance(link, TimeoutError) for link in chain):
        return f"no answer within {PATIENCE_SECONDS:.0f} seconds"
    bottom = next((link for link in reversed(chain) if isinstance(link, OSError)), chain[-1])
    text = getattr(bottom, "strerror", None) or str(bottom)
    return " ".join(text.split())[:200].rstrip(".")


PATIENCE_SECONDS = 4.0
"""A healthy engine answers these questions within milliseconds."""


_PROBLEMS: Mapping[type[BaseException], str] = {
    PermissionError: "closed",
    TimeoutError: "silent",
    # A socket whose queue of callers is full: the service accepts none of them.
    BlockingIOError: "silent",
    ConnectionRefusedError: "refused",
    FileNotFoundError: "refused",
}


class SocketAnswer(Struct, frozen=True):
    """What one candidate answered. `problem` is empty where it is an engine that answers."""

    path: Path
    present: bool
    """Whether the service would choose it: it exists, or hides behind a directory that is closed to us."""
    problem: str = ""
    """`absent`, `closed`, `refused`, `silent` or `strange`."""
    told: str = ""
    version: str = ""
    hidden: bool = False
    """It lies behind a closed directory; chosen only where no other is there."""

    @property
    def sentence(self) -> str:
        """What it answered, in a few words."""
        words = {
            "absent": "is not there",
            "closed": "may not be used by this user",
            "refused": "exists, and nobody listens on it",
            "silent": f"accepts calls and gives no answer within {PATIENCE_SECONDS:.0f} seconds",
            "strange": f"answers {self.told}, which is not Podman's API",
        }
        return f"{self.path} " + words.get(self.problem, f"answers as Podman {self.version}")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("d", timeout=PATIENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_SECONDS)
        self.sock.connect(str(self._path))


def get_json(path: Path, target: str) -> tuple[int, Any]:
    """The status and the document that Podman answers. Raises `OSError`, `HTTPException`, `ValueError`."""
    connection = _Connection(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read(4 << 20)
        return answer.status, json.loads(body) if body.strip() else None
    finally:
        connection.close()


def try_socket(path: Path) -> SocketAnswer:
    """Asks one candidate who it is; never raises."""
    try:
        if not path.is_socket():
            # Something else at its place would not be chosen either.
            return SocketAnswer(path, False, "absent")
    except PermissionError:
        return SocketAnswer(path, True, "closed", hidden=True)
    try:
        status, found = get_json(path, "/v4.0.0/libpod/version")
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = next((name for kind, name in _PROBLEMS.items() if isinstance(error, kind)), "strange")
        return SocketAnswer(path, True, problem, type(error).__name__)
    version = found.get("Version") if isinstance(found, dict) else None
    if status != 200 or not isinstance(version, str):
        return SocketAnswer(path, True, "strange", str(status))
    return SocketAnswer(path, True, version=version)
