"""The form: choose a device and packages, and request a build."""

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from asu_builder.core.catalog import Catalog
from asu_builder.core.search import DescribedDevice, PreviewedSelection, UnknownPackage
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import (
    AsuError,
    BuildNotFound,
    BuildProblem,
    RequestRejected,
    TooManyRequests,
    Unavailable,
)
from asu_builder.domain.preflight import Feasibility
from asu_builder.domain.profiles_json import filesystems_of
from asu_builder.domain.request import FILESYSTEMS
from asu_builder.domain.search import Device, Found
from asu_builder.http.api.body import parse_request
from asu_builder.http.errors import answer_error
from asu_builder.http.pages.form_fields import (
    CARRIED,
    CarriedOver,
    Fields,
    carried_with,
    carry_over,
    chosen_packages,
    default_packages,
    field_of,
    link_to,
    read_fields,
)
from asu_builder.http.pages.form_offer import FormOffer, has_web_interface, make_offer, offered_names
from asu_builder.http.pages.official import OfficialImages, official_images
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.pages.session import cookie_of, form, is_secure
from asu_builder.http.parts import PageParts
from asu_builder.http.threads import SHORT_SECONDS, require_admitted

COOKIE = "asu_cancel"
_SECONDS = 2 * 86400
"""No build waits longer."""


def cancel_token_of(request: Request) -> str:
    """The cancel token in the cookie of a request for a build's page; "" without one."""
    return cookie_of(request, COOKIE)


_SHOWN = 50
_LONGEST = 64
"""Characters of a search text, a version or a target."""


class _Previewed(Struct, frozen=True):
    """A preview: what changes from the default packages, or the error."""

    names: tuple[str, ...] = ()
    """The packages in the form."""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    found: PreviewedSelection | None = None
    left_out: tuple[UnknownPackage, ...] = ()
    """What does not exist and is left out, as the form asks for; `found` is about the others."""
    culprit: str = ""
    """The package of the form because of which something missing is needed, where that is not told."""
    refusal: AsuError | None = None
    lacks_web_interface: bool = False

    @property
    def needing(self) -> dict[str, tuple[str, ...]]:
        """What other packages need and is not there, and who needs it; without names asked for."""
        if self.found is None:
            return {}
        unknown = {entry.name for entry in self.found.unknown or ()}
        needed = self.found.foretold.problem.needed_by
        return {name: by for name, by in needed.items() if by and name not in unknown}


class _Refusal(Struct, frozen=True):
    """An error at a field or at none (""), with the status of the response."""

    sentence: str
    field: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def at_field(self) -> str:
        """The sentence without the name of its field, for display beside it."""
        plain = self.sentence.removeprefix(f"{self.field}: ")
        return plain[:1].upper() + plain[1:]


