"""Podman's sockets asked without podman-py: each candidate tells by itself what is the matter with it."""

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

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
