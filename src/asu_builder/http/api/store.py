"""Images for download: plain files below `/store`, byte for byte, resumable, never compressed.

LuCI does not look at the status of a download, so a missing file must at least not look like an image:
what is not a file is answered in JSON.
"""

import asyncio
import math
import os
import re
import stat
from collections.abc import Callable
from contextlib import ExitStack
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from asu_builder.domain.addresses import attachment
from asu_builder.domain.errors import BuildNotFound, StoreUnavailable
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.http.api.wire import Problem, render_problem
from asu_builder.http.callers import Callers
from asu_builder.http.door import ABORT, CLIENT
from asu_builder.http.openapi import operation
from asu_builder.http.remote_files import send_remote
from asu_builder.http.representations import respond
from asu_builder.http.sendfile import FileSender, read_cached
from asu_builder.http.threads import Threads
from asu_builder.ports import RemoteFile, Store
from asu_builder.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~@:=,-]{0,254}", re.ASCII)
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII | re.IGNORECASE)

_LATELY_SECONDS, _MOST_LATELY = 5.0, 256


class _Facts(Struct, frozen=True):
    """What is announced of a file."""

    size: int
    etag: str
    modified_at: float
    """In seconds since 1970."""


class Downloads:
    """Serves what the store holds, and holds what it serves."""

    def __init__(
        self,
        store: Store,
        threads: Threads,
        *,
        callers: Callers,
        settings: Settings,
        on_use: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_use` is told the hash of each download that begins, on the event loop: it may not wait.

        The hash may be one that no job carries: every plain file of the store is served.
        """
        self._store = store
        self._threads = threads
        self._on_use = on_use
        self._callers = callers
        self._delegates_to = settings.store_accel_redirect
        self._redirects = settings.store_redirect
        self._sender = FileSender()
        self._lately: dict[tuple[str, str], tuple[float, RemoteFile | None]] = {}
        """When threads located files, the oldest first.

        Of those on a disk only the ones of which the system keeps in memory what is read.
        """

    @operation(
        "/store/{request_hash}/{name}",
        answers={
            200: ("The file", None),
            206: ("The part that Range asks for", None),
            302: ("For a while the file lies at the address of `Location`", None),
            304: ("The file is the one that If-None-Match names", None),
            404: ("There is no such file", Problem),
            416: ("The file is shorter than that", Problem),
        },
        content_type="application/octet-stream",
    )
    async def download(self, request: Request) -> ASGIApp:
        """Download an image, whole or in part.

        What is answered is held from before it is located until its last byte is sent or the client
        is gone, so that housekeeping, in whichever process, takes it away neither before nor within.
        """
        request_hash: str = request.path_params["request_hash"]
        name: str = request.path_params["name"]

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            held = ExitStack()
            taking: asyncio.Future[_Taken] | None = None
            try:
                taken = self._take_again(held, request_hash, name)
                if taken is None:
                    taking = self._threads.run(self._take, held, request_hash, name)
                    taken = await asyncio.shield(taking)
                    self._note(request_hash, name, taken)
                await self._answer(request, taken, scope, receive, send)
            except BuildNotFound:
                self._lately.pop((request_hash, name), None)
                raise
            finally:
                if taking is None:
                    held.close()
                else:
                    # A thread that is still at it, for a client who has gone, lets go when it has taken.
                    taking.add_done_callback(lambda _: held.close())

        return answer

    async def _answer(
        self, request: Request, taken: "_Taken", scope: Scope, receive: Receive, send: Send
    ) -> None:
        request_hash: str = request.path_params["request_hash"]
        name: str = request.path_params["name"]
        remote = None if isinstance(taken, tuple) else taken
        if self._delegates_to and request.client and self._callers.trusts(request.client.host):
            response, part = _delegate(f"{self._delegates_to}{request_hash}/{name}", name), range(0)
        else:
            response, part = _response(request.headers, name, _facts_of(taken))
        gets = request.method == "GET"
        if gets and response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            self._on_use(request_hash)
            if remote and self._redirects:
                location = {"location": remote.signed_url(), "cache-control": "no-store"}
                response, part = Response(status_code=302, headers=location), range(0)
        if not (gets and part):
            await response(scope, receive, send)
            return
        head = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        client = scope.get(CLIENT)
        if isinstance(taken, tuple):
            await self._sender.send(head, taken[0], part.start, part.stop, client=client, send=send)
        else:
            abort = scope.get(ABORT)
            await send_remote(head, taken, part.start, part.stop, client=client, abort=abort, send=send)

    def _take_again(self, held: ExitStack, request_hash: str, name: str) -> "_Taken | None":
        """Without a thread, if one has opened the same file a moment ago: who asks for parts asks often.

        The disk is not asked then for what the thread has read. While the result is being removed, it is
        left to a thread to wait.
        """
        at, remote = self._lately.get((request_hash, name), (-math.inf, None))
        if asyncio.get_running_loop().time() - at > _LATELY_SECONDS:
            return None
        if remote:
            return remote
        try:
            return self._take(held, request_hash, name, wait=False)
        except BlockingIOError:
            return None

    def _note(self, request_hash: str, name: str, taken: "_Taken") -> None:
        remote = None if isinstance(taken, tuple) else taken
        # Only where the system tells that it has it in memory: not on a disk of the network, for example.
        if remote or (isinstance(taken, tuple) and read_cached(taken[0], 0, 1)):
            key = request_hash, name
            self._lately.pop(key, None)
            self._lately[key] = asyncio.get_running_loop().time(), remote
            if len(self._lately) > _MOST_LATELY:
                del self._lately[next(iter(self._lately))]

    def _take(self, held: ExitStack, request_hash: str, name: str, *, wait: bool = True) -> "_Taken":
        """The open file, or the one in object storage.

        What is read and what is announced are one and the same, replaced or not.
        """
        if REQUEST_HASH.fullmatch(request_hash) and _NAME.fullmatch(name):
            held.enter_context(self._store.hold(request_hash, wait=wait))
            located = self._store.locate(request_hash, name)
            if isinstance(located, Path):
                try:
                    file = os.open(located, os.O_RDONLY | os.O_NOFOLLOW)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # replaced at this moment
                except OSError as error:
                    raise StoreUnavailable(f"The store cannot be read: {error.strerror}.") from error
                else:
                    held.callback(os.close, file)
                    facts = os.fstat(file)
                    if stat.S_ISREG(facts.st_mode):
                        return file, facts
            elif located:
                return located
        if missing := self._store.missing():
            raise StoreUnavailable(missing)
        raise BuildNotFound("There is no such file; its build may have expired. Please request it again.")


_Taken = tuple[int, os.stat_result] | RemoteFile
"""An open file, or one in object storage."""


def _facts_of(taken: _Taken) -> _Facts:
    if isinstance(taken, tuple):
        facts = taken[1]
        etag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}-{facts.st_ino:x}"'
        return _Facts(facts.st_size, etag, facts.st_mtime)
    return _Facts(taken.size, f'"{taken.etag}"', taken.modified_at.timestamp())


_ALWAYS = {
    # The validator is cheap, and a forgotten build must not live on in caches.
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def _delegate(path: str, name: str) -> Response:
    """For a proxy that sends the file itself, with its validators, and reads the ranges."""
    # No character of a name means anything in a path, and Caddy would not decode what is encoded.
    return Response(headers=_ALWAYS | _describe(name) | {"x-accel-redirect": path})


def _describe(name: str) -> dict[str, str]:
    return {"content-type": "application/octet-stream", "content-disposition": attachment(name)}


def _response(asked: Headers, name: str, facts: _Facts) -> tuple[Response, range]:
    """The head of an answer, or an answer that is whole, and the bytes of the file that belong to it."""
    size = facts.size
    validator = {"etag": facts.etag}
    known = asked.get("if-none-match", "")
    if known.strip() == "*" or validator["etag"] in (
        tag.strip().removeprefix("W/") for tag in known.split(",")
    ):
        return Response(status_code=304, headers=_ALWAYS | validator), range(0)
    validator["last-modified"] = formatdate(facts.modified_at, usegmt=True)
    headers = _ALWAYS | validator | _describe(name) | {"accept-ranges": "bytes"}
    part = None
    if asked.get("if-range") in (None, *validator.values()):
        part = _meant_range(asked.get("range", ""), size)
    if part is None:
        return Response(headers=headers | {"content-length": str(size)}), range(size)
    if not part:
        refusal = respond(render_problem(416, "Range not satisfiable", f"The file has {size} bytes."))
        refusal.headers["content-range"] = f"bytes */{size}"
        return refusal, part
    headers |= {
        "content-range": f"bytes {part.start}-{part.stop - 1}/{size}",
        "content-length": str(len(part)),
    }
    return Response(status_code=206, headers=headers), part


def _meant_range(text: str, size: int) -> range | None:
    """The bytes that a header asks for, none when all lie behind the end; None for the whole file.

    One well-formed range is meant, of the file as it is now. Anything else is answered with the whole
    file, as RFC 9110 allows (§14.2).
    """
    match = _RANGE.fullmatch(text)
    first, last = match.groups() if match else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        return None
    if not first:
        return range(max(0, size - int(last)), size)
    return range(int(first), min(int(last) + 1, size) if last else size)
