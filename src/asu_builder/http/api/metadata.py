"""What can be built, as documents: overview, branches, package indexes, profiles, revisions."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.catalog import BranchOffer, Catalog
from asu_builder.http.api.documents import UPSTREAM_IS_SLOW, Problem
from asu_builder.http.api.wire import RenderedResponse
from asu_builder.http.cache import Rendered
from asu_builder.http.callers import Callers
from asu_builder.http.errors import respond
from asu_builder.http.openapi import A_REVISION, operation, says
from asu_builder.http.waiting import MadeAnswers, Waiting
from asu_builder.settings import Settings

_REPOSITORIES = ["https://downloads.openwrt.org/"]


class ClientChangeDocument(msgspec.Struct):
    """From a revision on, a client replaces `source` by `target`, or removes it if there is none."""

    source: Annotated[str, says("The package that went away", "auc")]
    revision: Annotated[int, says("The count in the revision since which that holds", 26792, minimum=0)]
    target: Annotated[str | msgspec.UnsetType, says("What comes in its place", "owut")] = msgspec.UNSET
    mandatory: Annotated[bool | msgspec.UnsetType, says("Whether auc does it without asking", True)] = (
        msgspec.UNSET
    )


class BranchDocument(msgspec.Struct):
    """A line of versions and what upstream has of it. `path` holds the placeholder `{version}`."""

    name: Annotated[str, says("The branch", "24.10", "SNAPSHOT")]
    enabled: Annotated[bool, says("Always true: others are not listed", True)]
    snapshot: Annotated[bool, says("Whether it has nothing but a snapshot", False)]
    path: Annotated[str, says("Upstream's directory of a version", "releases/{version}", "snapshots")]
    versions: Annotated[tuple[str, ...], says("Newest first", ["24.10.4", "24.10.3", "24.10-SNAPSHOT"])]
    targets: Annotated[
        Mapping[str, str], says("Target to package architecture", {"ath79/generic": "mips_24kc"})
    ]
    package_changes: Annotated[list[ClientChangeDocument], says("What clients do to package lists", [])]
    path_packages: Annotated[
        str, says("No client uses the value, but auc ignores a branch without it", "DEPRECATED")
    ] = "DEPRECATED"
    branch_off_rev: Annotated[
        int | msgspec.UnsetType, says("The count in the revision at which it left main", 27990)
    ] = msgspec.UNSET


class ServerDocument(msgspec.Struct):
    """What this server is and allows."""

    version: Annotated[str, says("Of this service", "1.0.0")]
    contact: Annotated[str, says("How to reach its operator", "asu@example.org")]
    allow_defaults: Annotated[bool, says("Whether requests may bring a first-boot script", False)]
    repository_allow_list: Annotated[tuple[str, ...], says("Repositories they may name", _REPOSITORIES)]
    max_custom_rootfs_size_mb: Annotated[int, says("Largest root partition in MiB", 1024, minimum=1)]
    max_defaults_length: Annotated[int, says("Longest first-boot script in characters", 20480, minimum=0)]


class Overview(msgspec.Struct):
    """Everything a client needs to choose a version."""

    latest: Annotated[list[str], says("See latest.json", ["25.12.0-rc1", "24.10.4", "23.05.6"])]
    branches: Annotated[Mapping[str, BranchDocument], says("Each branch by its name")]
    upstream_url: Annotated[str, says("The download server, for clients", "https://downloads.openwrt.org")]
    server: Annotated[ServerDocument, says("This server")]


class Latest(msgspec.Struct):
    """The upcoming release if there is any, the stable and the old stable one."""

    latest: Annotated[list[str], says("Newest first", ["25.12.0-rc1", "24.10.4", "23.05.6"])]


class Revision(msgspec.Struct):
    """The exact source of a target's packages."""

    revision: Annotated[str, says("Count and commit", A_REVISION)]


class TargetIndex(msgspec.Struct):
    """A target's own packages with its kernel modules."""

    architecture: Annotated[str, says("The package architecture", "mips_24kc")]
    packages: Annotated[Mapping[str, str], says("Name to version", {"kmod-usb2": "6.6.93-r1"})]


_UNKNOWN: Mapping[int, tuple[str, object]] = {
    404: ("There is no such version, target or architecture", Problem),
    **UPSTREAM_IS_SLOW,
}
_BYTES = 8 << 20
_LARGEST = 2 << 20
_FRESH_SECONDS = 20.0
_INCOMPLETE_SECONDS = 1.0
_MAX_AGE = (b"cache-control", b"max-age=60")


