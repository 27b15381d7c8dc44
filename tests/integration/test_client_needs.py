"""What the clients need of each document, line by line: facts on clients, §3, on the sample."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asgi_client import AsgiClient
from asu_builder.app import assemble
from asu_sample.distribution import Distribution
from factories import eventually
from hanging_server import HangingServer
from integration.test_documents import House, settings

OVERVIEW, BRANCHES = "/json/v1/overview.json", "/json/v1/branches.json"
RELEASES = {"25.12.0": "releases/25.12.0", "24.10.5": "releases/24.10.5", "SNAPSHOT": "snapshots"}
ARCHITECTURES = {"pico/nine": "pico_9kc", "x86/64": "x86_64"}

Check = Callable[[Any], bool]


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(is_text(name) and is_text(said) for name, said in value.items())


def is_moment(text: str) -> bool:
    """What JavaScript's date parser takes for a time in UTC."""
    return text.endswith("Z") and datetime.fromisoformat(text).year >= 2025


def of_branches(check: Check) -> Check:
    """A check of each branch, of the object that owut and LuCI read."""
    return lambda document: all(check(branch) for branch in document["branches"].values())


BRANCH: dict[str, Check] = {
    "name is a text": lambda branch: is_text(branch["name"]),
    "enabled is true": lambda branch: branch["enabled"] is True,
    "snapshot is a bool": lambda branch: isinstance(branch["snapshot"], bool),
    "path holds the placeholder, or is that of main": lambda branch: (
        "{version}" in branch["path"] or branch["name"] == "SNAPSHOT"
    ),
    "path_packages is a text": lambda branch: is_text(branch["path_packages"]),
    "branch_off_rev is a number, and absent for main": lambda branch: (
        isinstance(branch.get("branch_off_rev", 0), int)
        and ("branch_off_rev" in branch) is (branch["name"] != "SNAPSHOT")
    ),
    "versions is a list of texts": lambda branch: all(map(is_text, branch["versions"])),
    "targets is an object of texts": lambda branch: are_texts(branch["targets"]),
    "package_changes is a list, its sources are texts and its revisions numbers": lambda branch: (
        isinstance(branch["package_changes"], list)
        and all(
            is_text(change["source"]) and isinstance(change["revision"], int)
            for change in branch["package_changes"]
        )
    ),
}
NEEDS: list[tuple[str, str, Check]] = [
    (OVERVIEW, "latest is a list of texts", lambda found: all(map(is_text, found["latest"]))),
    (OVERVIEW, "latest is newest first", lambda found: found["latest"] == ["25.12.0", "24.10.5"]),
    (OVERVIEW, "branches is an object by names", lambda found: "24.10" in found["branches"]),
    (
        OVERVIEW,
        "a branch's key follows from a version",
        lambda found: {"SNAPSHOT", "25.12"} <= found["branches"].keys(),
    ),
    (
        OVERVIEW,
        "upstream_url has no slash at its end",
        lambda found: re.fullmatch(r"http://.*[^/]", found["upstream_url"]) is not None,
    ),
    (
        OVERVIEW,
        "max_custom_rootfs_size_mb",
        lambda found: found["server"]["max_custom_rootfs_size_mb"] == 1024,
    ),
    (OVERVIEW, "max_defaults_length", lambda found: found["server"]["max_defaults_length"] == 20480),
    *((OVERVIEW, f"branch: {need}", of_branches(check)) for need, check in BRANCH.items()),
    (BRANCHES, "is an array", lambda found: isinstance(found, list) and len(found) >= 3),
    *(
        (BRANCHES, f"branch: {need}", lambda found, check=check: all(map(check, found)))
        for need, check in BRANCH.items()
    ),
    (
        BRANCHES,
        "branch snapshots are listed",
        lambda found: any("24.10-SNAPSHOT" in branch["versions"] for branch in found),
    ),
]
for path in RELEASES.values():
    for target, architecture in ARCHITECTURES.items():
        TARGET = f"/json/v1/{path}/targets/{target}/index.json"
        NEEDS += [
            (f"/json/v1/{path}/packages/{architecture}-index.json", "is a flat map of texts", are_texts),
            (
                f"/json/v1/{path}/packages/{architecture}-index.json",
                "its names have no ABI suffix",
                lambda found: "libubus" in found and "libubus20250102" not in found,
            ),
            (
                TARGET,
                "architecture is that of the branch's targets",
                lambda found, wanted=architecture: found["architecture"] == wanted,  # type: ignore[misc]
            ),
            (TARGET, "packages is an object of texts", lambda found: are_texts(found["packages"])),
            (TARGET, "base-files is among the packages", lambda found: "base-files" in found["packages"]),
            (TARGET, "kernel modules are merged in", lambda found: "kmod-tun" in found["packages"]),
            (TARGET, "its names have no ABI suffix", lambda found: "libgcc" in found["packages"]),
        ]
    for target, profile in {"pico/nine": "acme_widget-5", "x86/64": "generic"}.items():
        PROFILE = f"/json/v1/{path}/targets/{target}/{profile}.json"
        NEEDS += [
            (PROFILE, "metadata_version is the number 1", lambda found: found["metadata_version"] == 1),
            (
                PROFILE,
                "arch_packages is that of the branch",
                lambda found, wanted=ARCHITECTURES[target]: found["arch_packages"] == wanted,  # type: ignore[misc]
            ),
            (
                PROFILE,
                "images is a list of named ones",
                lambda found: all(one["name"] for one in found["images"]),
            ),
            (
                PROFILE,
                "target is the device's",
                lambda found, wanted=target: found["target"] == wanted,  # type: ignore[misc]
            ),
            (PROFILE, "version_code is a text", lambda found: is_text(found["version_code"])),
            (PROFILE, "version_number is a text", lambda found: is_text(found["version_number"])),
            (PROFILE, "build_at is a time", lambda found: is_moment(found["build_at"])),
        ]
NEEDS += [
    (
        f"/api/v1/revision/{version}/pico/nine",
        "revision has a number after its r",
        lambda found: re.fullmatch(r"r\d+-[0-9a-f]+", found["revision"]) is not None,
    )
    for version in RELEASES
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, sample_world: Distribution) -> Iterator[House]:
    root: Path = tmp_path_factory.mktemp("needs")
    with HangingServer(sample_world.downloads) as server:
        with AsgiClient(assemble(settings(root, server.url, sample_world)).app) as client:
            yield House(client, server)


@pytest.mark.parametrize(("path", "need", "holds"), NEEDS, ids=[f"{path} {need}" for path, need, _ in NEEDS])
def test_a_document_holds_what_the_clients_need_of_it(
    house: House, path: str, need: str, holds: Check
) -> None:
    if path in (OVERVIEW, BRANCHES):
        # Right after the very first start some branches may be on their way.
        assert eventually(lambda: str(house.json(path)).count("pico_9kc") == 3)
    assert holds(house.json(path)), need
