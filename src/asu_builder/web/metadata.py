"""What can be built, as documents: overview, branches, package indexes, profiles, revisions.

Shapes: facts on clients, §3. No address redirects: old clients follow none.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.errors import Unavailable
from asu_builder.services.catalog import BranchOffer, Catalog
from asu_builder.web.errors import respond
from asu_builder.web.metadata_documents import (
    BranchDocument,
    ClientChangeDocument,
    Latest,
    Overview,
    Revision,
    ServerDocument,
    TargetIndex,
)
from asu_builder.web.remembered import Remembered, Rendered
from asu_builder.web.threads import Threads
from asu_builder.web.wire import Answer

_BYTES = 8 << 20
_LARGEST = 2 << 20
_FRESH_SECONDS = 20.0
_INCOMPLETE_SECONDS = 1.0
_FIRST_SECONDS = 5.0
_MAX_AGE = (b"cache-control", b"max-age=60")


class Announcement(Struct, frozen=True):
    """What the overview and the pages say about this server.

    `upstream_url` must be reachable from routers. `imagebuilder_image` is the template of the
    ImageBuilders' container images, its registry filled in, for those who build for themselves.
    """

    version: str
    upstream_url: str
    contact: str
    allow_defaults: bool
    repository_allow_list: tuple[str, ...]
    max_custom_rootfs_size_mb: int
    max_defaults_length: int
    imagebuilder_image: str = "ghcr.io/openwrt/imagebuilder:{target}-{subtarget}-{tag}"


class Metadata:
    """Endpoints; rendered documents are remembered for some seconds and made once for all who ask."""

    def __init__(
        self,
        catalog: Catalog,
        threads: Threads,
        *,
        announcement: Announcement,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._announcement = announcement
        self._clock = clock
        self._remembered = Remembered(threads, budget=_BYTES, largest=_LARGEST, clock=clock)
        self._first_asked: dict[str, float] = {}
        self._shown: set[str] = set()

    async def overview(self, _: Request) -> Response:
        """Everything a client needs to choose a version."""
        return await self._document("overview", self._render_overview)

    async def branches(self, _: Request) -> Response:
        """The branches as a list, for auc."""
        return await self._document("branches", self._render_branches)

    async def latest(self, _: Request) -> Response:
        """The latest releases."""
        return await self._document("latest", self._render_latest)

    async def revision(self, request: Request) -> Response:
        """Upstream's current revision of a target."""
        found = request.path_params
        target = f"{found['target']}/{found['subtarget']}"
        return await self._document(
            f"revision {found['version']} {target}", lambda: self._render_revision(found["version"], target)
        )

    async def architecture_index(self, request: Request) -> Response:
        """Package names and versions of an architecture, one flat object."""
        path, architecture = request.path_params["path"], request.path_params["architecture"]
        return await self._document(
            f"architecture {path} {architecture}", lambda: self._render_architecture(path, architecture)
        )

    async def target_index(self, request: Request) -> Response:
        """Package names and versions of a target, its kernel modules among them."""
        path, target = _path_and_target(request)
        return await self._document(f"target {path} {target}", lambda: self._render_target(path, target))

    async def profile(self, request: Request) -> Response:
        """Upstream's description of one profile, by its name or an alias; {} when there is none."""
        path, target = _path_and_target(request)
        profile = request.path_params["profile"]
        return await self._document(
            f"profile {path} {target} {profile}", lambda: self._render_profile(path, target, profile)
        )

    async def _document(self, key: str, render: Callable[[], bytes | Rendered]) -> Response:
        def rendered() -> Rendered:
            made = render()
            return made if isinstance(made, Rendered) else Rendered(made, _FRESH_SECONDS)

        return respond(Answer(200, await self._remembered.get(key, rendered), (_MAX_AGE,)))

    def _with_branches(self, key: str, document: object, offers: Sequence[BranchOffer]) -> Rendered:
        """Branches of which something is still on its way are soon made anew.

        Right after the very first start they are not shown at all: a client would take a branch
        without targets for one that is gone. After some seconds the others are shown all the same,
        for one bad branch does not take them along.
        """
        complete = all(offer.complete for offer in offers)
        if not complete and key not in self._shown:
            first_asked = self._first_asked.setdefault(key, self._clock())
            if self._clock() < first_asked + _FIRST_SECONDS:
                raise Unavailable(
                    "The branches are being read from the download server. Try again.", retry_after=1
                )
        self._shown.add(key)
        return Rendered(msgspec.json.encode(document), _FRESH_SECONDS if complete else _INCOMPLETE_SECONDS)

    def _render_overview(self) -> Rendered:
        said = self._announcement
        offers = self._catalog.offers()
        document = Overview(
            latest=self._catalog.latest(),
            branches={offer.branch.name: _branch_document(offer) for offer in offers},
            upstream_url=said.upstream_url.rstrip("/"),
            server=ServerDocument(
                said.version,
                said.contact,
                said.allow_defaults,
                said.repository_allow_list,
                said.max_custom_rootfs_size_mb,
                said.max_defaults_length,
            ),
        )
        return self._with_branches("overview", document, offers)

    def _render_branches(self) -> Rendered:
        offers = self._catalog.offers()
        return self._with_branches("branches", [_branch_document(offer) for offer in offers], offers)

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
