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
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from asu_builder.domain.errors import BuildNotFound, StoreUnavailable
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.http.api.wire import Problem, render_problem
from asu_builder.http.callers import Callers
from asu_builder.http.door import CLIENT
from asu_builder.http.openapi import operation
from asu_builder.http.representations import respond
from asu_builder.http.sendfile import FileSender, read_cached
from asu_builder.http.threads import Threads
from asu_builder.ports import Store
from asu_builder.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~@:=,-]{0,254}", re.ASCII)
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII | re.IGNORECASE)

_LATELY_SECONDS, _MOST_LATELY = 5.0, 256


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
        self._redirect = settings.store_accel_redirect
        self._sender = FileSender()
        self._lately: dict[tuple[str, str], float] = {}
        """When threads opened files of which the system keeps in memory what is read; the oldest first."""

    @operation(
        "/store/{request_hash}/{name}",
        answers={
            200: ("The file", None),
            206: ("The part that Range asks for", None),
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
            taking: asyncio.Future[tuple[int, os.stat_result]] | None = None
            try:
                taken = self._take_again(held, request_hash, name)
                if taken is None:
                    taking = self._threads.run(self._take, held, request_hash, name)
                    taken = await asyncio.shield(taking)
                    self._note(request_hash, name, taken[0])
                file, facts = taken
                if self._redirect and request.client and self._callers.trusts(request.client.host):
                    part = range(0)
                    response = _delegate(f"{self._redirect}{request_hash}/{name}", name)
                else:
                    response, part = _response(request.headers, name, facts)
                gets = request.method == "GET"
                if gets and response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    self._on_use(request_hash)
                if gets and part:
                    head = {
                        "type": "http.response.start",
                        "status": response.status_code,
                        "headers": response.raw_headers,
                    }
                    client = scope.get(CLIENT)
                    await self._sender.send(head, file, part.start, part.stop, client=client, send=send)
                else:
                    await response(scope, receive, send)
            finally:
                if taking is None:
                    held.close()
                else:
                    # A thread that is still at it, for a client who has gone, lets go when it has taken.
                    taking.add_done_callback(lambda _: held.close())

        return answer

    def _take_again(self, held: ExitStack, request_hash: str, name: str) -> tuple[int, os.stat_result] | None:
        """Without a thread, if one has opened the same file a moment ago: who asks for parts asks often.

        The disk is not asked then for what the thread has read. While the result is being removed, it is
        left to a thread to wait.
        """
        at = self._lately.get((request_hash, name), -math.inf)
        if asyncio.get_running_loop().time() - at > _LATELY_SECONDS:
            return None
        try:
            return self._take(held, request_hash, name, wait=False)
        except BlockingIOError:
            return None

    def _note(self, request_hash: str, name: str, file: int) -> None:
        # Only where the system tells that it has it in memory: not on a disk of the network, for example.
        if read_cached(file, 0, 1):
            key = request_hash, name
            self._lately.pop(key, None)
            self._lately[key] = asyncio.get_running_loop().time()
            if len(self._lately) > _MOST_LATELY:
                del self._lately[next(iter(self._lately))]

    def _take(
        self, held: ExitStack, request_hash: str, name: str, *, wait: bool = True
    ) -> tuple[int, os.stat_result]:
        """The open file. What is read and what is announced are one and the same, replaced or not."""
        if REQUEST_HASH.fullmatch(request_hash) and _NAME.fullmatch(name):
            held.enter_context(self._store.hold(request_hash, wait=wait))
            if path := self._store.locate(request_hash, name):
                try:
                    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # replaced at this moment
                except OSError as error:
                    raise StoreUnavailable(f"The store cannot be read: {error.strerror}.") from error
                else:
                    held.callback(os.close, file)
                    facts = os.fstat(file)
                    if stat.S_ISREG(facts.st_mode):
                        return file, facts
        if missing := self._store.missing():
            raise StoreUnavailable(missing)
        raise BuildNotFound("There is no such file; its build may have expired. Please request it again.")


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
    quoted = quote(name)
    plain = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    return {"content-type": "application/octet-stream", "content-disposition": f"attachment; {plain}"}


def _response(asked: Headers, name: str, facts: os.stat_result) -> tuple[Response, range]:
    """The head of an answer, or an answer that is whole, and the bytes of the file that belong to it."""
    size = facts.st_size
    validator = {"etag": f'"{facts.st_mtime_ns:x}-{size:x}-{facts.st_ino:x}"'}
    known = asked.get("if-none-match", "")
    if known.strip() == "*" or validator["etag"] in (
        tag.strip().removeprefix("W/") for tag in known.split(",")
    ):
        return Response(status_code=304, headers=_ALWAYS | validator), range(0)
    validator["last-modified"] = formatdate(facts.st_mtime, usegmt=True)
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