class Metadata:
    """Endpoints; what was rendered is kept while its sources stay the same, and made once for all who ask.

    What was never seen is waited for.
    """

    def __init__(
        self,
        catalog: Catalog,
        waiting: Waiting,
        *,
        callers: Callers,
        settings: Settings,
        version: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._version = version
        self._callers = callers
        self._made = MadeAnswers(waiting, budget=_BYTES, largest=_LARGEST, clock=clock)

    @operation(
        "/json/v1/overview.json",
        "/api/v1/overview",
        "/api/overview",
        "/overview",
        answers={200: ("The overview", Overview), **UPSTREAM_IS_SLOW},
    )
    async def overview(self, request: Request) -> Response:
        """Everything a client needs to choose a version: branches, versions, targets, limits."""
        return await self._document(request, "overview", self._render_overview)

    @operation(
        "/json/v1/branches.json",
        answers={200: ("The branches, newest first", list[BranchDocument]), **UPSTREAM_IS_SLOW},
    )
    async def branches(self, request: Request) -> Response:
        """The branches as a list."""
        return await self._document(request, "branches", self._render_branches)

    @operation(
        "/json/v1/latest.json",
        "/api/v1/latest",
        answers={200: ("The latest releases", Latest), **UPSTREAM_IS_SLOW},
    )
    async def latest(self, request: Request) -> Response:
        """The upcoming release if there is any, the stable and the old stable one."""
        return await self._document(request, "latest", self._render_latest)

    @operation(
        "/api/v1/revision/{version}/{target}/{subtarget}",
        answers={
            200: ("The revision", Revision),
            400: ("There is no such version", Problem),
            404: ("The version has no such target", Problem),
            **UPSTREAM_IS_SLOW,
        },
    )
    async def revision(self, request: Request) -> Response:
        """Upstream's current revision of a target."""
        found = request.path_params
        target = f"{found['target']}/{found['subtarget']}"
        return await self._document(
            request,
            f"revision {found['version']} {target}",
            lambda: self._render_revision(found["version"], target),
        )

    @operation(
        "/json/v1/{path:path}/packages/{architecture}-index.json",
        answers={200: ("Name to version", dict[str, str]), **_UNKNOWN},
    )
    async def architecture_index(self, request: Request) -> Response:
        """Package names and versions of an architecture, merged over its feeds."""
        path, architecture = request.path_params["path"], request.path_params["architecture"]
        return await self._document(
            request,
            f"architecture {path} {architecture}",
            lambda: self._render_architecture(path, architecture),
        )

    @operation(
        "/json/v1/{path:path}/targets/{target}/{subtarget}/index.json",
        answers={200: ("The index", TargetIndex), **_UNKNOWN},
    )
    async def target_index(self, request: Request) -> Response:
        """Package names and versions of a target, its kernel modules among them."""
        path, target = _path_and_target(request)
        return await self._document(
            request, f"target {path} {target}", lambda: self._render_target(path, target)
        )

    @operation(
        "/json/v1/{path:path}/targets/{target}/{subtarget}/{profile}.json",
        answers={200: ("profiles.json with the profile's keys lifted to the top", dict), **_UNKNOWN},
    )
    async def profile(self, request: Request) -> Response:
        """Upstream's description of one profile, by its name or an alias; {} when there is none."""
        path, target = _path_and_target(request)
        profile = request.path_params["profile"]
        return await self._document(
            request, f"profile {path} {target} {profile}", lambda: self._render_profile(path, target, profile)
        )

    async def _document(self, request: Request, key: str, render: Callable[[], bytes | Rendered]) -> Response:
        def rendered() -> Rendered:
            made = render()
            return made if isinstance(made, Rendered) else Rendered(made, _FRESH_SECONDS)

        made = await self._made.get(key, self._callers.of(request.scope), rendered)
        # A document that lacks a feed or a branch, or may be out of date, is soon made again, so no proxy
        # keeps it longer.
        may_be_kept = (_MAX_AGE,) if made.lasts else ()
        return respond(RenderedResponse(200, made.body, (*may_be_kept, *made.headers)))

    def _with_branches(self, document: object, offers: Sequence[BranchOffer]) -> Rendered:
        """One bad branch does not take the others along; what lacks one is soon made again."""
        complete = all(offer.complete for offer in offers)
        seconds = _FRESH_SECONDS if complete else _INCOMPLETE_SECONDS
        return Rendered(msgspec.json.encode(document), seconds, complete)

    def _render_overview(self) -> Rendered:
        settings = self._settings
        offers = self._catalog.offers()
        document = Overview(
            latest=self._catalog.latest(),
            branches={offer.branch.name: _branch_document(offer) for offer in offers},
            upstream_url=settings.announced_upstream_url.rstrip("/"),
            server=ServerDocument(
                self._version,
                settings.contact,
                settings.allow_defaults,
                settings.repository_allow_list,
                settings.max_custom_rootfs_size_mb,
                settings.max_defaults_length,
            ),
        )
        return self._with_branches(document, offers)

    def _render_branches(self) -> Rendered:
        offers = self._catalog.offers()
        return self._with_branches([_branch_document(offer) for offer in offers], offers)

    def _render_latest(self) -> bytes:
        return msgspec.json.encode(Latest(self._catalog.latest()))

    def _render_revision(self, version: str, target: str) -> bytes:
        return msgspec.json.encode(Revision(self._catalog.revision(version, target)))

    def _render_architecture(self, path: str, architecture: str) -> bytes:
        packages = self._catalog.architecture_packages(self._catalog.release_at(path), architecture)
        return _encode_packages(packages)

    def _render_target(self, path: str, target: str) -> bytes:
        architecture, packages = self._catalog.target_packages(self._catalog.release_at(path), target)
        return msgspec.json.encode(TargetIndex(architecture, dict(sorted(packages.items()))))

    def _render_profile(self, path: str, target: str, profile: str) -> bytes:
        return self._catalog.described_profile(self._catalog.release_at(path), target, profile) or b"{}"


def _path_and_target(request: Request) -> tuple[str, str]:
    found = request.path_params
    return found["path"], f"{found['target']}/{found['subtarget']}"


def _encode_packages(packages: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(dict(sorted(packages.items())))


def _branch_document(offer: BranchOffer) -> BranchDocument:
    branch = offer.branch
    return BranchDocument(
        name=branch.name,
        enabled=branch.enabled,
        snapshot=branch.snapshot,
        path=branch.path,
        versions=offer.versions,
        targets=offer.targets,
        package_changes=[
            ClientChangeDocument(
                change.source,
                change.revision,
                msgspec.UNSET if change.target is None else change.target,
                change.mandatory or msgspec.UNSET,
            )
            for change in offer.changes
        ],
        branch_off_rev=msgspec.UNSET if branch.branch_off_rev is None else branch.branch_off_rev,
    )
