"""What the checks look at: settings, environment, sockets, and HTTP responses that several of them need."""

import http.client
import json
import os
import pwd
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import urllib3
from msgspec import Struct
from urllib3.exceptions import HTTPError

from asu_builder.app.runtimes import builds_locally
from asu_builder.domain.release import Release, parse_release
from asu_builder.engines.podman.service import find_socket, socket_candidates
from asu_builder.outgoing import causes, open_pool
from asu_builder.settings import Settings
from asu_builder.settings.reading import Survey
from asu_builder.upstream.formats import parse_targets, parse_versions

TIMEOUT_SECONDS = 4.0
"""For a connection, and then for each part of a response; the check's own deadline bounds the whole."""
_MAX_BYTES = 8 << 20

Known = TypeVar("Known")


class Response(Struct, frozen=True):
    """`headers` by their lower-case names, one entry for each time a header came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        """Its values as one, as HTTP allows; empty where there is none."""
        return ", ".join(self.all(name))


class Unanswered(Exception):
    """No response, or not the one needed; the text is the end of a sentence, without its full stop."""


def ask(
    method: str, url: str, *, headers: Mapping[str, str] | None = None, directly: bool = False
) -> Response:
    """One request without retries. Raises `Unanswered`.

    It goes through the proxy that the environment names, like all that the service and Podman ask;
    `directly` is for this very service.
    """
    try:
        with urllib3.PoolManager() if directly else open_pool(url) as pool:
            answer = pool.request(
                method,
                url,
                headers=dict(headers or {}),
                timeout=urllib3.Timeout(connect=TIMEOUT_SECONDS, read=TIMEOUT_SECONDS),
                retries=urllib3.Retry(total=0, redirect=3),
                preload_content=False,
            )
            body = answer.read(_MAX_BYTES)
            found = tuple((name.lower(), value) for name, value in answer.headers.iteritems())
            answer.release_conn()
    except (HTTPError, OSError) as error:
        # What the error at the bottom of the chain says.
        chain = list(causes(error))
        bottom = next((link for link in reversed(chain) if isinstance(link, OSError)), chain[-1])
        text = getattr(bottom, "strerror", None) or str(bottom)
        reason = " ".join(text.split())[:200].rstrip(".")
        if any(isinstance(link, TimeoutError) for link in chain):
            reason = f"no answer within {TIMEOUT_SECONDS:.0f} seconds"
        raise Unanswered(reason) from error
    return Response(answer.status, found, body)


def fetch(url: str) -> Response:
    """A document that must be there. Raises `Unanswered`."""
    response = ask("GET", url)
    if response.status != 200:
        raise Unanswered(f"{url} is answered {response.status}")
    return response


def in_words(listens_at: object) -> str:
    """Where a socket listens: `http://127.0.0.1:8080`, `http://[::1]:8080`, or the path of a Unix socket."""
    if not isinstance(listens_at, tuple):
        return str(listens_at)
    host, port = listens_at[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class SocketAnswer(Struct, frozen=True):
    """What one candidate for Podman's socket answered."""

    path: Path
    problem: str = ""
    """`absent`, `closed`, `refused`, `silent` or `strange`; empty for an engine that answers."""
    detail: str = ""
    """The engine's version, or what came in its place."""
    hidden: bool = False
    """Whether it lies behind a directory that is closed to this user."""

    @property
    def sentence(self) -> str:
        """What it answered, in a few words."""
        words = {
            "": f"answers as Podman {self.detail}",
            "absent": "is not there",
            "closed": "may not be used by this user",
            "refused": "exists, but no process listens on it",
            "silent": f"accepts calls and gives no answer within {TIMEOUT_SECONDS:.0f} seconds",
            "strange": f"answers {self.detail}, which is not Podman's API",
        }
        return f"{self.path} {words[self.problem]}"


_PROBLEMS: Mapping[type[BaseException], str] = {
    PermissionError: "closed",
    TimeoutError: "silent",
    # A socket whose queue of callers is full: the service accepts none of them.
    BlockingIOError: "silent",
    ConnectionRefusedError: "refused",
    FileNotFoundError: "refused",
}