class BuildForm:
    """First version and device, then packages and options; the address holds the choice."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """The search for a device, or the form for the one in the address."""
        query = request.query_params
        fields = read_fields(query)
        if not (fields.version and fields.target and fields.profile):
            return await self._choose(request, caller, fields)
        try:
            device = await self._parts.waiting.ask(caller, _what(fields), self._device, fields)
        except (BuildNotFound, RequestRejected) as error:
            return await self._choose(request, caller, fields, refusal=_Refusal(str(error), "", 404))
        offer = await self._offer(caller, fields.version, device)
        if "packages" not in query:
            packages = " ".join(offer.added_to(default_packages(device)))
            fields = replace(fields, packages=packages, diff_packages=True)
        for name in ("defaults", "repositories", "repository_keys"):
            if name not in query:
                fields = replace(fields, **{name: getattr(offer, name)})
        kept: CarriedOver | None = None
        if "packages" in query and (was := query.get("was", "").split()) and len(was) == 3:
            before = replace(fields, version=was[0], target=was[1], profile=was[2])
            fields, kept = await self._kept(caller, fields, device, before)
        return await self._form(request, caller, fields, device, offer=offer, kept=kept)

    async def send(self, request: Request, caller: Caller) -> Response:
        """Submits the form, or shows the preview. Raises what `form` raises."""
        given = await form(request)
        fields = read_fields(given)
        if old_and_new := given.get("replace"):
            old, _, new = old_and_new.partition("=")
            # What takes the place of a name may be several.
            names = dict.fromkeys(" ".join(new if name == old else name for name in fields.names).split())
            fields = replace(fields, packages=" ".join(names))
        if added := given.get("add"):
            fields = replace(fields, packages=" ".join(dict.fromkeys((*fields.names, *added.split()))))
        does = given.get("do", "check" if old_and_new or added else "build")
        if does == "build":
            agent = request.headers.get("user-agent", "")
            try:
                answer = await self._parts.answers.submit(fields.body(self._parts.client), agent, caller)
            except AsuError as error:
                return await self._again(request, caller, fields, refusal=_refusal(error))
            return see_build(request, answer.body)
        if does == "compare":
            wanted, _ = parse_request(fields.body(self._parts.client))
            from_version = given.get("from_version", "")[:_LONGEST]
            return RedirectResponse(link_to(wanted, "/compare", from_version=from_version), 303)
        parts = self._parts
        try:
            await require_admitted(caller, parts.limit_previews, parts.threads)
            previewed = await parts.waiting.ask(caller, _what(fields), self._look, fields)
        except AsuError as error:
            previewed = _Previewed(refusal=error)
        if does == "preview":
            part = self._rendering.text("build_preview.html", path="", caller=caller, previewed=previewed)
            return self._rendering.answer(part)
        return await self._again(request, caller, fields, previewed=previewed)

    async def _again(
        self,
        request: Request,
        caller: Caller,
        fields: Fields,
        *,
        refusal: _Refusal | None = None,
        previewed: _Previewed | None = None,
    ) -> Response:
        """The form as it was sent, or the search if its device is invalid."""
        try:
            device = await self._parts.waiting.ask(caller, _what(fields), self._device, fields)
        except AsuError as error:
            return await self._choose(
                request, caller, fields, refusal=refusal or _refusal(error), sent=fields
            )
        return await self._form(request, caller, fields, device, refusal=refusal, previewed=previewed)

    def _look(self, fields: Fields) -> _Previewed:
        request, _ = parse_request(fields.body(self._parts.client))
        device = self._device(fields)
        # What the device itself leaves out is not the caller's choice.
        usual = {*default_packages(device), *device.device_packages}
        found = self._parts.preview.look(request)
        if found.foretold.verdict is Feasibility.UNKNOWN:
            # What lacks in indexes that are not all known may be in the others, as libc always is.
            found = replace(found, foretold=replace(found.foretold, problem=BuildProblem()))
        left_out: tuple[UnknownPackage, ...] = ()
        if request.on_missing == "drop" and found.foretold.verdict is Feasibility.IMPOSSIBLE:
            left_out = tuple(
                entry
                for entry in found.unknown or ()
                if entry.name in request.wanted
                and entry.name not in usual
                and not found.foretold.problem.providers.get(entry.name)
            )
        if left_out:
            names = [entry.name for entry in left_out]
            request = request.without(names)
            found = self._parts.preview.look(request)
        changed = [name for name in found.selection.packages if name not in usual]
        added = tuple(name for name in changed if not name.startswith("-"))
        removed = tuple(name[1:] for name in changed if name.startswith("-"))
        fine = found.foretold.verdict is Feasibility.FINE
        installed = found.foretold.packages if fine else chosen_packages(fields, device)
        previewed = _Previewed(
            fields.names,
            added,
            removed,
            found,
            left_out,
            lacks_web_interface=not has_web_interface(installed),
        )
        needing = previewed.needing
        if needing and not any(name in fields.names for by in needing.values() for name in by):
            culprit = self._parts.preview.culprit(request, next(iter(needing)))
            previewed = replace(previewed, culprit=culprit)
        return previewed

    def _device(self, fields: Fields) -> DescribedDevice:
        version, target, profile = (getattr(fields, name)[:128] for name in ("version", "target", "profile"))
        return self._parts.search.device(version, target, profile)

    async def _choose(
        self,
        request: Request,
        caller: Caller,
        fields: Fields,
        *,
        refusal: _Refusal | None = None,
        sent: Fields | None = None,
    ) -> Response:
        """The search for a device; the fields of a sent form can be sent again, or copied."""
        groups = await self._parts.waiting.ask(caller, "versions", offered_versions, self._parts.catalog)
        version = fields.version or next((name for _, names in groups for name in names), "")
        query = request.query_params
        text = query.get("search", "").strip()[:_LONGEST]
        found: Found | None = None
        if text and version:
            try:
                found = await self._parts.waiting.ask(
                    caller, f"devices {version!r}", self._parts.search.devices, version, text, _SHOWN
                )
            except RequestRejected as error:
                refusal = refusal or _Refusal(str(error), "", 404)
        elsewhere: Sequence[tuple[str, Device]] = ()
        if wanted := ("" if found and found.devices and not found.guessed else text or fields.profile):
            newest = [names[0] for _, names in groups if names[0] != version]
            with contextlib.suppress(TooManyRequests):
                elsewhere = await self._parts.waiting.ask(
                    caller,
                    f"elsewhere {wanted!r}",
                    self._parts.search.elsewhere,
                    wanted[:_LONGEST],
                    newest,
                    patience=SHORT_SECONDS,
                )
        return self._page(
            "build_device.html",
            request,
            caller,
            refusal,
            elsewhere=elsewhere,
            carried={name: query[name] for name in CARRIED if query.get(name)},
            groups=groups,
            version=version,
            text=text,
            found=found,
            sent=sent,
        )

    async def _form(
        self,
        request: Request,
        caller: Caller,
        fields: Fields,
        device: DescribedDevice,
        *,
        offer: FormOffer | None = None,
        kept: CarriedOver | None = None,
        refusal: _Refusal | None = None,
        previewed: _Previewed | None = None,
    ) -> Response:
        ask = self._parts.waiting.ask
        offer = offer or await self._offer(caller, fields.version, device)
        fields = replace(fields, target=device.target, profile=device.profile)
        begin = offer.added_to(default_packages(device))
        url = self._parts.settings.announced_upstream_url
        official: OfficialImages | None = None
        with contextlib.suppress(Unavailable, TooManyRequests):
            official = await ask(
                caller, _what(fields), official_images, self._parts.catalog, fields.version, device, url
            )
        return self._page(
            "build_form.html",
            request,
            caller,
            refusal,
            groups=await ask(caller, "versions", offered_versions, self._parts.catalog),
            fields=fields,
            device=device,
            previewed=previewed,
            offer=offer,
            begin=begin,
            carried=carried_with(fields, begin),
            kept=kept,
            official=official,
            present=default_packages(device),
            has_web_interface=has_web_interface(chosen_packages(fields, device)),
            filesystems=await ask(caller, _what(fields), self._filesystems, fields, device),
            allowed=self._parts.settings,
        )

    def _page(
        self, template: str, request: Request, caller: Caller, refusal: _Refusal | None, **values: object
    ) -> Response:
        """A page with the status and headers of what was refused, if anything."""
        status = refusal.status if refusal else 200
        response = self._rendering.page(
            template, request, caller=caller, status=status, refusal=refusal, **values
        )
        response.raw_headers.extend(refusal.headers if refusal else ())
        return response

    async def _kept(
        self, caller: Caller, fields: Fields, device: DescribedDevice, before: Fields
    ) -> tuple[Fields, CarriedOver | None]:
        """The fields with packages that were chosen for another version or device, and what became of it."""

        def find() -> tuple[Fields, CarriedOver | None]:
            try:
                theirs = default_packages(self._device(before))
            except (BuildNotFound, RequestRejected, Unavailable):
                return fields, None  # it is not known which of them are its default ones
            names, gone = carry_over(fields, theirs, default_packages(device))
            named = [name.removeprefix("-") for name in names]
            exists = self._parts.search.existing(fields.version, device.target, named)
            usual = {*default_packages(device), *theirs}
            unknown = [
                name
                for name in names
                if exists is not None
                and not name.startswith("-")
                and name not in exists
                and name not in usual
            ]
            kept = CarriedOver(before.version, tuple(gone), tuple(unknown))
            return replace(fields, packages=" ".join(names)), kept

        return await self._parts.waiting.ask(caller, _what(fields), find, patience=SHORT_SECONDS)

    async def _offer(self, caller: Caller, version: str, device: DescribedDevice) -> FormOffer:
        """What the operator offers for a device. Waits a moment for the package indexes, if they lack."""

        def make() -> FormOffer:
            catalog, settings = self._parts.catalog, self._parts.settings
            release = catalog.release(version)
            names = offered_names(settings, device, release)
            exists = self._parts.search.existing(version, device.target, names)
            architecture = catalog.target_profiles(version, device.target).architecture
            return make_offer(settings, device, release, architecture=architecture, exists=exists)

        what = f"device {version!r} {device.target!r}"
        return await self._parts.waiting.ask(caller, what, make, patience=SHORT_SECONDS)

    def _filesystems(self, fields: Fields, device: DescribedDevice) -> list[str]:
        """File systems of the device's images, all known ones if upstream lists none; and the chosen one."""
        catalog = self._parts.catalog
        described = catalog.described_profile(catalog.release(fields.version), device.target, device.profile)
        offered = filesystems_of(described or b"{}")
        known = [name for name in FILESYSTEMS if not offered or name in offered]
        return list(dict.fromkeys([*known, *sorted(offered), *filter(None, [fields.filesystem])]))


