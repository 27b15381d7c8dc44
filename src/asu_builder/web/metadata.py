"""What can be built, as documents: overview, branches, package indexes, profiles, revisions.

Shapes: facts on clients, §3. No address redirects: old clients follow none.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.errors import Unavailable
from asu_builder.services.catalog import BranchOffer, Catalog
from asu_builder.web.errors import respond
from asu_builder.web.memory import Memory
from asu_builder.web.metadata_documents import (
    BranchDocument,
    ClientChangeDocument,
    Latest,
    Overview,
    Revision,
    ServerDocument,
    TargetIndex,
)
from asu_builder.web.threads import Shared, Threads
from asu_builder.web.wire import Answer

_BYTES = 8 << 20
_LARGEST = 2 << 20
_FRESH_SECONDS = 20.0
_INCOMPLETE_SECONDS = 1.0
_FIRST_SECONDS = 5.0
_MAX_AGE = (b"cache-control", b"max-age=60")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the overview says about this server. `upstream_url` must be reachable from routers."""

    version: str
    upstream_url: str
    contact: str
    allow_defaults: bool
    repository_allow_list: tuple[str, ...]
    max_custom_rootfs_size_mb: int
    max_defaults_length: int


@dataclass(frozen=True, slots=True)
class _Rendered:
    body: bytes
    complete: bool = True
    """Otherwise something is still on its way from upstream, and it is soon made anew."""


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
        self._threads = threads
        self._announcement = announcement
        self._clock = clock
        self._kept: Memory[str, tuple[bytes, float]] = Memory(budget=_BYTES, largest=_LARGEST)
        self._shared: Shared[bytes] = Shared()
        self._first_asked: dict[str, float] = {}

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

    async def _document(self, key: str, render: Callable[[], bytes | _Rendered]) -> Response:
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept[1]:
            body, _ = await self._shared.ask(key, lambda: self._render(key, render))
        else:
            body = kept[0]
        return respond(Answer(200, body, (_MAX_AGE,)))

    async def _render(self, key: str, render: Callable[[], bytes | _Rendered]) -> bytes:
        made = await self._threads.run(render)
        rendered = made if isinstance(made, _Rendered) else _Rendered(made)
        if not rendered.complete and self._kept.get(key) is None:
            self._require_patience(key)
        fresh_until = self._clock() + (_FRESH_SECONDS if rendered.complete else _INCOMPLETE_SECONDS)
        self._kept.put(key, (rendered.body, fresh_until), len(rendered.body) + len(key))
        return rendered.body

    def _require_patience(self, key: str) -> None:
        """Right after the very first start a client would take a branch without targets for one that is gone.

        After some seconds the others are shown all the same: one bad branch does not take them along.
        """
        first_asked = self._first_asked.setdefault(key, self._clock())
        if self._clock() < first_asked + _FIRST_SECONDS:
            raise Unavailable(
                "The branches are being read from the download server. Try again.", retry_after=1
            )

    def _render_overview(self) -> _Rendered:
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
        return _Rendered(msgspec.json.encode(document), all(offer.complete for offer in offers))

    def _render_branches(self) -> _Rendered:
        offers = self._catalog.offers()
        body = msgspec.json.encode([_branch_document(offer) for offer in offers])
        return _Rendered(body, all(offer.complete for offer in offers))

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
