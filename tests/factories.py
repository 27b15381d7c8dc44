"""Values that tests start from; `a_` makes one, with what matters to the test named."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.core.housekeeping import Remove
from asu_builder.domain.errors import FailureReason
from asu_builder.domain.job import BuildFailure, BuildResult, Image, Priority, Submission
from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.domain.search import Device, Title

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRANSCRIPTS = Path(__file__).resolve().parents[2] / "shared" / "transcripts"
CASES = TRANSCRIPTS.parent / "cases"
UPSTREAM = Path(__file__).resolve().parents[2] / "shared" / "upstream"


def the_case(name: str) -> str:
    """The text of an input that failed in the field, without its comments; skips where it is not here."""
    path = CASES / name
    if not path.exists():
        pytest.skip("the inputs from the field are not here")
    return "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))


def a_request(**changes: Any) -> BuildRequest:
    """A request that is fine by itself."""
    values: dict[str, Any] = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5"}
    return BuildRequest(**(values | changes))


def a_submission(
    *,
    caller: str = "192.0.2.1",
    priority: Priority = Priority.NORMAL,
    cancel_digest: str = "",
    **changes: Any,
) -> Submission:
    """A request with its hash, and who asks."""
    request = a_request(**changes)
    return Submission(request, request_hash(request), "owut/2026.1", caller, priority, cancel_digest)


def a_result(**changes: Any) -> BuildResult:
    """What a small build leaves."""
    image = Image("openwrt-sysupgrade.bin", "sysupgrade", "a" * 64, "b" * 64, 10, "squashfs")
    values: dict[str, Any] = {
        "description": {"version_number": "24.10.5", "target": "pico/nine"},
        "images": (image,),
        "manifest": {"vim": "9.1-r1"},
        "build_cmd": ("make", "image", "PROFILE=acme_widget-5"),
        "packages": ("vim",),
        "stdout": "out",
        "stderr": "err",
    }
    return BuildResult(**(values | changes))


def a_failure(reason: FailureReason = FailureReason.IMPOSSIBLE_SELECTION) -> BuildFailure:
    """How a build failed."""
    return BuildFailure(reason, "Error: Impossible package selection: missing (nosuch)", "out", "err")


def many_devices(count: int) -> list[Device]:
    """As many devices as a real release has, with names of their kind."""
    vendors = (
        "TP-Link",
        "Linksys",
        "AVM",
        "Netgear",
        "D-Link",
        "ASUS",
        "Ubiquiti",
        "Zyxel",
        "GL.iNet",
        "Xiaomi",
    )
    models = (
        "Archer C",
        "WRT",
        "FRITZ!Box ",
        "Nighthawk R",
        "DIR-",
        "RT-AC",
        "UniFi ",
        "NBG",
        "GL-AR",
        "Mi Router ",
    )
    devices = []
    for number in range(count):
        vendor, model = vendors[number % 10], f"{models[number // 10 % 10]}{number // 100}"
        title = Title(vendor=vendor, model=model, variant=f"v{number % 7}" if number % 7 else "")
        profile = f"{vendor}_{model}-{number}".lower().replace(" ", "-")
        devices.append(Device(title, f"ath{number % 60}/generic", profile))
    return devices


class Clock:
    """A clock that stands still until it is told to go."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def forward(self, span: timedelta) -> None:
        """Lets `span` pass."""
        self.at += span


def removes(note: Callable[[], object] = lambda: None) -> Remove:
    """What takes images away that are none, and notes it."""

    def remove(confirm: Callable[[], bool]) -> bool:
        note()
        return confirm()

    return remove


def eventually(holds: Callable[[], bool], *, seconds: float = 60.0) -> bool:
    """Whether something comes true; the seconds are many times what it takes on a slow machine."""
    until = time.monotonic() + seconds
    pause = 0.01
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(pause)
        # Other tests run meanwhile, and asking costs the one who is asked too.
        pause = min(pause * 1.2, 0.05)
    return holds()


@contextmanager
def sooner_than(seconds: float) -> Iterator[None]:
    """Fails when what is inside takes as long as something that it must not wait for.

    It is no measure of speed, so the seconds must be many.
    """
    assert seconds >= 30, "a slow machine is no failure"
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def never(happens: Callable[[], bool], *, seconds: float) -> bool:
    """Whether something stays untrue for some seconds; a slow machine sees less of it and is not wrong."""
    return not eventually(happens, seconds=seconds)
