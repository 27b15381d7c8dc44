"""What changes between two builds, and between two versions for one selection of packages."""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec.structs import asdict
from starlette.requests import Request

from asu_builder.core.comparison import ComparedBuild, Comparisons
from asu_builder.core.search import PreviewedSelection
from asu_builder.domain.comparison import Comparison
from asu_builder.domain.errors import RequestMalformed
from asu_builder.domain.preflight import Feasibility
from asu_builder.domain.request import VERSION
from asu_builder.http.api.body import BuildRequestBody, parse_request
from asu_builder.http.api.build_problem import BuildProblemDocument, render_build_problem
from asu_builder.http.api.builds import require_hash
from asu_builder.http.api.wire import (
    UPSTREAM_IS_SLOW,
    Problem,
    RenderedResponse,
    render_json,
)
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.openapi import A_SENTENCE, operation, says
from asu_builder.http.threads import Threads, Waiting, require_admitted

_PAIRS = {"dnsmasq": ["2.90-r4", "2.91-r1"]}


class ChangesDocument(msgspec.Struct):
    """Packages that differ. Pairs are before and after."""

    added: Annotated[Mapping[str, str], says("New packages with their versions", {"owut": "2025.09-r1"})]
    removed: Annotated[Mapping[str, str], says("Packages that are no longer there", {"wireless-tools": "29"})]
    upgraded: Annotated[Mapping[str, tuple[str, str]], says("Packages in a later version", _PAIRS)]
    downgraded: Annotated[Mapping[str, tuple[str, str]], says("Packages in an earlier version", {})]
    unchanged: Annotated[int, says("How many packages are the same", 128, minimum=0)]
    kernel: Annotated[
        tuple[str, str] | None, says("The kernel before and after, where it differs", ["6.6.110", "6.12.62"])
    ]


class BuildSideDocument(msgspec.Struct):
    """One of two builds."""

    request_hash: Annotated[str, says("The build", "4be1a1f3…")]
    version: Annotated[str, says("Its version of OpenWrt", "24.10.4")]
    target: Annotated[str, says("Its target", "ath79/generic")]
    profile: Annotated[str, says("Its profile", "tplink_archer-c7-v5")]
    image_sizes: Annotated[
        Mapping[str, int],
        says("Bytes of its images, by type and file system", {"sysupgrade squashfs": 7340032}),
    ]


class ComparedBuildsDocument(msgspec.Struct, rename={"before": "from", "after": "to"}):
    """Two finished builds, compared by their manifests."""

    before: Annotated[BuildSideDocument, says("The build of the address's first hash")]
    after: Annotated[BuildSideDocument, says("The build of its second hash")]
    changes: Annotated[ChangesDocument, says("What differs")]


class VersionSideDocument(msgspec.Struct, omit_defaults=True):
    """One version, with what would be installed there."""

    version: Annotated[str, says("The version of OpenWrt", "24.10.4")]
    verdict: Annotated[Feasibility, says("As the preview says it", "fine")]
    reason: Annotated[str, says("`unknown`: why, as a sentence", A_SENTENCE)] = ""
    problem: Annotated[
        BuildProblemDocument | msgspec.UnsetType,
        says("`impossible`: the names it fails at", {"missing": ["x"]}),
    ] = msgspec.UNSET
    packages: Annotated[int, says("`fine`: how many packages would be installed", 143, minimum=0)] = 0
    download_size: Annotated[int, says("`fine`: bytes of all package files", 7340032)] = 0
    installed_size: Annotated[int, says("`fine`: bytes that they take once unpacked", 18874368)] = 0


class ComparedVersionsDocument(msgspec.Struct, rename={"before": "from", "after": "to"}):
    """One selection in two versions. `changes` is null unless the verdict of both is `fine`."""

    before: Annotated[VersionSideDocument, says("The version `from_version`")]
    after: Annotated[VersionSideDocument, says("The version of the request")]
    changes: Annotated[ChangesDocument | None, says("What differs, where both can be told")]


