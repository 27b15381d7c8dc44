"""Where an ImageBuilder runs, and where its output is kept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Protocol

from msgspec import Struct, field

from asu_builder.domain.check_result import CheckResult
from asu_builder.domain.job import Lease, Stage
from asu_builder.domain.release import Release

MAX_LINES = 10_000
"""Lines that are kept of one job, over all its attempts."""
MAX_BYTES = 1 << 20
"""Bytes of their text (UTF-8) that are kept of one job."""
LEFT_OUT = "[The rest of this build's output is left out here; its end is in the outcome.]"
"""The last line of a log that came to one of these limits."""


class PrintedLine(Struct, frozen=True):
    """A line of output: when it was printed, in which stage, and its text without control characters."""

    at: datetime
    stage: Stage
    text: str


class LogLine(Struct, frozen=True):
    """A line that is kept. `seq` is 1, 2, 3 … for each job, whatever attempt printed it."""

    seq: int
    at: datetime
    stage: Stage
    text: str


class BuildLog(Protocol):
    """Lines by job; they go when their job is forgotten."""

    def append(self, lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        """Keeps lines of the attempt that holds this lease, in one transaction.

        False when nothing more will be kept for it: the log is full, or another attempt holds the job.
        """
        ...

    def read(self, job_id: int, *, after: int = 0, limit: int = MAX_LINES + 1) -> Sequence[LogLine]:
        """Lines with a higher `seq` than `after`, in order."""
        ...

    def last(self, job_id: int) -> int:
        """The highest `seq`; 0 when nothing was printed."""
        ...


STDOUT, STDERR = 1, 2

OutputCallback = Callable[[int, bytes], None]
"""Told what a command prints as it arrives: the stream's number and the next piece of it.

Called in the thread that runs the command, so it must return at once; it raises nothing.
"""


class ContainerSpec(Struct, frozen=True):
    """What a build needs of its container; the hardening is the adapter's own, not a choice."""

    release: Release
    target: str
    deadline: timedelta
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class CommandResult(Struct, frozen=True):
    """How a command ended. Its output is on disk, capped; both files exist."""

    exit_code: int
    stdout: Path
    stderr: Path


class Container(Protocol):
    """One ImageBuilder, ours alone; none of its processes outlives the context that opened it."""

    identity: str
    """Names the ImageBuilder's content (image digest or directory): equal means equal answers."""
    workdir: str
    """Absolute path of the ImageBuilder inside the container, without a trailing slash."""
    warnings: Sequence[str]
    """What the operator or caller should know, for example an image that could not be refreshed."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        """Runs one command in `workdir` with a clean environment (plus `environment`).

        `output` is a directory on this host; stdout and stderr are streamed into files there.
        `on_output` is told both as they come, also what the files have no room for.
        Raises `BuildFailed` for deadline, memory and disk limits, `BuildInterrupted` when the
        stop event was set, `EngineUnavailable` when the engine fails.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether a plain file of this name (relative to `workdir`) exists."""
        ...

    def read_text(self, path: str) -> str:
        """The text of a small file relative to `workdir`, at most 1 MiB."""
        ...

    def write_files(self, files: Mapping[str, str]) -> None:
        """Puts texts at paths relative to `workdir`, making directories, owned by its user."""
        ...

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Streams the plain files of an absolute inner directory into `into`; returns their names.

        Nothing that leaves a container is trusted: anything but plain files with plain names
        under the count and size caps is `BuildFailed(UNTRUSTED_OUTPUT)`. No directory: no names.
        """
        ...


class Runtime(Protocol):
    """Where ImageBuilders run."""

    def open(self, spec: ContainerSpec, *, stop: Event) -> AbstractContextManager[Container]:
        """A fresh container, started. Setting `stop` ends it early.

        When the context is left, whatever happens, no process of it lives any more, as far as the
        engine answers. It is removed in the background; where many wait for that, this waits first.

        Raises `BuildFailed(IMAGEBUILDER_MISSING)`, `RegistryUnavailable` or `EngineUnavailable`.
        """
        ...

    def close(self) -> bool:
        """Waits a moment for what is still being removed; whether nothing is left for the next sweep."""
        ...

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Removes this installation's containers whose labels `keep` does not want; how many."""
        ...

    def check(self) -> CheckResult:
        """Whether a build could start now, within a few seconds."""
        ...

    def check_registry(self) -> CheckResult:
        """Whether the container images of ImageBuilders can be had, as far as the last tries tell."""
        ...
