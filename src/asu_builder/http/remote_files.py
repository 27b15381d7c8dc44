"""Sends files that lie in object storage: piece by piece, as fast as the client takes them.

Each piece is fetched by a separate request, which ends in time however slow the client is and returns its
connection to the pool. A client that takes its pieces quickly gets larger ones, which cost less.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from starlette.types import Message, Send

from asu_builder.domain.errors import AsuError
from asu_builder.http.door import Client, ClientGone
from asu_builder.http.threads import while_client_stays
from asu_builder.ports import RemoteFile

_log = logging.getLogger(__name__)

FIRST, LEAST, MOST = 1 << 20, 64 << 10, 2 << 20
"""Bytes of a piece. A download has two in memory at most: one on its way, one that waits."""
_QUICK_SECONDS, _SLOW_SECONDS = 0.25, 2.0


async def send_remote(
    head: Message,
    file: RemoteFile,
    start: int,
    end: int,
    *,
    client: Client | None,
    abort: Callable[[], None] | None,
    send: Send,
) -> None:
    """Sends the head of an answer, and the bytes of a file from `start` to before `end`.

    The first piece is here before the head leaves, so what `RemoteFile.read` raises for it is raised.
    For a later one `abort` breaks the connection off: an end of the answer would look like the file's.
    Returns when the client goes away. `client` and `abort` are None where another server than ours has
    brought the request.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ClientGone), while_client_stays(client):
        size = FIRST
        body = await file.read(start, min(size, end - start))
        await send(head)
        while True:
            start += len(body)
            began = loop.time()
            # Returns when the piece before this one has left.
            await send({"type": "http.response.body", "body": body, "more_body": start < end})
            if start == end:
                return
            took = loop.time() - began
            if took < _QUICK_SECONDS:
                size = min(2 * size, MOST)
            elif took > _SLOW_SECONDS:
                size = max(size // 2, LEAST)
            try:
                body = await file.read(start, min(size, end - start))
            except AsuError as problem:
                _log.warning("A download broke off at byte %d of %d: %s", start, end, problem)
                if abort is None:
                    raise
                abort()
                await loop.create_future()  # ends here when the connection is gone
