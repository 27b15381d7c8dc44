"""One ASU server over HTTP: its answers as documents, what it offers, and what its operator may do."""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3
from msgspec import Struct

from asu_builder import __version__
from asu_builder.domain.addresses import parse_address
from asu_builder.domain.errors import (
    AsuError,
    BuildNotFound,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    QueueFull,
    RequestMalformed,
    RequestRejected,
    ServerMistake,
    TooManyRequests,
    Unavailable,
)
from asu_builder.domain.job import JobFilter
from asu_builder.domain.request import FOUND_AT_MOST, whole_hash
from asu_builder.outgoing import open_pool

_ANSWER_BYTES = 64 << 20
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
# A request names its result, so that even a POST may be repeated. When to come back is the caller's choice.
_RETRIES = urllib3.Retry(
    total=2,
    connect=2,
    read=1,
    redirect=0,
    status=0,
    allowed_methods=None,
    backoff_factor=0.2,
    respect_retry_after_header=False,
)
_DOWNLOAD_RETRIES = urllib3.Retry(
    total=3, redirect=3, raise_on_redirect=False, respect_retry_after_header=False
)
_REFUSALS: Mapping[int, type[AsuError]] = {
    400: RequestRejected,
    401: NotAuthenticated,
    403: NotAllowed,
    404: BuildNotFound,
    405: RequestRejected,
    409: Conflict,
    413: RequestRejected,
    422: RequestMalformed,
}
_REDIRECTS = (301, 302, 303, 307, 308)
_GATEWAY = (502, 504)
_NOT_NOW = (Unavailable, QueueFull, TooManyRequests)
_LEAST_PAUSE = 0.2

_Result = TypeVar("_Result")


class Response(Struct, frozen=True):
    """An answer that was understood. `retry_after` is in seconds."""

    status: int
    document: dict[str, Any]
    retry_after: int = 10


