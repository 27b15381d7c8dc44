"""A queue of plain values behind the web layer's back, and the jobs its tests talk about."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from threading import Event

from msgspec.structs import replace

from asu_builder.core.submit import Ask, Builds, BuildView, Progress
from asu_builder.domain.access import Caller, Right
from asu_builder.domain.errors import BuildNotFound, Conflict, FailureReason, NotAllowed, Side
from asu_builder.domain.job import (
    FINAL_STATES,
    BuildResult,
    DurationTally,
    Image,
    Job,
    JobState,
    RecordedFailure,
    Stage,
    Tally,
)
from asu_builder.domain.request import BuildRequest, request_hash
from factories import NOON, a_failure, a_request
from factories import a_result as a_bare_result

CANCEL_TOKEN = "the secret of the first caller"

_DESCRIPTION = {
    "arch_packages": "pico_24kc",
    "version_number": "24.10.5",
    "version_code": "r29087-d9c5716d1d",
    "metadata_version": 1,
    "source_date_epoch": 1760000000,
    "target": "pico/nine",
    "titles": [{"vendor": "Acme", "model": "Widget 5"}],
    "linux_kernel": {"version": "6.6.93"},
}


def a_body(**changes: object) -> dict[str, object]:
    """The body that asks for `factories.a_request()`."""
    return {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5", **changes}


def a_result(**changes: object) -> BuildResult:
    """What a build leaves, with a description as an ImageBuilder writes it."""
    sysupgrade = Image("openwrt-sysupgrade.bin", "sysupgrade", "a" * 64, "b" * 64, 10, "squashfs")
    kernel = Image("openwrt-kernel.bin", "kernel", "c" * 64, "c" * 64, 3)
    return a_bare_result(**({"description": _DESCRIPTION, "images": (sysupgrade, kernel)} | changes))


class FakeBuilds(Builds):
    """Counts who comes; a new request waits until the test moves it."""

    def __init__(self) -> None:
        self.jobs: dict[str, BuildView] = {}
        self.submits = 0
        self.looks = 0
        self.clients: list[str] = []
        self.callers: list[str] = []
        self.noted: list[str] = []
        self.touch = self.noted.append
        self.asked: list[str] = []
        """Of which hashes the job was asked for."""
        self.compared: list[frozenset[str]] = []
        """Which hashes were looked at together."""
        self.counted = 0
        self.stat: list[str] = []
        """Whose files were looked for."""
        self.gone: set[str] = set()
        """Whose files are not there."""
        self.store_missing = False
        self.lasts = timedelta(days=1)
        self.error: Exception | None = None
        self.gate = Event()
        self.gate.set()

    def submit(self, ask: Ask) -> BuildView:
        """The job of this request, a new pending one if there is none."""
        self.gate.wait(60)
        self.submits += 1
        self.clients.append(ask.client)
        self.callers.append(ask.caller.name)
        if self.error:
            raise self.error
        name = request_hash(ask.request)
        if name in self.jobs:
            return self.jobs[name]
        job = Job(len(self.jobs) + 1, name, ask.request, JobState.PENDING, NOON, ask.client, ask.caller.name)
        self.jobs[name] = BuildView(job, len(self.jobs))
        return replace(self.jobs[name], cancel_token=CANCEL_TOKEN)

    def submit_all(self, asked: Sequence[Ask]) -> list[BuildView | Exception]:
        """One after the other."""
        answers: list[BuildView | Exception] = []
        for ask in asked:
            try:
                answers.append(self.submit(ask))
            except Exception as error:  # noqa: BLE001 - as the real one does
                answers.append(error)
        return answers

    def cancel(self, name: str, *, caller: Caller, cancel_token: str) -> BuildView:
        """Cancels with the one secret, or for an operator."""
        view = self.look(name)
        if cancel_token != CANCEL_TOKEN and not caller.may(Right.OPERATE):
            raise NotAllowed("wrong secret")
        if view.job.state in FINAL_STATES:
            raise Conflict("ended")
        job = replace(view.job, state=JobState.CANCELLED, stage=None, finished_at=NOON)
        self.jobs[name] = BuildView(job)
        return self.jobs[name]

    def look(self, name: str) -> BuildView:
        """The job of this hash."""
        self.gate.wait(60)
        self.looks += 1
        if self.error:
            raise self.error
        if name not in self.jobs:
            raise BuildNotFound("could not find provided request hash")
        return self.jobs[name]

    def find_id(self, name: str) -> int | None:
        """The number of the job."""
        self.asked.append(name)
        if self.error:
            raise self.error
        return self._id_of(name)

    def changes(self) -> int:
        """Another number when another job, or the same in another state, is behind a hash."""
        if self.error:
            raise self.error
        return hash(tuple((name, id(view)) for name, view in self.jobs.items()))

    def progress(self, names: Collection[str]) -> Mapping[str, Progress]:
        """Of those that are there."""
        self.compared.append(frozenset(names))
        if self.error:
            raise self.error
        known = {name: self.jobs[name] for name in names if name in self.jobs}
        return {name: view.progress for name, view in known.items()}

    def outdated(self, job_ids: Mapping[str, int]) -> tuple[Collection[str], timedelta | None]:
        """Those that are not there, or another."""
        self.compared.append(frozenset(job_ids))
        if self.error:
            raise self.error
        return [name for name, job_id in job_ids.items() if self._id_of(name) != job_id], self.lasts

    def _id_of(self, name: str) -> int | None:
        return self.jobs[name].job.id if name in self.jobs else None

    def lost(self, names: Sequence[str], *, checked: Sequence[str]) -> Sequence[str]:
        """As the test says."""
        self.stat += checked
        return names if self.store_missing else [name for name in checked if name in self.gone]

    def pending(self) -> int:
        """How many wait."""
        self.counted += 1
        if self.error:
            raise self.error
        return sum(view.job.state is JobState.PENDING for view in self.jobs.values())

    def hold(self, request: BuildRequest, *, client: str = "owut/1", **changes: object) -> str:
        """Puts a job into any state; returns its hash."""
        name = request_hash(request)
        job = Job(len(self.jobs) + 1, name, request, JobState.PENDING, NOON, client)
        moved = replace(job, **changes)
        self.jobs[name] = BuildView(moved, 0 if moved.state is JobState.PENDING else None)
        return name

    def complete(self, request: BuildRequest | None = None, **changes: object) -> str:
        """A finished build."""
        return self.hold(
            request or a_request(), state=JobState.COMPLETED, finished_at=NOON, outcome=a_result(**changes)
        )

    def build(self, request: BuildRequest | None = None, stage: Stage | None = Stage.BUILDING_IMAGE) -> str:
        """A build that is running."""
        return self.hold(request or a_request(), state=JobState.BUILDING, stage=stage, started_at=NOON)

    def fail(self, reason: FailureReason = FailureReason.IMPOSSIBLE_SELECTION) -> str:
        """A failed build."""
        return self.hold(a_request(), state=JobState.FAILED, finished_at=NOON, outcome=a_failure(reason))


class FakeStatistics:
    """Remembers what was recorded."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def record(
        self,
        kind: str,
        request: BuildRequest,
        *,
        client: str = "",
        reason: str = "",
        side: Side | None = None,
    ) -> None:
        """Notes one event and its client."""
        self.events.append((kind, client))

    def record_duration(self, stage: str, span: timedelta) -> None:
        """Nothing is counted."""

    def waiting(self) -> int:
        """Nothing waits."""
        return 0

    def flush(self) -> int:
        """Nothing to write."""
        return 0

    def tally(self, kinds: object, **_: object) -> tuple[Tally, ...]:
        """Nothing is counted."""
        return ()

    def durations(self, **_: object) -> tuple[DurationTally, ...]:
        """None are counted."""
        return ()

    def failures(self, limit: int) -> tuple[RecordedFailure, ...]:
        """None are remembered."""
        return ()

    def top_packages(self, **_: object) -> tuple[tuple[str, int], ...]:
        """None are counted."""
        return ()
