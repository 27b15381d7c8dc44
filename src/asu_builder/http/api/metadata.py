"""What can be built: overview, branches, indexes, profiles, revisions; searches for devices and packages."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.catalog import BranchOffer, Catalog
from asu_builder.core.search import Search
from asu_builder.domain.errors import RequestRejected
from asu_builder.http.api.wire import UPSTREAM_IS_SLOW, Problem
from asu_builder.http.cache import MadeAnswers, Rendered
from asu_builder.http.callers import Callers
from asu_builder.http.openapi import A_REVISION, conditional_operation, number, says
from asu_builder.http.representations import wanted
from asu_builder.http.threads import Waiting
from asu_builder.settings import Settings

_REPOSITORIES = ["https://downloads.openwrt.org/"]


class ClientChangeDocument(msgspec.Struct):
    """From a revision on, a client replaces `source` by `target`, or removes it if there is none."""

    source: Annotated[str, says("The package that was removed", "auc")]
    revision: Annotated[int, says("The count of the revision from which on this applies", 26792, minimum=0)]
    target: Annotated[str | msgspec.UnsetType, says("Its replacement", "owut")] = msgspec.UNSET
    mandatory: Annotated[bool | msgspec.UnsetType, says("Whether auc applies it without asking", True)] = (
        msgspec.UNSET
    )


class BranchDocument(msgspec.Struct):
    """A line of versions and what upstream has of it. `path` holds the placeholder `{version}`."""

    name: Annotated[str, says("The branch", "24.10", "SNAPSHOT")]
    enabled: Annotated[bool, says("Always true: disabled branches are not listed", True)]
    snapshot: Annotated[bool, says("Whether it has only a snapshot", False)]
    path: Annotated[str, says("Upstream's directory of a version", "releases/{version}", "snapshots")]
    versions: Annotated[tuple[str, ...], says("Newest first", ["24.10.4", "24.10.3", "24.10-SNAPSHOT"])]
    targets: Annotated[
        Mapping[str, str], says("Target to package architecture", {"ath79/generic": "mips_24kc"})
    ]
    package_changes: Annotated[
        list[ClientChangeDocument], says("Changes that clients make to package lists", [])
    ]
    path_packages: Annotated[
        str, says("Unused by clients, but auc ignores a branch without it", "DEPRECATED")
    ] = "DEPRECATED"
    branch_off_rev: Annotated[
        int | msgspec.UnsetType, says("The count of the revision at which it was branched off main", 27990)
    ] = msgspec.UNSET


class ServerDocument(msgspec.Struct):
    """What this server is and allows."""

    version: Annotated[str, says("The version of this service", "1.0.0")]
    contact: Annotated[str, says("How to contact the operator", "asu@example.org")]
    allow_defaults: Annotated[bool, says("Whether requests may contain a first-boot script", False)]
    repository_allow_list: Annotated[
        tuple[str, ...], says("Repositories that requests may name", _REPOSITORIES)
    ]
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


_Version = Annotated[str, says("The version", "24.10.4")]
_Target = Annotated[str, says("Target and subtarget", "ath79/generic")]
_Profile = Annotated[str, says("The profile, as in a build request", "tplink_archer-c7-v5")]
_Title = Annotated[str, says("The title", "TP-Link Archer C7 v5")]
_More = Annotated[bool, says("Whether there are more than the limit", False)]


class DeviceDocument(msgspec.Struct):
    """A device that can be built for. One whose title has no parts has only the title."""

    title: _Title
    target: _Target
    profile: _Profile
    vendor: Annotated[str, says("The vendor, or empty", "TP-Link", "")]
    model: Annotated[str, says("The model, or empty", "Archer C7", "")]
    variant: Annotated[str, says("The variant, or empty", "v5", "")]


class DevicesDocument(msgspec.Struct):
    """What a search for devices found, the best first."""

    version: _Version
    devices: Annotated[list[DeviceDocument], says("The devices")]
    more: _More
    guessed: Annotated[bool, says("Whether no name matches, and these are the most similar ones", False)]


class DescribedDeviceDocument(msgspec.Struct):
    """One profile with what its images hold before anybody asks for anything."""

    version: _Version
    title: _Title
    target: _Target
    profile: _Profile
    default_packages: Annotated[
        tuple[str, ...], says("Default packages of the target", ["base-files", "dnsmasq"])
    ]
    device_packages: Annotated[
        tuple[str, ...],
        says("Packages of the profile; -name removes a default package", ["kmod-usb2", "-swconfig"]),
    ]
    supported_devices: Annotated[
        tuple[str, ...], says("Names that the device reports", ["tplink,archer-c7-v5"])
    ]


class PackageDocument(msgspec.Struct):
    """A package that can be had."""

    name: Annotated[str, says("Its name", "luci")]
    version: Annotated[str, says("Its version", "25.292.66247~75e41cb")]


class PackagesDocument(msgspec.Struct):
    """What a search for packages found, the best first."""

    version: _Version
    target: _Target
    packages: Annotated[list[PackageDocument], says("The packages")]
    more: _More


_SEARCH_REFUSED: Mapping[int, tuple[str, object]] = {
    400: ("There is no such version, or a parameter makes no sense", Problem),
    **UPSTREAM_IS_SLOW,
}
_NO_PROFILE = {404: ("There is no such target or profile", Problem)}
LONGEST = 64
"""Characters of a search text, a version or a target."""
LIMIT, HIGHEST = 20, 100
_SEARCH_BYTES = 1 << 20
_LARGEST_SEARCH = 64 << 10
_EMPTY_SECONDS = 1.0
"""What has nothing yet may just be on its way from upstream."""


_UNKNOWN: Mapping[int, tuple[str, object]] = {
    404: ("There is no such version, target or architecture", Problem),
    **UPSTREAM_IS_SLOW,
}
_BYTES = 8 << 20
_LARGEST = 2 << 20
_FRESH_SECONDS = 20.0
_INCOMPLETE_SECONDS = 1.0
MAX_AGE = (b"cache-control", b"max-age=60")


class Metadata:
    """Endpoints; what was rendered is kept while its sources stay the same, and made once for all who ask.

    What was never seen is waited for.
    """

    def __init__(
        self,
        catalog: Catalog,
        search: Search,
        waiting: Waiting,
        *,
        callers: Callers,
        settings: Settings,
        version: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._search = search
        self._settings = settings
        self._version = version
        self._callers = callers
        self._made = MadeAnswers(waiting, budget=_BYTES, largest=_LARGEST, clock=clock)
        # Apart, so that what people type does not push the documents out; many type the same.
        self._found = MadeAnswers(waiting, budget=_SEARCH_BYTES, largest=_LARGEST_SEARCH, clock=clock)

    @conditional_operation(
        "/json/v1/overview.json",
        "/api/v1/overview",
        "/api/overview",
        "/overview",
        answers={200: ("The overview", Overview), **UPSTREAM_IS_SLOW},
    )
    async def overview(self, request: Request) -> Response:
        """Everything a client needs to choose a version: branches, versions, targets, limits."""

        def render() -> Rendered:
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
            return _with_branches(document, offers)

        return await self._document(request, "overview", render)

    @conditional_operation(
        "/json/v1/branches.json",
        answers={200: ("The branches, newest first", list[BranchDocument]), **UPSTREAM_IS_SLOW},
    )
    async def branches(self, request: Request) -> Response:
        """The branches as a list."""

        def render() -> Rendered:
            offers = self._catalog.offers()
            return _with_branches([_branch_document(offer) for offer in offers], offers)

        return await self._document(request, "branches", render)

    @conditional_operation(
        "/json/v1/latest.json",
        "/api/v1/latest",
        answers={200: ("The latest releases", Latest), **UPSTREAM_IS_SLOW},
    )
    async def latest(self, request: Request) -> Response:
        """The upcoming release if there is any, the stable and the old stable one."""
        return await self._document(request, "latest", lambda: Latest(self._catalog.latest()))

    @conditional_operation(
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

        def render(version: str, target: str, subtarget: str) -> Revision:
            return Revision(self._catalog.revision(version, f"{target}/{subtarget}"))

        return await self._document(request, "revision", render)

    @conditional_operation(
        "/json/v1/{path:path}/packages/{architecture}-index.json",
        answers={200: ("Name to version", dict[str, str]), **_UNKNOWN},
    )
    async def architecture_index(self, request: Request) -> Response:
        """Package names and versions of an architecture, merged over its feeds."""

        def render(path: str, architecture: str) -> object:
            packages = self._catalog.architecture_packages(self._catalog.release_at(path), architecture)
            return dict(sorted(packages.items()))

        return await self._document(request, "architecture", render)

    @conditional_operation(
        "/json/v1/{path:path}/targets/{target}/{subtarget}/index.json",
        answers={200: ("The index", TargetIndex), **_UNKNOWN},
    )
    async def target_index(self, request: Request) -> Response:
        """Package names and versions of a target, its kernel modules among them."""

        def render(path: str, target: str, subtarget: str) -> TargetIndex:
            release = self._catalog.release_at(path)
            architecture, packages = self._catalog.target_packages(release, f"{target}/{subtarget}")
            return TargetIndex(architecture, dict(sorted(packages.items())))

        return await self._document(request, "target", render)

    @conditional_operation(
        "/json/v1/{path:path}/targets/{target}/{subtarget}/{profile}.json",
        answers={200: ("profiles.json with the profile's keys lifted to the top", dict), **_UNKNOWN},
    )
    async def profile(self, request: Request) -> Response:
        """Upstream's description of one profile, by its name or an alias; {} when there is none."""

        def render(path: str, target: str, subtarget: str, profile: str) -> msgspec.Raw:
            release = self._catalog.release_at(path)
            found = self._catalog.described_profile(release, f"{target}/{subtarget}", profile)
            return msgspec.Raw(found or b"{}")

        return await self._document(request, "profile", render)

    @conditional_operation(
        "/api/v1/devices",
        answers={200: ("The devices", DevicesDocument), **_SEARCH_REFUSED},
        query=("version searched", "search", "limit searched"),
    )
    async def devices(self, request: Request) -> Response:
        """The devices of a version that have every word of a text among their names, the best first.

        Raises `RequestRejected`.
        """
        version, text, limit = _text(request, "version"), _text(request, "search"), _limit(request)

        def make() -> DevicesDocument:
            found = self._search.devices(version, text, limit)
            devices = [
                DeviceDocument(
                    str(each.title),
                    each.target,
                    each.profile,
                    each.title.vendor,
                    each.title.model,
                    each.title.variant,
                )
                for each in found.devices
            ]
            return DevicesDocument(version, devices, found.more, found.guessed)

        return await self._json(request, f"devices {limit} {version!r} {text!r}", make)

    @conditional_operation(
        "/api/v1/devices/{version}/{target}/{subtarget}/{profile}",
        answers={200: ("The device", DescribedDeviceDocument), **_SEARCH_REFUSED, **_NO_PROFILE},
    )
    async def device(self, request: Request) -> Response:
        """One device and its packages, by its profile or a name that it reports.

        Raises `RequestRejected` or `BuildNotFound`.
        """
        asked = request.path_params
        version, profile = asked["version"][: LONGEST + 1], asked["profile"][:129]
        target = f"{asked['target']}/{asked['subtarget']}"[: LONGEST + 1]

        def make() -> DescribedDeviceDocument:
            found = self._search.device(version, target, profile)
            return DescribedDeviceDocument(version, **msgspec.structs.asdict(found))

        return await self._json(request, f"device {version!r} {target!r} {profile!r}", make)

    @conditional_operation(
        "/api/v1/packages",
        answers={200: ("The packages", PackagesDocument), **_SEARCH_REFUSED, **_NO_PROFILE},
        query=("version searched", "target searched", "search", "limit searched"),
    )
    async def packages(self, request: Request) -> Response:
        """The packages of a version and target that have every word of a text in their names.

        Raises `RequestRejected` or `BuildNotFound`.
        """
        version, target = _text(request, "version"), _text(request, "target")
        text, limit = _text(request, "search"), _limit(request)

        def make() -> PackagesDocument:
            found = self._search.packages(version, target, text, limit)
            named = [PackageDocument(name, release) for name, release in found.packages]
            return PackagesDocument(version, target, named, found.more)

        return await self._json(request, f"packages {limit} {version!r} {target!r} {text!r}", make)

    async def _json(self, request: Request, key: str, make: Callable[[], Any]) -> Response:
        def render() -> Rendered:
            document = make()
            empty = not getattr(document, "devices", True) or not getattr(document, "packages", True)
            return Rendered(msgspec.json.encode(document), _EMPTY_SECONDS if empty else _FRESH_SECONDS)

        asked = wanted(request.scope)
        made = await self._found.get(key, self._callers.of(request.scope), render, gzip=asked.gzip)
        return made.document.answer(asked, made.headers)

    async def _document(self, request: Request, kind: str, render: Callable[..., object]) -> Response:
        """`render` makes the document of the placeholders in the address."""
        places = request.path_params

        def rendered() -> Rendered:
            made = render(**places)
            return made if isinstance(made, Rendered) else Rendered(msgspec.json.encode(made), _FRESH_SECONDS)

        asked = wanted(request.scope)
        made = await self._made.get(
            " ".join((kind, *places.values())), self._callers.of(request.scope), rendered, gzip=asked.gzip
        )
        # A document that lacks a feed or a branch, or may be out of date, is soon made again, so no proxy
        # keeps it longer.
        cacheable = (MAX_AGE,) if made.lasts and not request.scope["path"].startswith("/api/") else ()
        return made.document.answer(asked, (*cacheable, *made.headers))


def _with_branches(document: object, offers: Sequence[BranchOffer]) -> Rendered:
    """One bad branch does not take the others along; what lacks one is soon made again."""
    complete = all(offer.complete for offer in offers)
    seconds = _FRESH_SECONDS if complete else _INCOMPLETE_SECONDS
    return Rendered(msgspec.json.encode(document), seconds, complete)


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


def _text(request: Request, name: str) -> str:
    """A short text; only the search may be empty."""
    text = request.query_params.get(name, "").strip()
    if len(text) > LONGEST:
        raise RequestRejected(f"{name}: expected at most {LONGEST} characters")
    if not text and name != "search":
        raise RequestRejected(f"{name}: expected the {name} to search in")
    return text


def _limit(request: Request) -> int:
    return number(request, "limit", otherwise=LIMIT, highest=HIGHEST)
