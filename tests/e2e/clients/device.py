"""The router in front of which a user sits: what it reports about itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from e2e.clients.crash import need
from e2e.clients.sockets import exchange


@dataclass(frozen=True, slots=True)
class Device:
    """Board, installed version and packages, as `ubus call system board` and the package manager say."""

    version: str
    target: str = "pico/nine"
    architecture: str = "pico_9kc"
    board_name: str = "acme,small"
    revision: str = "r0-0000000000"
    rootfs_type: str = "squashfs"
    efi: bool = False
    chosen: tuple[str, ...] = ("auc", "dropbear", "libgcc", "luci", "opkg")
    """Installed packages that no other one needs; owut and auc name only these."""
    others: tuple[str, ...] = ("base-files", "kernel", "libc")

    @property
    def installed(self) -> tuple[str, ...]:
        """Every installed package, as LuCI sends them."""
        return (*self.chosen, *self.others)

    @property
    def branch(self) -> str:
        """`24.10` of `24.10.5`, and `SNAPSHOT` of itself."""
        return branch_of(self.version)

    @property
    def revision_number(self) -> int:
        """The count in the installed revision."""
        return number_of(self.revision)


def branch_of(version: str) -> str:
    """`24.10` of `24.10.5` or `24.10-SNAPSHOT`, and `SNAPSHOT` of itself."""
    return version if version == "SNAPSHOT" else ".".join(version.split("-")[0].split(".")[:2])


def number_of(revision: str) -> int:
    """The count in a revision."""
    return int(revision.removeprefix("r").split("-")[0])


def changed(installed: Iterable[str], changes: list[Any], *, upto: int) -> set[str]:
    """The packages after a branch's changes, as owut and LuCI apply them: replaced, or removed."""
    names = set(installed)
    for change in changes:
        if need(change, "revision", int) > upto:
            continue
        # A change without a source would add something; neither client ever does.
        if change.get("source") in names:
            names.discard(change["source"])
            if "target" in change:
                names.add(need(change, "target", str))
    return names


def described_upstream(upstream_url: str, path: str, target: str) -> Any:
    """Upstream's own `profiles.json`, which owut and the Firmware Selector read past this service."""
    return exchange("GET", f"{upstream_url}/{path}/targets/{target}/profiles.json").json
