"""The interfaces between `core` and its adapters.

Every adapter of a port runs its contract suite in `tests/contract/`. Only errors of `domain/errors.py` pass.
"""

from asu_builder.ports.state import (
    BuildLog,
    JobQueue,
    Lead,
    Nodes,
    Operations,
    PreflightRecords,
    RetentionRepository,
    Statistics,
)
from asu_builder.ports.world import (
    ArchiveSource,
    Container,
    ImageSigning,
    KeyHolder,
    PackageChanges,
    PackageIndexSource,
    PackageResolver,
    RateWindows,
    RemoteFile,
    Runtime,
    SharedCopies,
    StatementSigning,
    Store,
    Upstream,
)

__all__ = [
    "ArchiveSource",
    "BuildLog",
    "Container",
    "ImageSigning",
    "JobQueue",
    "KeyHolder",
    "Lead",
    "Nodes",
    "Operations",
    "PackageChanges",
    "PackageIndexSource",
    "PackageResolver",
    "PreflightRecords",
    "RateWindows",
    "RemoteFile",
    "RetentionRepository",
    "Runtime",
    "SharedCopies",
    "StatementSigning",
    "Statistics",
    "Store",
    "Upstream",
]
