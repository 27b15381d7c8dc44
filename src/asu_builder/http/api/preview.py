"""What package rules would do to a request, for people who choose packages."""

import hashlib

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.preflight import Preview, PreviewedSelection
from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.http.api.body import parse_request
from asu_builder.http.api.changes import PreviewDocument, UnknownPackageDocument, render_changes
from asu_builder.http.api.wire import Answer
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.errors import respond
from asu_builder.http.threads import Threads
from asu_builder.http.waiting import Waiting


class PreviewEndpoint:
    """Reads a build request and answers what would be made of it; nothing is queued."""

    def __init__(
        self, preview: Preview, threads: Threads, waiting: Waiting, *, callers: Callers, admit: Admit
    ) -> None:
        self._preview = preview
        self._threads = threads
        self._waiting = waiting
        self._askers = callers
        self._admit = admit

    async def preview(self, request: Request) -> Response:
        """Raises `NotAuthenticated`, and `TooManyRequests` for whoever asks too often without a token."""
        caller = self._askers.of(request.scope)
        # In a thread, because the first one loads a library.
        refusal = None if caller.token else await self._threads.run(self._admit, caller.name)
        if refusal is not None:
            raise refusal
        body = await request.body()
        what = hashlib.sha256(body).hexdigest()
        return respond(Answer(200, await self._waiting.ask(caller, what, self._render, body)))

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
