"""The devices of a version, of servers that list them and of servers that do not."""

import json
import tracemalloc
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from asu_builder.database.connection import Database
from asu_builder.domain.errors import Unavailable, UpstreamUnavailable
from asu_builder.domain.release import parse_release
from asu_builder.domain.search import Device
from asu_builder.upstream.formats import parse_overview
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.memory import FRESH_FOR, size_of
from asu_builder.upstream.offer import HttpUpstream
from asu_sample.server import DownloadServer
from factories import Clock, eventually, many_devices

RELEASE = parse_release("24.10.5")
OVERVIEW = "releases/24.10.5/.overview.json"
WIDGET = {"id": "acme_widget-5", "target": "pico/nine", "titles": [{"vendor": "Acme", "model": "Widget 5"}]}


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    root = tmp_path / "downloads"
    write(root, OVERVIEW, {"release": "24.10.5", "profiles": [WIDGET], "a key of the future": 1})
    return root


def write(root: Path, path: str, document: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(document))


def write_unlisted(root: Path, *targets: str) -> None:
    """A version with these targets and no list of devices."""
    (root / OVERVIEW).unlink()
    write(root, "releases/24.10.5/.targets.json", dict.fromkeys(targets, "pico_9kc"))
    for target in targets:
        name = target.replace("/", "_")
        described = {
            "version_code": "r1-abc",
            "profiles": {
                name: {"titles": [{"title": f"Device of {target}"}], "supported_devices": [f"acme,{name}"]}
            },
        }
        write(root, f"releases/24.10.5/targets/{target}/profiles.json", described)


def patiently(upstream: HttpUpstream) -> Sequence[Device] | None:
    """The devices, once a slow machine has them."""
    found: list[Sequence[Device] | None] = []

    def is_there() -> bool:
        try:
            found[:] = [upstream.devices(RELEASE)]
        except UpstreamUnavailable:
            raise
        except Unavailable:
            return False
        return True

    assert eventually(is_there)
    return found[0]


def titles(upstream: HttpUpstream) -> list[str]:
    return [str(device.title) for device in patiently(upstream) or ()]


def test_the_listed_devices_are_read_and_unknown_keys_are_ignored(upstream: HttpUpstream) -> None:
    (device,) = patiently(upstream) or ()
    assert (str(device.title), device.target, device.profile) == (
        "Acme Widget 5",
        "pico/nine",
        "acme_widget-5",
    )


def test_a_version_that_upstream_does_not_have_has_none(upstream: HttpUpstream, downloads: Path) -> None:
    (downloads / OVERVIEW).unlink()
    assert patiently(upstream) is None


def test_the_devices_are_the_same_value_until_the_list_changes(
    upstream: HttpUpstream, server: DownloadServer, downloads: Path, clock: Clock
) -> None:
    first = patiently(upstream)
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    assert upstream.devices(RELEASE) is first
    assert eventually(lambda: server.requests[f"/{OVERVIEW}"] == 2)
    assert upstream.devices(RELEASE) is first, "revalidated, not read anew"
    other = {"id": "acme_new", "target": "pico/nine", "titles": []}
    write(downloads, OVERVIEW, {"profiles": [WIDGET, other]})
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    assert eventually(lambda: titles(upstream) == ["Acme Widget 5", "acme_new"])


def test_a_broken_upstream_and_a_restart_leave_the_last_known_devices(
    upstream: HttpUpstream, server: DownloadServer, database: Database, clock: Clock
) -> None:
    before = patiently(upstream)
    server.broken = True
    clock.forward(FRESH_FOR + timedelta(seconds=1))
    assert upstream.devices(RELEASE) == before
    again = HttpUpstream(server.url, database, now=clock, clock=lambda: clock().timestamp())
    assert again.devices(RELEASE) == before
    again.close()


def test_a_list_that_is_none_is_the_worlds_fault(upstream: HttpUpstream, downloads: Path) -> None:
    write(downloads, OVERVIEW, {"profiles": [{"id": 7}]})
    with pytest.raises(UpstreamUnavailable, match="not what it should be"):
        patiently(upstream)


def test_without_a_list_the_few_targets_are_asked_and_their_aliases_known(
    upstream: HttpUpstream, downloads: Path
) -> None:
    write_unlisted(downloads, "pico/nine", "pico/ten")
    assert eventually(lambda: titles(upstream) == ["Device of pico/nine", "Device of pico/ten"])
    (first, _) = upstream.devices(RELEASE) or ()
    assert first.aliases == ("acme,pico_nine",)
    assert upstream.devices(RELEASE) is upstream.devices(RELEASE)


def test_without_a_list_many_targets_are_not_asked_but_known_ones_serve(
    upstream: HttpUpstream, server: DownloadServer, downloads: Path
) -> None:
    write_unlisted(downloads, *(f"pico/t{number}" for number in range(9)))
    assert titles(upstream) == []
    assert not [path for path in server.requests if path.endswith("profiles.json")]

    def is_known() -> bool:
        try:
            return upstream.target_profiles(RELEASE, "pico/t3") is not None
        except Unavailable:
            return False

    assert eventually(is_known)
    assert titles(upstream) == ["Device of pico/t3"]


def test_2500_devices_take_less_than_a_megabyte_and_no_more_than_is_counted(
    upstream: HttpUpstream, downloads: Path
) -> None:
    profiles = [
        {
            "id": device.profile,
            "target": device.target,
            "titles": [
                {"vendor": device.title.vendor, "model": device.title.model, "variant": device.title.variant}
            ],
        }
        for device in many_devices(2500)
    ]
    write(downloads, OVERVIEW, {"profiles": profiles})
    body = (downloads / OVERVIEW).read_bytes()
    tracemalloc.start()
    devices = parse_overview(body, Notes())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(devices) == 2500
    assert held < 900_000, held
    assert size_of(body, devices) > held * 0.8
    assert len(patiently(upstream) or ()) == 2500
