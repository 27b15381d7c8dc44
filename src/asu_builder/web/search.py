"""Search for devices and packages as somebody types, for everybody."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.device_search import Device
from asu_builder.domain.errors import RequestRejected
from asu_builder.services.search import Search
from asu_builder.web.asker import Askers
from asu_builder.web.errors import respond
from asu_builder.web.made import MadeAnswers
from asu_builder.web.queries import number
from asu_builder.web.remembered import Rendered
from asu_builder.web.search_documents import (
    DescribedDeviceDocument,
    DeviceDocument,
    DevicesDocument,
    PackageDocument,
    PackagesDocument,
)
from asu_builder.web.waiting import Waiting
from asu_builder.web.wire import Answer

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
        askers: Askers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._search = search
        self._askers = askers
        self._made = MadeAnswers(waiting, budget=_BYTES, largest=_LARGEST, clock=clock)

    async def devices(self, request: Request) -> Response:
        """Devices of a version. Raises `RequestRejected`."""
        version, text, limit = _text(request, "version"), _text(request, "search"), _limit(request)

        def make() -> DevicesDocument:
            found = self._search.devices(version, text, limit)
            return DevicesDocument(
                version, [_device(each) for each in found.devices], found.more, found.guessed
            )

        return await self._json(request, f"devices {limit} {version!r} {text!r}", make)

    async def device(self, request: Request) -> Response:
        """One device with its packages. Raises `RequestRejected` or `BuildNotFound`."""
        asked = request.path_params
        version, profile = asked["version"][: LONGEST + 1], asked["profile"][:129]
        target = f"{asked['target']}/{asked['subtarget']}"[: LONGEST + 1]

        def make() -> DescribedDeviceDocument:
            found = self._search.device(version, target, profile)
            return DescribedDeviceDocument(version, **msgspec.structs.asdict(found))

        return await self._json(request, f"device {version!r} {target!r} {profile!r}", make)

    async def packages(self, request: Request) -> Response:
        """Packages of a version and target. Raises `RequestRejected` or `BuildNotFound`."""
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

        made = await self._made.get(key, self._askers.of(request.scope), render)
        return respond(Answer(200, made.body, made.headers))


def _device(device: Device) -> DeviceDocument:
    title = device.title
    return DeviceDocument(str(title), device.target, device.profile, title.vendor, title.model, title.variant)


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
