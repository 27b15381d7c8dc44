"""What package rules would do to a request, for people who choose packages."""

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.changes import PackageChangesRecord
from asu_builder.services.preview import Preview, PreviewedSelection
from asu_builder.web.changes_documents import (
    PreviewDocument,
    UnknownPackageDocument,
    render_changes,
)
from asu_builder.web.errors import respond
from asu_builder.web.incoming import MAX_BODY, parse_request
from asu_builder.web.rate import RateLimit
from asu_builder.web.threads import Threads
from asu_builder.web.wire import Answer, render_problem

_PER_MINUTE, _BURST = 60, 20


class PreviewEndpoint:
    """Reads a build request and answers what would be made of it; nothing is queued."""

    def __init__(self, preview: Preview, threads: Threads, *, clock: Callable[[], float]) -> None:
        self._preview = preview
        self._threads = threads
        self._limit = RateLimit(_PER_MINUTE, burst=_BURST, clock=clock)

    async def preview(self, request: Request) -> Response:
        """429 with `Retry-After` when this address asks too often."""
        wait = self._limit.wait(request.client.host if request.client else "")
        if wait:
            problem = render_problem(429, "Too many requests", "Previews are limited to sixty a minute.")
            return respond(Answer(429, problem.body, ((b"retry-after", b"%d" % wait),)))
        body = await request.body()
        if len(body) > MAX_BODY:
            return respond(render_problem(413, "Too large", f"body: expected at most {MAX_BODY} bytes"))
        return respond(Answer(200, await self._threads.run(self._render, body)))

    def _render(self, body: bytes) -> bytes:
        request, _ = parse_request(body)
        return msgspec.json.encode(_document(self._preview.look(request)))


def _document(found: PreviewedSelection) -> PreviewDocument:
    record: PackageChangesRecord = found.selection.record
    changes = render_changes(record)
    unknown = found.unknown
    return PreviewDocument(
        packages=found.selection.packages,
        applied=changes.applied,
        warnings=changes.warnings,
        missing_defaults=changes.missing_defaults,
        indexes_known=unknown is not None,
        unknown=[UnknownPackageDocument(entry.name, entry.suggestions) for entry in unknown or ()],
    )
