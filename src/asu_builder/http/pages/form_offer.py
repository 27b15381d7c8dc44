"""What the operator lets the form offer for a device, and the same for the Firmware Selector."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.catalog import Catalog
from asu_builder.core.search import DescribedDevice
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import TooManyRequests, Unavailable
from asu_builder.domain.release import MAIN, Release
from asu_builder.domain.repositories import PLACEHOLDERS, fill_places, split_keys
from asu_builder.http.parts import PageParts
from asu_builder.http.texts import marked
from asu_builder.http.threads import SHORT_SECONDS
from asu_builder.settings import Settings
from asu_builder.settings.checks import LINK_FIELDS

_WEB_INTERFACE = re.compile(r"luci(?:-light|-nginx|-ssl(?:-[a-z]+)?)?")
"""Packages that bring LuCI with a web server; single applications do not (source: luci's collections)."""
WEB_INTERFACE = "luci"


BUILT_IN_NAMES = (
    *(marked("WireGuard VPN"), marked("Ad blocking"), marked("USB storage"), marked("Less lag (SQM)")),
    *(marked("Dynamic DNS"), marked("Statistics"), marked("OpenWrt's page of this device")),
    marked("Release notes"),
)
"""Of the groups and links that the settings begin with: these are translated."""


class FormOffer(Struct, frozen=True):
    """What the form of one device begins with and proposes."""

    packages: tuple[str, ...]
    """Beside the default ones; `-name` leaves one of these out."""
    suggestions: tuple[tuple[str, tuple[str, ...]], ...]
    """Groups of packages by name, none empty."""
    repositories: str
    """As the form's field has them: a name and an address on each line."""
    repository_keys: str
    defaults: str
    links: tuple[tuple[str, str], ...]
    """Titles and addresses."""

    def added_to(self, default_packages: Sequence[str]) -> list[str]:
        """The packages that the form begins with."""
        removed = {name[1:] for name in self.packages if name.startswith("-")}
        added = (name for name in self.packages if not name.startswith("-"))
        return [name for name in dict.fromkeys((*default_packages, *added)) if name not in removed]


def make_offer(
    settings: Settings,
    device: DescribedDevice,
    release: Release,
    *,
    architecture: str = "",
    exists: Collection[str] | None = None,
) -> FormOffer:
    """The offer for a device. `exists` has the packages that there are; None where that is not known."""
    packages: dict[str, None] = {}
    suggestions: dict[str, tuple[str, ...]] = {}
    repositories: dict[str, str] = {}
    links: dict[str, str] = {}
    defaults = ""
    for entry in _entries(settings, device, release):
        for name in entry.get("packages", ()):
            # The last word about a name counts.
            packages.pop(name[1:] if name.startswith("-") else f"-{name}", None)
            packages[name] = None
        suggestions.update(entry.get("suggestions", {}))
        repositories.update(entry.get("repositories", {}))
        links.update(entry.get("links", {}))
        defaults = entry.get("defaults", defaults)

    def there(names: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in names if exists is None or name in exists or name.startswith("-"))

    target, _, subtarget = device.target.partition("/")
    places = dict(
        zip(
            PLACEHOLDERS,
            (release.version, release.branch, target, subtarget, architecture),
            strict=True,
        )
    )
    places_of_links = {"title": device.title, "profile": device.profile, **places}
    found = {name: there(names) for name, names in suggestions.items()}
    allowed = bool(settings.repository_allow_list)
    lines = [f"{name} {fill_places(url, places)}" for name, url in repositories.items() if url and allowed]
    return FormOffer(
        packages=there(packages),
        suggestions=tuple((name, names) for name, names in found.items() if names),
        repositories="\n".join(lines),
        repository_keys=settings.form_repository_keys if lines else "",
        defaults=defaults if settings.allow_defaults else "",
        links=tuple(
            (title, _filled(url, places_of_links))
            for title, url in links.items()
            # No notes are written on what changes every day.
            if url and not (release.moving and "{version}" in url)
        ),
    )


def offered_names(settings: Settings, device: DescribedDevice, release: Release) -> set[str]:
    """Every package that might be offered for a device, before it is known which of them exist."""
    names: set[str] = {WEB_INTERFACE}
    for entry in _entries(settings, device, release):
        names.update(entry.get("packages", ()))
        names.update(name for group in entry.get("suggestions", {}).values() for name in group)
    return {name for name in names if not name.startswith("-")}


def _entries(settings: Settings, device: DescribedDevice, release: Release) -> Iterator[Mapping[str, Any]]:
    """What holds for this device, from the most general to the most special."""
    yield {
        "packages": settings.form_packages,
        "suggestions": settings.form_suggestions,
        "repositories": settings.form_repositories,
        "defaults": settings.form_defaults,
        "links": settings.form_links,
    }
    target = device.target.partition("/")[0]
    for name in dict.fromkeys((release.branch, release.version, target, device.target, device.profile)):
        yield settings.form_for.get(name, {})


def _filled(template: str, values: Mapping[str, str]) -> str:
    return template.format(**{name: quote(values[name], safe="") for name in LINK_FIELDS})


def has_web_interface(names: Collection[str]) -> bool:
    """Whether an image of these packages has LuCI and a web server."""
    return any(_WEB_INTERFACE.fullmatch(name) for name in names)


_FIRMWARE_SELECTOR_PLACES = {
    "{version}": "{openwrt_version}",
    "{branch}": "{openwrt_branch}",
    "{target}": "{target}",
    "{subtarget}": "{subtarget}",
}
"""Our names in braces and those of the Firmware Selector, which knows no architecture."""
_HEADERS = {
    "cache-control": "no-cache",
    "content-type": "text/javascript; charset=utf-8",
    "x-content-type-options": "nosniff",
}


class FirmwareSelectorConfig:
    """`config.js` of the Firmware Selector (its file `www/config.js`), for use with this server."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts

    async def show(self, request: Request, caller: Caller) -> Response:
        """The file; without versions while upstream does not answer: then upstream's list counts."""
        versions, latest = await self._parts.waiting.ask(
            caller, "versions", _versions, self._parts.catalog, patience=SHORT_SECONDS
        )
        return Response(firmware_selector_config(self._parts.settings, versions, latest), headers=_HEADERS)


def _versions(catalog: Catalog) -> tuple[list[str], str]:
    """Versions that lie where the Firmware Selector looks for them, and the newest stable one."""
    try:
        offers = catalog.offers()
        latest = next((version for version in catalog.latest() if "-rc" not in version), "")
    except (Unavailable, TooManyRequests):
        return [], ""
    names = [name for offer in offers for name in offer.versions]
    usual = [
        name
        for name in names
        if catalog.branches.release(name).path == ("snapshots" if name == MAIN else f"releases/{name}")
    ]
    return usual, latest if latest in usual else ""


def firmware_selector_config(settings: Settings, versions: Collection[str], latest: str) -> str:
    """The text of `config.js`. The server's address is where the file is loaded from, if none is set."""
    chosen: dict[str, object] = {"show_help": True, "image_url": settings.announced_upstream_url}
    if versions:
        chosen["versions"] = versions
        chosen["default_version"] = latest or next(iter(versions))
    links = (url for url in settings.form_links.values() if url and "{" not in url.replace("{title}", ""))
    if link := next(links, ""):
        chosen["info_url"] = link
    chosen["asu_extra_packages"] = settings.form_packages
    repositories = {name: _for_firmware_selector(url) for name, url in settings.form_repositories.items()}
    if usable := {name: url for name, url in repositories.items() if url}:
        chosen["asu_repositories"] = usable
        chosen["asu_repositories_mode"] = "append"
        chosen["asu_repository_keys"] = split_keys(settings.form_repository_keys)
    text = msgspec.json.format(msgspec.json.encode(chosen)).decode()
    address = (
        msgspec.json.encode(settings.provenance_builder).decode()
        if settings.provenance_builder
        else "new URL(document.currentScript.src).origin"
    )
    return 'var config = {\n  "asu_url": ' + address + "," + text[1:] + ";\n"


def _for_firmware_selector(url: str) -> str:
    """The address with the Firmware Selector's names in braces; "" where it has none for one of ours."""
    for ours, theirs in _FIRMWARE_SELECTOR_PLACES.items():
        url = url.replace(ours, f"\0{theirs[1:]}")
    return "" if "{" in url else url.replace("\0", "{")
