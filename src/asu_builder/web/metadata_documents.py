"""The documents about what can be built, as types."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from asu_builder.web.fields import A_REVISION, says

_REPOSITORIES = ["https://downloads.openwrt.org/"]


class ClientChangeDocument(msgspec.Struct):
    """From a revision on, a client replaces `source` by `target`, or removes it if there is none."""

    source: Annotated[str, says("The package that went away", "auc")]
    revision: Annotated[int, says("The count in the revision since which that holds", 26792, minimum=0)]
    target: Annotated[str | msgspec.UnsetType, says("What comes in its place", "owut")] = msgspec.UNSET
    mandatory: Annotated[bool | msgspec.UnsetType, says("Whether auc does it without asking", True)] = (
        msgspec.UNSET
    )


class BranchDocument(msgspec.Struct):
    """A line of versions and what upstream has of it. `path` holds the placeholder `{version}`."""

    name: Annotated[str, says("The branch", "24.10", "SNAPSHOT")]
    enabled: Annotated[bool, says("Always true: others are not listed", True)]
    snapshot: Annotated[bool, says("Whether it has nothing but a snapshot", False)]
    path: Annotated[str, says("Upstream's directory of a version", "releases/{version}", "snapshots")]
    versions: Annotated[tuple[str, ...], says("Newest first", ["24.10.4", "24.10.3", "24.10-SNAPSHOT"])]
    targets: Annotated[
        Mapping[str, str], says("Target to package architecture", {"ath79/generic": "mips_24kc"})
    ]
    package_changes: Annotated[list[ClientChangeDocument], says("What clients do to package lists", [])]
    path_packages: Annotated[
        str, says("Nobody uses the value, but auc ignores a branch without it", "DEPRECATED")
    ] = "DEPRECATED"
    branch_off_rev: Annotated[
        int | msgspec.UnsetType, says("The count in the revision at which it left main", 27990)
    ] = msgspec.UNSET


class ServerDocument(msgspec.Struct):
    """What this server is and allows."""

    version: Annotated[str, says("Of this service", "1.0.0")]
    contact: Annotated[str, says("How to reach its operator", "asu@example.org")]
    allow_defaults: Annotated[bool, says("Whether requests may bring a first-boot script", False)]
    repository_allow_list: Annotated[tuple[str, ...], says("Repositories they may name", _REPOSITORIES)]
    max_custom_rootfs_size_mb: Annotated[int, says("Largest root partition in MiB", 1024, minimum=1)]
    max_defaults_length: Annotated[int, says("Longest first-boot script in characters", 20480, minimum=0)]


class Overview(msgspec.Struct):
    """Everything a client needs to choose a version."""

    latest: Annotated[list[str], says("See latest.json", ["25.12.0-rc1", "24.10.4", "23.05.6"])]
    branches: Annotated[Mapping[str, BranchDocument], says("Each branch by its name")]
    upstream_url: Annotated[str, says("The download server, for clients", "https://downloads.openwrt.org")]
    server: Annotated[ServerDocument, says("This server")]


class Latest(msgspec.Struct):
    """The upcoming release if there is any, the stable and the old stable one."""

    latest: Annotated[list[str], says("Newest first", ["25.12.0-rc1", "24.10.4", "23.05.6"])]


class Revision(msgspec.Struct):
    """The exact source of a target's packages."""

    revision: Annotated[str, says("Count and commit", A_REVISION)]


class TargetIndex(msgspec.Struct):
    """A target's own packages with its kernel modules."""

    architecture: Annotated[str, says("The package architecture", "mips_24kc")]
    packages: Annotated[Mapping[str, str], says("Name to version", {"kmod-usb2": "6.6.93-r1"})]
