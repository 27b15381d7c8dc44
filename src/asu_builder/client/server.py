"""One ASU server over HTTP: its answers as documents, its refusals as our errors."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import urllib3
from msgspec import Struct

from asu_builder import __version__
from asu_builder.adapters.outgoing import open_pool
from asu_builder.domain.addresses import parse_address
from asu_builder.domain.errors import (
    AsuError,
    BuildNotFound,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    RequestMalformed,
    RequestRejected,
    ServerMistake,
    TooManyRequests,
    Unavailable,
)

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


class Reply(Struct, frozen=True):
    """An answer that was understood. `retry_after` is in seconds."""

    status: int
    document: dict[str, Any]
    retry_after: int = 10


class Server:
    """A server by its address, like https://asu.example.org; `token` is sent with each question."""

    def __init__(self, address: str, *, token: str = "") -> None:
        """Raises `RequestMalformed` for what is no address, `Unavailable` where the way to it is none."""
        parts = parse_address(address)
        if parts is None or parts.user:
            raise RequestMalformed(
                f"--server: expected an address like https://asu.example.org, got {address}"
            )
        self.address = address.rstrip("/")
        try:
            self._pool = open_pool(address)
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
    ) -> Reply:
        """The answer, whatever its status; a redirect, or what is no JSON, is an error.

        Raises `Unavailable` when nothing answers, `ServerMistake` for what is not this interface.
        """
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        with self._open(method, path, body=body, headers=sent, retries=_RETRIES) as response:
            content = _content(self.address, response)
            status, retry_after = response.status, response.headers.get("retry-after", "")
        if status in _GATEWAY:
            raise Unavailable(f"{self.address} is not reached by the proxy in front of it ({status}).")
        document = _document(self.address, status, content)
        return Reply(status, document, int(retry_after) if retry_after.isdecimal() else 10)

    def fetch(self, method: str, path: str, **options: Any) -> Reply:
        """The same; whatever is not a success is raised as our error of that meaning."""
        reply = self.ask(method, path, **options)
        if reply.status >= 400:
            raise refusal(reply)
        return reply

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
            raise Unavailable(f"{self.address} does not answer: {_why(error)}.") from error


def refusal(reply: Reply) -> AsuError:
    """What an answer of 400 or more means, in our words; its own sentence is kept."""
    sentence = str(reply.document.get("detail") or reply.document.get("title") or f"status {reply.status}")
    kind = _REFUSALS.get(reply.status)
    if kind and issubclass(kind, RequestRejected):
        return kind(sentence, field=str(reply.document.get("field", "")))
    if kind:
        return kind(sentence)
    if reply.status == 429:
        return TooManyRequests(sentence, retry_after=reply.retry_after)
    if reply.status == 503:
        return Unavailable(sentence, retry_after=reply.retry_after)
    return ServerMistake(sentence)


def _content(address: str, response: urllib3.BaseHTTPResponse) -> bytes:
    content: bytes = response.read(_ANSWER_BYTES + 1, decode_content=True)
    if len(content) > _ANSWER_BYTES:
        raise ServerMistake(f"{address} answered with more than {_ANSWER_BYTES >> 20} MiB.")
    return content


def _document(address: str, status: int, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ServerMistake(f"{address} answered {status} with something that is no ASU server's answer.")
    return document


def _why(error: BaseException) -> str:
    """The last cause, without the objects' addresses that urllib3 prints."""
    reason = getattr(error, "reason", None) or error.__cause__ or error
    text = getattr(reason, "strerror", None) or str(reason)
    return text.rpartition(">: ")[2].rpartition("): ")[2].strip().rstrip(".") or type(error).__name__
