"""What a build failed at, or would fail at, and how its packages came about, as clients read it."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec.structs import asdict

from asu_builder.domain.errors import BuildProblem
from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.http.openapi import says


class BuildProblemDocument(msgspec.Struct, omit_defaults=True):
    """Names and numbers; what does not apply is left out."""

    missing: Annotated[
        tuple[str, ...], says("Packages that do not exist, or not for this device", ["nosuch"])
    ] = ()
    conflicts: Annotated[
        tuple[str, ...], says("Packages that exclude each other", ["nftables-json", "nftables-nojson"])
    ] = ()
    needed_by: Annotated[
        Mapping[str, tuple[str, ...]],
        says("For a missing package, those that need it", {"libudev": ["usbutils"]}),
    ] = {}
    providers: Annotated[
        Mapping[str, tuple[str, ...]],
        says("For a name that several packages provide, those packages", {"libudev": ["libudev-zero"]}),
    ] = {}
    refused: Annotated[tuple[str, ...], says("Requested and not installed", ["luci-app-x"])] = ()
    undelivered: Annotated[
        Mapping[str, str],
        says("Packages of the index that could not be downloaded, and why", {"tmux": "HTTP 404"}),
    ] = {}
    repositories: Annotated[
        Mapping[str, str],
        says("Repositories that could not be used, and why", {"https://feed.example.org/x": "no answer"}),
    ] = {}
    versions: Annotated[
        Mapping[str, tuple[str, str]],
        says("Packages with the requested and the available version", {"vim": ["9.0-r1", "9.1-r1"]}),
    ] = {}
    revisions: Annotated[
        tuple[str, str] | None,
        says("The requested revision or version, and the one found", ["r28959-29397011cc", "r28960-0123abc"]),
    ] = None
    script: Annotated[str, says("The package whose install script failed", "sample-script")] = ""
    size: Annotated[int | None, says("Bytes of an image that did not fit", 8257536)] = None
    limit: Annotated[int | None, says("Bytes that are available", 8126464)] = None
    full: Annotated[bool, says("Whether the root file system was full", True)] = False
    filesystems: Annotated[
        tuple[str, ...], says("The file systems that were built instead of the requested one", ["ext4"])
    ] = ()


def render_build_problem(problem: BuildProblem) -> BuildProblemDocument:
    """The names and numbers."""
    return BuildProblemDocument(**asdict(problem))


_WHY = "auc was replaced by owut: https://github.com/openwrt/asu"


class AppliedRuleDocument(msgspec.Struct):
    """What one rule did to the request, and why."""

    rule: Annotated[str, says("The rule's name", "auc-gone")]
    why: Annotated[str, says("Why the rule exists, with a link", _WHY)]
    added: Annotated[tuple[str, ...], says("Packages that were added", ["owut"])]
    removed: Annotated[tuple[str, ...], says("Packages that were removed", ["auc"])]
    renamed: Annotated[Mapping[str, str], says("Old name to new name", {})]


class PackageChangesDocument(msgspec.Struct):
    """How the package selection came about."""

    applied: Annotated[list[AppliedRuleDocument], says("The rules that changed something", [])]
    warnings: Annotated[tuple[str, ...], says("Warnings for the caller, as sentences", [])]
    missing_defaults: Annotated[
        tuple[str, ...],
        says("Defaults of this version that neither the request nor the version before has", ["kmod-switch"]),
    ]


def render_changes(record: PackageChangesRecord) -> PackageChangesDocument:
    """The record as clients read it."""
    return PackageChangesDocument(
        [
            AppliedRuleDocument(entry.rule, entry.why, entry.added, entry.removed, entry.renamed)
            for entry in record.applied
        ],
        record.warnings,
        record.missing_defaults,
    )