def get_json(path: Path, target: str) -> tuple[int, Any]:
    """The status and the document that Podman answers. Raises `OSError`, `HTTPException`, `ValueError`."""
    with socket.socket(socket.AF_UNIX) as connected, closing(http.client.HTTPConnection("podman")) as http_:
        connected.settimeout(TIMEOUT_SECONDS)
        connected.connect(str(path))
        http_.sock = connected
        http_.request("GET", target)
        answer = http_.getresponse()
        body = answer.read(_MAX_BYTES)
        return answer.status, json.loads(body) if body.strip() else None


def try_socket(path: Path) -> SocketAnswer:
    """Asks one candidate which engine it is; never raises."""
    try:
        if not path.is_socket():
            return SocketAnswer(path, "absent")
    except PermissionError:
        return SocketAnswer(path, "closed", hidden=True)
    try:
        status, found = get_json(path, "/v4.0.0/libpod/version")
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = next((name for kind, name in _PROBLEMS.items() if isinstance(error, kind)), "strange")
        return SocketAnswer(path, problem, type(error).__name__)
    version = found.get("Version") if isinstance(found, dict) else None
    if status != 200 or not isinstance(version, str):
        return SocketAnswer(path, "strange", str(status))
    return SocketAnswer(path, detail=version)


class Once(Generic[Known]):
    """A value that several threads need: the first one makes it. An error is raised to each."""

    def __init__(self, make: Callable[[], Known]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Future[Known] = Future()

    def __call__(self) -> Known:
        """The value."""
        with self._lock:
            if not self._made.done():
                try:
                    self._made.set_result(self._make())
                except Exception as error:  # noqa: BLE001 - `result` raises it
                    self._made.set_exception(error)
        return self._made.result()


class Scene:
    """One examination of one installation."""

    def __init__(self, survey: Survey, *, environment: Mapping[str, str] = os.environ, url: str = "") -> None:
        """`url` is the public address, or empty."""
        self.survey = survey
        self.settings: Settings = survey.settings
        self.environment = environment
        self.url = url.rstrip("/")
        try:
            self.user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            self.user = str(os.geteuid())
        self.upstream = self.settings.upstream_url.rstrip("/")
        self.store = self.settings.public_path / "store"
        self.versions: Once[Response] = Once(partial(fetch, f"{self.upstream}/.versions.json"))
        self.targets: Once[tuple[Release, Mapping[str, str]]] = Once(self._newest_targets)
        self.candidates = socket_candidates(self.settings.container_socket_path, environment=environment)
        self.sockets: Once[list[SocketAnswer]] = Once(lambda: [try_socket(path) for path in self.candidates])
        self.is_local = builds_locally(self.settings, environment=environment)
        """Whether builds run without a container engine."""

    @property
    def socket(self) -> SocketAnswer | None:
        """The one that the service would use."""
        path = find_socket(self.settings.container_socket_path, environment=self.environment)
        return next((answer for answer in self.sockets() if answer.path == path), None)

    @property
    def engine(self) -> SocketAnswer | None:
        """The same where it answers as Podman."""
        found = self.socket
        return found if found is not None and not found.problem else None

    def ask_engine(self, target: str) -> tuple[int | str, Any]:
        """The status and the document that a working engine answers; an error's name is a status too."""
        engine = self.engine
        if engine is None:
            return "no engine", None
        try:
            return get_json(engine.path, target)
        except (OSError, http.client.HTTPException, ValueError) as failure:
            return type(failure).__name__, None

    def _newest_targets(self) -> tuple[Release, Mapping[str, str]]:
        """The newest stable version and its targets. Raises like `fetch`, and `ValueError`."""
        listed = parse_versions(self.versions().body)
        names = [name for name in (*listed.latest, *listed.listed) if "-" not in name]
        if not names:
            raise ValueError(".versions.json names no released version")
        release = max((parse_release(name) for name in names), key=lambda found: found.order)
        return release, parse_targets(fetch(f"{self.upstream}/{release.path}/.targets.json").body)
