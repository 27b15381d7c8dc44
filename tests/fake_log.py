"""Lines of builds in memory, beside `fake_builds.FakeBuilds`."""

from collections.abc import Sequence

from asu_builder.domain.job import Lease, LogLine, PrintedLine, Stage
from factories import NOON


class FakeBuildLog:
    """Fulfils `ports.BuildLog` without limits, and counts how often it is read."""

    def __init__(self) -> None:
        self.lines: dict[int, list[LogLine]] = {}
        self.reads = 0

    def append(self, lease: Lease, lines: Sequence[PrintedLine]) -> bool:
        """Keeps them, whoever holds the lease."""
        kept = self.lines.setdefault(lease.job_id, [])
        for line in lines:
            kept.append(LogLine(len(kept) + 1, line.at, line.stage, line.text))
        return True

    def print(self, job_id: int, *texts: str, stage: Stage = Stage.BUILDING_IMAGE) -> None:
        """What a build prints at noon."""
        self.append(Lease(job_id, "", 0), [PrintedLine(NOON, stage, text) for text in texts])

    def read(self, job_id: int, *, after: int = 0, limit: int = 1_000_000) -> Sequence[LogLine]:
        """See `ports.BuildLog.read`."""
        self.reads += 1
        return self.lines.get(job_id, [])[after : after + limit]

    def last(self, job_id: int) -> int:
        """See `ports.BuildLog.last`."""
        return len(self.lines.get(job_id, []))
