"""What the tests of the clients share: a router, a page, and whether an image is the served one."""

import hashlib
from typing import Any

from e2e.clients.device import Device
from e2e.clients.firmware_selector import FirmwareSelector
from e2e.service import Service
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_TARGET

ROUTER = Device(OPKG_VERSION, revision="r1-0000000000")
SOON = 0.05
"""Seconds between polls, instead of the clients' own 1 to 5."""


def a_body(**changes: object) -> dict[str, object]:
    """What a client posts."""
    return {"version": APK_VERSION, "target": SAMPLE_TARGET, "profile": "acme_small", **changes}


def selector(server: str, **changes: Any) -> FirmwareSelector:
    """A page on which the user has chosen the sample's device."""
    chosen: dict[str, Any] = {"version": APK_VERSION, "target": SAMPLE_TARGET, "profile": "acme_small"}
    return FirmwareSelector(server, **(chosen | {"interval": SOON} | changes))


def is_kept(image: bytes, service: Service) -> bool:
    """Whether these are the bytes of an image in the store."""
    digest = hashlib.sha256(image).digest()
    return any(hashlib.sha256(path.read_bytes()).digest() == digest for path in service.store.glob("*/*.bin"))
