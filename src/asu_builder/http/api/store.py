"""Images for download: plain files below `/store`, byte for byte, resumable, never compressed.

Starlette's `FileResponse` sends them; what it takes too lightly is decided here: which ranges are
meant, a strong validator, and answers in JSON when there is nothing to send. LuCI does not look at
the status of a download, so a missing file must at least not look like an image.
"""

import asyncio
import os
import re
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from asu_builder.domain.errors import BuildNotFound, StoreUnavailable
from asu_builder.domain.request import REQUEST_HASH
from asu_builder.http.api.wire import Problem, render_problem
from asu_builder.http.errors import respond
from asu_builder.http.openapi import operation
from asu_builder.http.threads import Threads
from asu_builder.ports import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~@:=,-]{0,254}", re.ASCII)
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII | re.IGNORECASE)


class ImageResponse(FileResponse):
    """A file in pieces large enough that the way to the reading thread costs little."""

    chunk_size = 256 * 1024


class Downloads:
    """Serves what the store holds, and holds what it serves."""

    def __init__(
        self, store: Store, threads: Threads, *, on_use: Callable[[str], None] = lambda _: None
    ) -> None:
        """`on_use` is told the hash of each download that begins, on the event loop: it may not wait.

        The hash may be one that no job carries: every plain file of the store is served.
        """
        self._store = store
        self._threads = threads
        self._on_use = on_use

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
            taking = self._threads.run(self._take, held, request_hash, name)
            try:
                response = _response(request, *await asyncio.shield(taking))
                if isinstance(response, ImageResponse) and request.method == "GET":
                    self._on_use(request_hash)
                await response(scope, receive, send)
            finally:
                # A thread that is still at it, for a client who has gone, lets go when it has taken.
                taking.add_done_callback(lambda _: held.close())

        return answer

    def _take(self, held: ExitStack, request_hash: str, name: str) -> tuple[Path, os.stat_result]:
        if REQUEST_HASH.fullmatch(request_hash) and _NAME.fullmatch(name):
            held.enter_context(self._store.hold(request_hash))
            path = self._store.locate(request_hash, name)
            try:
                facts = path.stat(follow_symlinks=False) if path else None
            except OSError:
                facts = None
            if path and facts and stat.S_ISREG(facts.st_mode):
                return path, facts
        if missing := self._store.missing():
            raise StoreUnavailable(missing)
        raise BuildNotFound("There is no such file; its build may have expired. Please request it again.")


def _response(request: Request, path: Path, facts: os.stat_result) -> Response:
    headers = {
        "etag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}-{facts.st_ino:x}"',
        # The validator is cheap, and a forgotten build must not live on in caches.
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
    }
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or headers["etag"] in (
        tag.strip().removeprefix("W/") for tag in known.split(",")
    ):
        return Response(status_code=304, headers=headers)
    file = ImageResponse(
        path, headers=headers, media_type="application/octet-stream", filename=path.name, stat_result=facts
    )
    # One well-formed range is meant, of the file as it is now. Anything else is answered with the whole file,
    # as RFC 9110 allows (§14.2).
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    first, last = match.groups() if match else ("", "")
    condition = request.headers.get("if-range")
    if (
        not (first or last)
        or (first and last and int(last) < int(first))
        or condition not in (None, file.headers["etag"], file.headers["last-modified"])
    ):
        # FileResponse reads the header itself and would call a strange one an error.
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif int(first) >= facts.st_size if first else int(last) == 0 or facts.st_size == 0:
        refusal = respond(
            render_problem(416, "Range not satisfiable", f"The file has {facts.st_size} bytes.")
        )
        refusal.headers["content-range"] = f"bytes */{facts.st_size}"
        return refusal
    return file
