"""What the services need from the world, in their own words. Adapters fulfil it.

Every adapter of a port runs the same contract suite (`tests/contract/`). Errors are those of
`domain/errors.py`; nothing foreign passes a port.
"""

from asu_builder.ports.build_log import BuildLog, LogLine, PrintedLine
from asu_builder.ports.containers import CommandResult, Container, ContainerSpec, Heard, Runtime
from asu_builder.ports.health import Verdict
from asu_builder.ports.operations import Act, JobFilter, LiveJobs, Operations, Pause, QueueLoad, Waiting
from asu_builder.ports.package_changes import PackageChanges
from asu_builder.ports.queue import Admit, Entry, JobQueue, Patience, Recovery, Submission, admit_all
from asu_builder.ports.reading import DocumentState, Reading, Sources, current_reading, read_whole
from asu_builder.ports.retention import Remove, RetentionLedger
from asu_builder.ports.statistics import (
    DURATION_CLASSES,
    DurationTally,
    EventKind,
    RecordedFailure,
    Statistics,
    Tally,
    TallyBy,
)
from asu_builder.ports.store import Store
from asu_builder.ports.upstream import TargetProfiles, Upstream, VersionList

__all__ = [
    "DURATION_CLASSES",
    "Act",
    "Admit",
    "BuildLog",
    "CommandResult",
    "Container",
    "ContainerSpec",
    "DocumentState",
    "DurationTally",
    "Entry",
    "EventKind",
    "Heard",
    "JobFilter",
    "JobQueue",
    "LiveJobs",
    "LogLine",
    "Operations",
    "PackageChanges",
    "Patience",
    "Pause",
    "PrintedLine",
    "QueueLoad",
    "Reading",
    "RecordedFailure",
    "Recovery",
    "Remove",
    "RetentionLedger",
    "Runtime",
    "Sources",
    "Statistics",
    "Store",
    "Submission",
    "Tally",
    "TallyBy",
    "TargetProfiles",
    "Upstream",
    "Verdict",
    "VersionList",
    "Waiting",
    "admit_all",
    "current_reading",
    "read_whole",
]
