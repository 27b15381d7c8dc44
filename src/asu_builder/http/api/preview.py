"""What would come of a request, for people who choose packages."""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from starlette.requests import Request

from asu_builder.core.search import Preview
from asu_builder.domain.preflight import Feasibility
from asu_builder.http.api.body import BuildRequestBody, parse_request
from asu_builder.http.api.build_problem import (
    AppliedRuleDocument,
    BuildProblemDocument,
    render_build_problem,
    render_changes,
)
from asu_builder.http.api.wire import (
    UPSTREAM_IS_SLOW,
    Problem,
    RenderedResponse,
)
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.openapi import A_SENTENCE, operation, says
from asu_builder.http.threads import Threads, Waiting, require_admitted


class UnknownPackageDocument(msgspec.Struct):
    """A package that no index of this version and target has."""

    name: Annotated[str, says("The name in the request", "lucy")]
    suggestions: Annotated[tuple[str, ...], says("The closest existing names, best first", ["luci"])]


class PreviewDocument(msgspec.Struct, omit_defaults=True):
    """What make would be told and why, what would be installed, and which names are unknown."""

    verdict: Annotated[
        Feasibility,
        says(
            "`fine`: everything can be installed together. `impossible`: the package manager would refuse. "
            "`unknown`: it cannot be told beforehand, and `reason` says why",
            "fine",
        ),
    ]
    selection: Annotated[tuple[str, ...], says("The package selection", ["luci", "owut"])]
    applied: Annotated[list[AppliedRuleDocument], says("The rules that changed something", [])]
    warnings: Annotated[tuple[str, ...], says("Warnings for the caller, as sentences", [])]
    missing_defaults: Annotated[
        tuple[str, ...],
        says("Defaults of this version that neither the request nor the version before has", ["kmod-switch"]),
    ]
    indexes_known: Annotated[bool, says("Whether the names could be checked", True)]
    unknown: Annotated[list[UnknownPackageDocument], says("Names that are in no index", [])]
    packages: Annotated[
        Mapping[str, str],
        says("`fine`: name and version of all that would be installed", {"luci": "25.300.40000-r1"}),
    ]
    reason: Annotated[str, says("`unknown`: why, as a sentence", A_SENTENCE)] = ""
    problem: Annotated[
        BuildProblemDocument | msgspec.UnsetType,
        says("`impossible`: the names it fails at; fields that do not apply are absent", {"missing": ["x"]}),
    ] = msgspec.UNSET
    detail: Annotated[
        str, says("`impossible`: the same as a sentence, as a failed build would say it", A_SENTENCE)
    ] = ""
    download_size: Annotated[int | msgspec.UnsetType, says("`fine`: bytes of all package files", 7340032)] = (
        msgspec.UNSET
    )
    installed_size: Annotated[
        int | msgspec.UnsetType,
        says("`fine`: bytes that they take once unpacked, before the image compresses them", 18874368),
    ] = msgspec.UNSET
    brings: Annotated[
        Mapping[str, tuple[str, ...]] | msgspec.UnsetType,
        says(
            "`fine`: for each name of the request, what is installed because of it alone",
            {"luci-ssl": ["luci-ssl", "libustream-mbedtls20201210"]},
        ),
    ] = msgspec.UNSET
    kept: Annotated[
        tuple[str, ...] | msgspec.UnsetType,
        says("`fine`: names taken away that are installed all the same, because others need them", ["ppp"]),
    ] = msgspec.UNSET
    indexes: Annotated[
        str, says("Digest of the package indexes that this was judged by; empty where none was read", "4be1…")
    ] = ""


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
        """What a build request would install, what package rules change in it, and what is wrong with it.

        Queues nothing. The verdict is that of the package manager, foretold from the package indexes.

        Raises `NotAuthenticated`, and `TooManyRequests` when a caller without a token asks too often.
        """
        caller = self._callers.of(request.scope)
        await require_admitted(caller, self._admit, self._threads)
        body = await request.body()
        what = hashlib.sha256(body).hexdigest()

        def render() -> bytes:
            request, _ = parse_request(body)
            found = self._preview.look(request)
            changes = render_changes(found.selection.record)
            foretold, unknown = found.foretold, found.unknown
            document = PreviewDocument(
                verdict=foretold.verdict,
                reason=foretold.reason,
                selection=found.selection.packages,
                applied=changes.applied,
                warnings=changes.warnings,
                missing_defaults=changes.missing_defaults,
                indexes_known=unknown is not None,
                unknown=[UnknownPackageDocument(entry.name, entry.suggestions) for entry in unknown or ()],
                packages=foretold.packages,
                indexes=foretold.indexes,
            )
            if foretold.verdict is Feasibility.IMPOSSIBLE:
                document.problem = render_build_problem(foretold.problem)
                document.detail = foretold.problem.sentence()
            elif foretold.verdict is Feasibility.FINE:
                document.download_size = foretold.download_size
                document.installed_size = foretold.installed_size
                document.brings = foretold.brings
                document.kept = foretold.kept
            return msgspec.json.encode(document)

        return RenderedResponse(200, await self._waiting.ask(caller, what, render))
