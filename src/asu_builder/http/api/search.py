"""Search for devices and packages as somebody types: the documents, their addresses, and the answers."""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.search import Search
from asu_builder.domain.errors import RequestRejected
from asu_builder.http.api.wire import UPSTREAM_IS_SLOW, Problem, RenderedResponse
from asu_builder.http.cache import MadeAnswers, Rendered
from asu_builder.http.callers import Callers
from asu_builder.http.errors import respond
from asu_builder.http.openapi import number, operation, says
from asu_builder.http.threads import Waiting

_Version = Annotated[str, says("The version", "24.10.4")]
_Target = Annotated[str, says("Target and subtarget", "ath79/generic")]
_Profile = Annotated[str, says("What a build request calls it", "tplink_archer-c7-v5")]
_Title = Annotated[str, says("What people call it", "TP-Link Archer C7 v5")]
_More = Annotated[bool, says("Whether there are others beyond the limit", False)]


class DeviceDocument(msgspec.Struct):
    """A device that can be built for. One whose title has no parts has only the title."""

    title: _Title
    target: _Target
    profile: _Profile
    vendor: Annotated[str, says("Who makes it, or empty", "TP-Link", "")]
    model: Annotated[str, says("The model, or empty", "Archer C7", "")]
    variant: Annotated[str, says("The variant, or empty", "v5", "")]


class DevicesDocument(msgspec.Struct):
    """What a search for devices found, the best first."""

    version: _Version
    devices: Annotated[list[DeviceDocument], says("The devices")]
    more: _More
    guessed: Annotated[bool, says("Whether nothing is called so, and these are the most alike", False)]


class DescribedDeviceDocument(msgspec.Struct):
    """One profile with what its images hold before anybody asks for anything."""

    version: _Version
    title: _Title
    target: _Target
    profile: _Profile
    default_packages: Annotated[tuple[str, ...], says("Of the target", ["base-files", "dnsmasq"])]
    device_packages: Annotated[
        tuple[str, ...], says("Of the profile; -name takes a default one away", ["kmod-usb2", "-swconfig"])
    ]
    supported_devices: Annotated[tuple[str, ...], says("Names that it reports", ["tplink,archer-c7-v5"])]


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


_REFUSED: Mapping[int, tuple[str, object]] = {
    400: ("There is no such version, or a parameter makes no sense", Problem),
    **UPSTREAM_IS_SLOW,
}
_UNKNOWN = {404: ("There is no such target or profile", Problem)}
LONGEST = 64
"""Characters of a search text, a version or a target."""
LIMIT, HIGHEST = 20, 100
_BYTES = 1 << 20
_LARGEST = 64 << 10
_FRESH_SECONDS = 20.0
_EMPTY_SECONDS = 1.0
"""What has nothing yet may just be on its way from upstream."""


class SearchEndpoints:
    """Endpoints; what was found is remembered for some seconds, because many type the same."""

    def __init__(
        self,
        search: Search,
        waiting: Waiting,
        *,
        callers: Callers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._search = search
        self._callers = callers
        self._made = MadeAnswers(waiting, budget=_BYTES, largest=_LARGEST, clock=clock)

    @operation(
        "/api/v1/devices",
        answers={200: ("The devices", DevicesDocument), **_REFUSED},
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

    @operation(
        "/api/v1/devices/{version}/{target}/{subtarget}/{profile}",
        answers={200: ("The device", DescribedDeviceDocument), **_REFUSED, **_UNKNOWN},
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

    @operation(
        "/api/v1/packages",
        answers={200: ("The packages", PackagesDocument), **_REFUSED, **_UNKNOWN},
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

        made = await self._made.get(key, self._callers.of(request.scope), render)
        return respond(RenderedResponse(200, made.body, made.headers))


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
