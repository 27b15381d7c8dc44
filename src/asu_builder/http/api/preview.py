"""What package rules would do to a request, for people who choose packages."""

import hashlib
from typing import Annotated

import msgspec
from starlette.requests import Request

from asu_builder.core.search import Preview
from asu_builder.http.api.body import BuildRequestBody, parse_request
from asu_builder.http.api.wire import (
    UPSTREAM_IS_SLOW,
    AppliedRuleDocument,
    Problem,
    RenderedResponse,
    render_changes,
)
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.openapi import operation, says
from asu_builder.http.threads import Threads, Waiting


class UnknownPackageDocument(msgspec.Struct):
    """A package that no index of this version and target has."""

    name: Annotated[str, says("The name in the request", "lucy")]
    suggestions: Annotated[tuple[str, ...], says("The closest existing names, best first", ["luci"])]


class PreviewDocument(msgspec.Struct):
    """What make would be told, why, and which names are unknown."""

    packages: Annotated[tuple[str, ...], says("The package selection", ["luci", "owut"])]
    applied: Annotated[list[AppliedRuleDocument], says("The rules that changed something", [])]
    warnings: Annotated[tuple[str, ...], says("Warnings for the caller, as sentences", [])]
    missing_defaults: Annotated[
        tuple[str, ...],
        says("Defaults of this version that neither the request nor the version before has", ["kmod-switch"]),
    ]
    indexes_known: Annotated[bool, says("Whether the names could be checked", True)]
    unknown: Annotated[list[UnknownPackageDocument], says("Names that are in no index", [])]


class PreviewEndpoint:
    """Reads a build request and answers what would be made of it; nothing is queued."""

    def __init__(
        self, preview: Preview, threads: Threads, waiting: Waiting, *, callers: Callers, admit: Admit
    ) -> None:
        self._preview = preview
        self._threads = threads
        self._waiting = waiting
        self._callers = callers
        self._admit = admit

    @operation(
        "/api/v1/packages/preview",
        method="POST",
        answers={
            200: ("What make would be told", PreviewDocument),
            400: ("The request cannot be served here", Problem),
            401: ("An unknown token was sent", Problem),
            413: ("The body is too large", Problem),
            422: ("The body is no build request; detail names the field", Problem),
            429: ("This address asks too often; Retry-After says when to try again", Problem),
            **UPSTREAM_IS_SLOW,
        },
        body=BuildRequestBody,
    )
    async def preview(self, request: Request) -> RenderedResponse:
        """What the package rules would do to a build request, and which names are unknown. Queues nothing.

        Raises `NotAuthenticated`, and `TooManyRequests` when a caller without a token asks too often.
        """
        caller = self._callers.of(request.scope)
        # In a thread, because the first one loads a library.
        refusal = None if caller.token else await self._threads.run(self._admit, caller.name)
        if refusal is not None:
            raise refusal
        body = await request.body()
        what = hashlib.sha256(body).hexdigest()

        def render() -> bytes:
            request, _ = parse_request(body)
            found = self._preview.look(request)
            changes = render_changes(found.selection.record)
            unknown = found.unknown
            document = PreviewDocument(
                packages=found.selection.packages,
                applied=changes.applied,
                warnings=changes.warnings,
                missing_defaults=changes.missing_defaults,
                indexes_known=unknown is not None,
                unknown=[UnknownPackageDocument(entry.name, entry.suggestions) for entry in unknown or ()],
            )
            return msgspec.json.encode(document)

        return RenderedResponse(200, await self._waiting.ask(caller, what, render))
