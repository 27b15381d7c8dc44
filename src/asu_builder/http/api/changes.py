"""What package rules did, as clients read it."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.http.fields import says

_WHY = "auc was replaced by owut: https://github.com/openwrt/asu"


class AppliedRuleDocument(msgspec.Struct):
    """What one rule did to the request, and why."""

    rule: Annotated[str, says("The rule's name", "auc-gone")]
    why: Annotated[str, says("Why it is there, with a link", _WHY)]
    added: Annotated[tuple[str, ...], says("Packages that were added", ["owut"])]
    removed: Annotated[tuple[str, ...], says("Packages that were taken out", ["auc"])]
    renamed: Annotated[Mapping[str, str], says("Old name to new name", {})]


class PackageChangesDocument(msgspec.Struct):
    """How the package selection came about."""

    applied: Annotated[list[AppliedRuleDocument], says("The rules that changed something", [])]
    warnings: Annotated[tuple[str, ...], says("What the caller should know, in sentences", [])]
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


class UnknownPackageDocument(msgspec.Struct):
    """A package that no index of this version and target has."""

    name: Annotated[str, says("The name as asked for", "lucy")]
    suggestions: Annotated[tuple[str, ...], says("The closest names there are, best first", ["luci"])]


class PreviewDocument(msgspec.Struct):
    """What make would be told, why, and which names nobody knows."""

    packages: Annotated[tuple[str, ...], says("The package selection", ["luci", "owut"])]
    applied: Annotated[list[AppliedRuleDocument], says("The rules that changed something", [])]
    warnings: Annotated[tuple[str, ...], says("What the caller should know, in sentences", [])]
    missing_defaults: Annotated[
        tuple[str, ...],
        says("Defaults of this version that neither the request nor the version before has", ["kmod-switch"]),
    ]
    indexes_known: Annotated[bool, says("Whether the names could be looked up at all", True)]
    unknown: Annotated[list[UnknownPackageDocument], says("Names that no index has", [])]