def _what(fields: Fields) -> str:
    """The device whose documents are needed."""
    return f"device {fields.version!r} {fields.target!r}"


def _refusal(error: AsuError) -> _Refusal:
    """An error as the form shows it. Raises internal errors."""
    answer = answer_error(error)
    if answer.status == 500:
        raise error
    return _Refusal(error.public, field_of(error), answer.status, answer.headers)


def offered_versions(catalog: Catalog) -> list[tuple[str, list[str]]]:
    """Branches with their versions; the branch of the newest stable release comes first."""
    offers = [
        (offer.branch.name, [name for name in offer.versions if name not in offer.unpublished])
        for offer in catalog.offers()
    ]
    return order_versions(offers, catalog.latest())


def order_versions(
    branches: Sequence[tuple[str, list[str]]], latest: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Branches with versions: the newest stable release first, candidates and snapshots last."""
    stable = next((version for version in latest if "-rc" not in version), "")

    def later(version: str) -> bool:
        return "-rc" in version or version.endswith("SNAPSHOT")

    named = [(name, sorted(versions, key=later)) for name, versions in branches if versions]
    # The sort is stable: newest first.
    return sorted(named, key=lambda branch: (stable not in branch[1], later(branch[1][0])))


def see_build(request: Request, document: bytes) -> Response:
    """Redirects to the page of a submitted build, with its cancel token in a cookie.

    Where nothing has changed since it was built, the address says when that was found.
    """
    answer: dict[str, Any] = json.loads(document)
    address = f"/build/{answer['request_hash']}"
    found = f"?unchanged={int(time.time())}" if answer.get("unchanged") else ""
    response = RedirectResponse(address + found, 303)
    if token := answer.get("cancel_token"):
        # In a cookie that no script and no other page can read.
        response.set_cookie(
            COOKIE,
            token,
            max_age=_SECONDS,
            path=address,
            httponly=True,
            samesite="strict",
            secure=is_secure(request),
        )
    return response