class CompareBody(BuildRequestBody, kw_only=True):
    """A build request, and the version to compare it with."""

    from_version: Annotated[str, says("The version before, like the one that a device runs", "24.10.4")]


class _FromVersion(msgspec.Struct):
    from_version: str = ""


_from_version = msgspec.json.Decoder(_FromVersion)


class ComparisonEndpoints:
    """Compares; nothing is queued or changed."""

    def __init__(
        self, comparisons: Comparisons, threads: Threads, waiting: Waiting, *, callers: Callers, admit: Admit
    ) -> None:
        """`admit` admits one more preview of a caller or says why not."""
        self._comparisons = comparisons
        self._threads = threads
        self._waiting = waiting
        self._callers = callers
        self._admit = admit

    @operation(
        "/api/v1/build/{request_hash}/compare/{other}",
        answers={
            200: ("What differs", ComparedBuildsDocument),
            404: ("One of the builds is unknown", Problem),
            409: ("One of the builds has no result, or none yet", Problem),
        },
    )
    async def builds(self, request: Request) -> RenderedResponse:
        """What differs from one finished build to another: packages, kernel, sizes of the images."""
        before, after = (require_hash(request.path_params[name]) for name in ("request_hash", "other"))
        found = await self._threads.run(self._comparisons.builds, before, after)
        changes = _changes(found.changes)
        return render_json(ComparedBuildsDocument(_build(found.before), _build(found.after), changes))

    @operation(
        "/api/v1/packages/compare",
        method="POST",
        answers={
            200: ("What differs", ComparedVersionsDocument),
            400: ("The request cannot be served here", Problem),
            401: ("An unknown token was sent", Problem),
            413: ("The body is too large", Problem),
            422: ("The body is no build request with a `from_version`; detail names the field", Problem),
            429: ("This address asks too often; Retry-After says when to try again", Problem),
            **UPSTREAM_IS_SLOW,
        },
        body=CompareBody,
    )
    async def versions(self, request: Request) -> RenderedResponse:
        """What differs for one selection of packages from the version `from_version` to that of the request.

        Queues nothing. Raises `NotAuthenticated`, and `TooManyRequests` as the preview does.
        """
        caller = self._callers.of(request.scope)
        await require_admitted(caller, self._admit, self._threads)
        body = await request.body()

        def render() -> bytes:
            wanted, _ = parse_request(body)
            found = self._comparisons.versions(wanted, read_from_version(body))
            document = ComparedVersionsDocument(
                _version(found.from_version, found.before),
                _version(wanted.version, found.after),
                None if found.changes is None else _changes(found.changes),
            )
            return msgspec.json.encode(document)

        what = f"compare {hashlib.sha256(body).hexdigest()}"
        return RenderedResponse(200, await self._waiting.ask(caller, what, render))


def read_from_version(body: bytes) -> str:
    """The version before of a body that is a build request otherwise. Raises `RequestMalformed`."""
    try:
        version = _from_version.decode(body).from_version
    except msgspec.MsgspecError:
        version = ""
    if not VERSION.fullmatch(version):
        raise RequestMalformed(
            "from_version: expected a version like 24.10.4 or SNAPSHOT", field="from_version"
        )
    return version


def _build(side: ComparedBuild) -> BuildSideDocument:
    request = side.request
    return BuildSideDocument(
        side.request_hash, request.version, request.target, request.profile, side.image_sizes
    )


def _version(version: str, side: PreviewedSelection) -> VersionSideDocument:
    foretold = side.foretold
    return VersionSideDocument(
        version,
        foretold.verdict,
        foretold.reason,
        render_build_problem(foretold.problem) if foretold.problem else msgspec.UNSET,
        len(foretold.packages),
        foretold.download_size,
        foretold.installed_size,
    )


def _changes(changes: Comparison) -> ChangesDocument:
    return ChangesDocument(**asdict(changes), kernel=changes.kernel)