class Server:
    """A server by its address, like https://asu.example.org; `token` is sent with each request."""

    def __init__(self, address: str, *, token: str = "", socket_path: Path | None = None) -> None:
        """`socket_path` is the Unix socket of a server on this machine.

        Raises `RequestMalformed` for what is no address, `Unavailable` for a proxy without one.
        """
        parts = parse_address(address)
        if parts is None or parts.user:
            raise RequestMalformed(
                f"--server: expected an address like https://asu.example.org, got {address}"
            )
        self.address = address.rstrip("/")
        try:
            self._pool = _SocketPool(socket_path) if socket_path else open_pool(address)
        except OSError as error:
            raise Unavailable(f"{address} cannot be asked: {error}.") from None
        self._headers = {"User-Agent": f"asu-builder/{__version__}"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, whatever its status; a redirect, or what is no JSON, is an error.

        Raises `Unavailable` when nothing answers, `ServerMistake` for what is not this interface.
        """
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        with self._open(method, path, body=body, headers=sent, retries=_RETRIES) as response:
            content: bytes = response.read(_ANSWER_BYTES + 1, decode_content=True)
            status, retry_after = response.status, response.headers.get("retry-after", "")
        if status in _GATEWAY:
            raise Unavailable(f"{self.address} is not reached by the proxy in front of it ({status}).")
        if len(content) > _ANSWER_BYTES:
            raise ServerMistake(f"{self.address} answered with more than {_ANSWER_BYTES >> 20} MiB.")
        document = json_object(content)
        if document is None:
            raise ServerMistake(
                f"{self.address} answered {status} with something that is no ASU server's answer."
            )
        return Response(status, document, int(retry_after) if retry_after.isdecimal() else 10)

    def fetch(self, method: str, path: str, **options: Any) -> Response:
        """The same; whatever is not a success is raised as our error of that meaning."""
        response = self.ask(method, path, **options)
        if response.status >= 400:
            raise refusal(response)
        return response

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None, *, anonymous: bool = False
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer read bit by bit. Raises `Unavailable` when it breaks off.

        `anonymous` sends no token and follows redirects: images may lie elsewhere.
        """
        sent = {**({} if anonymous else self._headers), **(headers or {})}
        retries = _DOWNLOAD_RETRIES if anonymous else _RETRIES
        with self._open("GET", path, headers=sent, retries=retries) as response:
            yield response

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        retries: urllib3.Retry,
        body: bytes | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        try:
            response = self._pool.request(
                method,
                f"{self.address}{path}",
                body=body,
                headers=headers,
                timeout=_TIMEOUT,
                retries=retries,
                redirect=retries.redirect != 0,
                preload_content=False,
            )
            try:
                if response.status in _REDIRECTS:
                    where = response.headers.get("location", "nowhere")
                    raise ServerMistake(f"{self.address} sends us to {where}; name that as --server.")
                yield response
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # The last cause, without the objects' addresses that urllib3 prints.
            reason = getattr(error, "reason", None) or error.__cause__ or error
            text = getattr(reason, "strerror", None) or str(reason)
            why = text.rpartition(">: ")[2].rpartition("): ")[2].strip().rstrip(".") or type(error).__name__
            raise Unavailable(f"{self.address} does not answer: {why}.") from error


def retry(
    ask: Callable[[], _Result],
    *,
    seconds: float,
    note: Callable[[str], None] = lambda _: None,
) -> _Result:
    """The answer, asked for again until `seconds` are over; then the last refusal is raised.

    Retries only what can pass by itself, as late as the refusal says; notes each new reason once.
    """
    until = time.monotonic() + seconds
    noted = ""
    while True:
        try:
            return ask()
        except _NOT_NOW as error:
            pause = max(_LEAST_PAUSE, float(getattr(error, "retry_after", 1)))
            if time.monotonic() + pause > until:
                raise
            if noted != str(error):
                noted = str(error)
                note(f"{noted} Trying for {seconds:.0f} s.")
        time.sleep(pause)


class _SocketPool(urllib3.HTTPConnectionPool):
    """Connections to the one server behind a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> Any:
        connection = super()._new_conn()
        connection._new_conn = self._connect  # type: ignore[attr-defined]
        return connection

    def _connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.connect(str(self._path))
        return connected


def refusal(response: Response) -> AsuError:
    """What an answer of 400 or more means, in our words; its own sentence is kept."""
    sentence = str(
        response.document.get("detail") or response.document.get("title") or f"status {response.status}"
    )
    kind = _REFUSALS.get(response.status)
    if kind and issubclass(kind, RequestRejected):
        return kind(sentence, field=str(response.document.get("field", "")))
    if kind:
        return kind(sentence)
    if response.status == 429:
        return TooManyRequests(sentence, retry_after=response.retry_after)
    if response.status == 503:
        return Unavailable(sentence, retry_after=response.retry_after)
    return ServerMistake(sentence)


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that an answer holds; None for anything else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class ServerOffers:
    """What one server offers. Everything raises what the server refuses with, in our words."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def branches(self) -> list[dict[str, Any]]:
        """Every branch with its `name`, `versions` (newest first) and `targets`."""
        return list(self._server.fetch("GET", "/api/v1/overview").document["branches"].values())

    def latest(self) -> list[str]:
        """The latest releases, the upcoming one first if there is any."""
        return list(self._server.fetch("GET", "/api/v1/latest").document["latest"])

    def devices(self, version: str, text: str, limit: int) -> dict[str, Any]:
        """Devices by words of their names."""
        return self._search("devices", version=version, search=text, limit=limit)

    def packages(self, version: str, target: str, text: str, limit: int) -> dict[str, Any]:
        """Packages by words of their names."""
        return self._search("packages", version=version, target=target, search=text, limit=limit)

    def unknown_packages(self, body: bytes) -> dict[str, list[str]]:
        """Names in a request that no index has, each with those it may mean."""
        found = self.preview(body)
        if not found["indexes_known"]:
            raise Unavailable("The server does not know the package indexes yet.", retry_after=1)
        return {entry["name"]: entry["suggestions"] for entry in found["unknown"]}

    def preview(self, body: bytes) -> dict[str, Any]:
        """What would come of a request."""
        return self._server.fetch("POST", "/api/v1/packages/preview", body=body).document

    def _search(self, what: str, **asked: str | int) -> dict[str, Any]:
        return self._server.fetch("GET", f"/api/v1/{what}?{urlencode(asked)}").document


_NO_JOB = "There is no job under this hash."


class ServerOperator:
    """Everything raises what the server refuses with, in our words."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def jobs(self, wanted: JobFilter) -> Sequence[dict[str, Any]]:
        """Jobs, newest first, as the interface tells them."""
        asked = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
        return list(self._server.fetch("GET", f"/api/v1/jobs?{urlencode(asked)}").document["jobs"])

    def whole_hash(self, given: str) -> str:
        """The one hash that begins as given. Raises `RequestRejected` or `BuildNotFound`."""

        def begin_so(prefix: str) -> list[str]:
            found = self.jobs(JobFilter(request_hash=prefix, limit=FOUND_AT_MOST))
            return [str(job["request_hash"]) for job in found]

        return whole_hash(given, begin_so)

    def show(self, request_hash: str) -> Any:
        """The newest job of a hash with its `request`, and its poll as `build`. Raises `BuildNotFound`."""
        found = self.jobs(JobFilter(request_hash=request_hash, limit=1))
        if not found:
            raise BuildNotFound(_NO_JOB)
        build = self._server.ask("GET", f"/api/v1/build/{request_hash}").document
        return {**found[0], "request": build.pop("request", None), "build": build}

    def cancel(self, request_hash: str) -> None:
        """Ends the live job of this hash. Raises `BuildNotFound` or `Conflict`."""
        try:
            self._server.fetch("DELETE", f"/api/v1/build/{request_hash}")
        except BuildNotFound as error:
            # The server says it in the words that old clients know.
            raise BuildNotFound(_NO_JOB) from error

    def requeue(self, request_hash: str) -> None:
        """Builds once more what has ended, or gives a running build back to the queue."""
        self._server.fetch("POST", f"/api/v1/jobs/{request_hash}/requeue")

    def purge(self, request_hash: str) -> None:
        """Forgets a result or a failure now, with its images."""
        self._server.fetch("DELETE", f"/api/v1/results/{request_hash}")

    def pause(self) -> None:
        """Lets no worker claim a job."""
        self._server.fetch("POST", "/api/v1/workers/pause")

    def resume(self) -> None:
        """Lets workers claim jobs again."""
        self._server.fetch("POST", "/api/v1/workers/resume")

    def preflight(self) -> Sequence[dict[str, Any]]:
        """Where builds were compared with an impossible verdict."""
        return list(self._server.fetch("GET", "/api/v1/preflight").document["targets"])

    def enforce(self, version: str, target: str) -> None:
        """Lets it refuse again. Raises `BuildNotFound` or `Conflict`."""
        place = f"{quote(version, safe='')}/{quote(target)}"
        self._server.fetch("POST", f"/api/v1/preflight/{place}/enforce")

    def acts(self, limit: int) -> Sequence[dict[str, Any]]:
        """What operators did, newest first."""
        return list(self._server.fetch("GET", f"/api/v1/acts?limit={limit}").document["acts"])
