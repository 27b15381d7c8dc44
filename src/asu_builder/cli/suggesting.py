"""What somebody may have meant whose version, target or profile is unknown."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asu_builder.cli.patience import patiently
from asu_builder.cli.places import OffersPlace
from asu_builder.domain.errors import AsuError, RequestMalformed, RequestRejected
from asu_builder.domain.spelling import closest

_FEW = 3
_PACKAGES_SECONDS = 5.0
"""How long the indexes may take that nobody has asked for before."""
_ALIKE = 0.6
"""Of three unlikely ones nobody takes harm; no suggestion at all helps nobody."""


def suggestion(offers: OffersPlace, body: bytes, refusal: AsuError) -> str:
    """A sentence with the nearest ones, or "" when there is none or the refusal is another."""
    is_unknown = isinstance(refusal, RequestRejected) and not isinstance(refusal, RequestMalformed)
    find = _FINDERS.get(getattr(refusal, "field", "")) if is_unknown else None
    if find is None:
        return ""
    try:
        found = find(offers, json.loads(body))
    except AsuError:
        return ""
    return f"Did you mean {' or '.join(found)}?" if found else ""


def package_suggestions(offers: OffersPlace, body: bytes) -> list[str]:
    """A sentence for each name in a request that no index has and that is like another one."""
    try:
        unknown = patiently(
            lambda: offers.unknown_packages(body),
            seconds=_PACKAGES_SECONDS,
            pause_after=offers.pause_after,
            note=lambda _: None,
        )
    except AsuError:
        return []
    return [f"{name}: did you mean {' or '.join(meant)}?" for name, meant in unknown.items() if meant]


def _versions(offers: OffersPlace, request: Mapping[str, Any]) -> Sequence[str]:
    asked = str(request["version"])
    known = [version for branch in offers.branches() for version in branch["versions"]]
    # Who names a branch means its newest release.
    below = [version for version in known if version.startswith((f"{asked}.", f"{asked}-"))]
    released = [version for version in below if "-" not in version]
    return (released or below)[:1] or closest(asked, known, alike=_ALIKE)


def _targets(offers: OffersPlace, request: Mapping[str, Any]) -> Sequence[str]:
    known = [
        target
        for branch in offers.branches()
        if request["version"] in branch["versions"]
        for target in branch["targets"]
    ]
    return closest(str(request["target"]), known, alike=_ALIKE)


def _profiles(offers: OffersPlace, request: Mapping[str, Any]) -> Sequence[str]:
    words = str(request["profile"]).replace(",", " ").replace("_", " ")
    found = offers.devices(str(request["version"]), words, 100)["devices"]
    # Those of the same target first: whoever names one mostly knows it.
    found.sort(key=lambda device: device["target"] != request["target"])
    return list(dict.fromkeys(_name(device, request["target"]) for device in found))[:_FEW]


def _name(device: Mapping[str, str], target: str) -> str:
    elsewhere = "" if device["target"] == target else f" ({device['target']})"
    return device["profile"] + elsewhere


_FINDERS: Mapping[str, Callable[[OffersPlace, Mapping[str, Any]], Sequence[str]]] = {
    "version": _versions,
    "target": _targets,
    "profile": _profiles,
}
