"""Submit a build, look at a build: what the HTTP layer asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from asu_builder.domain.errors import AsuError, BuildNotFound, QueueFull, RequestRejected
from asu_builder.domain.job import Job, JobState
from asu_builder.domain.repositories import PLACEHOLDERS, key_files, require_allowed
from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.ports import Entry, JobQueue, PackageChanges, Statistics, Store, Submission
from asu_builder.services.catalog import Catalog, Resolved


@dataclass(frozen=True, slots=True)
class Policy:
    """What this server allows."""

    allow_defaults: bool
    max_defaults_length: int
    max_custom_rootfs_size_mb: int
    repository_allow_list: tuple[str, ...]
    max_pending_jobs: int


@dataclass(frozen=True, slots=True)
class BuildView:
    """A job as somebody sees it; `position` is the number of jobs ahead, only while pending."""

    job: Job
    position: int | None = None


class Builds:
    """The door to the queue: policy first, then the catalog, then one transaction."""

    def __init__(
        self,
        queue: JobQueue,
        catalog: Catalog,
        *,
        package_changes: PackageChanges,
        store: Store,
        statistics: Statistics,
        policy: Policy,
        now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._catalog = catalog
        self._package_changes = package_changes
        self._store = store
        self._statistics = statistics
        self._policy = policy
        self._now = now
        self._wake = wake

    def submit(self, request: BuildRequest, *, client: str = "") -> BuildView:
        """The job for this request, a new one if nobody has asked for the same before.

        Raises `RequestRejected`, `QueueFull`, or `Unavailable` when upstream was never reached.
        """
        (answer,) = self.submit_all([(request, client)])
        if isinstance(answer, AsuError):
            raise answer
        return answer

    def submit_all(self, asked: Sequence[tuple[BuildRequest, str]]) -> list[BuildView | AsuError]:
        """The same for many requests and their clients, in one durable transaction."""
        prepared = [self._prepare(request, client) for request, client in asked]
        submissions = [entry for entry in prepared if isinstance(entry, Submission)]
        entries = iter(self._enter(submissions))
        return [next(entries) if isinstance(entry, Submission) else entry for entry in prepared]

    def _prepare(self, request: BuildRequest, client: str) -> Submission | AsuError:
        try:
            self._require_policy(request)
            found = self._catalog.resolve(request)
            self._require_repositories(found)
        except AsuError as refusal:
            return refusal
        rules = self._package_changes.digest(found.request)
        name = request_hash(found.request, revision=found.revision, rules=rules)
        return Submission(found.request, name, client)

    def _enter(self, submissions: Sequence[Submission]) -> list[BuildView | AsuError]:
        if not submissions:
            return []
        entries = list(self._submit(submissions))
        for number, entry in enumerate(entries):
            if isinstance(entry, Entry) and self._is_gone(entry.job):
                self._queue.expire(entry.job.id, now=self._now())
                (entries[number],) = self._submit([submissions[number]])
        return [
            entry if isinstance(entry, QueueFull) else self._welcome(entry, submission)
            for entry, submission in zip(entries, submissions, strict=True)
        ]

    def _submit(self, submissions: Sequence[Submission]) -> Sequence[Entry | QueueFull]:
        return self._queue.submit_all(submissions, capacity=self._policy.max_pending_jobs, now=self._now())

    def _welcome(self, entry: Entry, submission: Submission) -> BuildView:
        if entry.created:
            self._statistics.record("request", submission.request, client=submission.client)
            self._wake()
        elif entry.job.state is JobState.COMPLETED:
            self._statistics.record("cache_hit", submission.request, client=submission.client)
        return BuildView(entry.job, entry.ahead)

    def look(self, name: str) -> BuildView:
        """The newest job for this hash. Raises `BuildNotFound`."""
        job = self._queue.find(name, now=self._now())
        if job is None or self._is_gone(job):
            raise BuildNotFound("could not find provided request hash")
        return self._view(job)

    def pending(self) -> int:
        """How many jobs wait."""
        return self._queue.pending()

    def _view(self, job: Job) -> BuildView:
        position = self._queue.position(job.id) if job.state is JobState.PENDING else None
        return BuildView(job, position)

    def _is_gone(self, job: Job) -> bool:
        # Clients do not check the status of a download: never say done about files that are gone.
        return job.state is JobState.COMPLETED and not self._store.holds(job.request_hash)

    def _require_policy(self, request: BuildRequest) -> None:
        policy = self._policy
        if request.defaults and not policy.allow_defaults:
            raise RequestRejected("Handling `defaults` not enabled on server")
        if len(request.defaults) > policy.max_defaults_length:
            raise RequestRejected(
                f"defaults: at most {policy.max_defaults_length} characters are allowed here"
            )
        key_files(request.repository_keys)  # refuses what is no key
        size = request.rootfs_size_mb
        if size is not None and size > policy.max_custom_rootfs_size_mb:
            raise RequestRejected(
                f"rootfs_size_mb: at most {policy.max_custom_rootfs_size_mb} MiB are allowed here"
            )

    def _require_repositories(self, found: Resolved) -> None:
        target, _, subtarget = found.request.target.partition("/")
        values = (found.release.version, found.release.branch, target, subtarget, found.architecture)
        places = dict(zip(PLACEHOLDERS, values, strict=True))
        require_allowed(found.request.repositories, self._policy.repository_allow_list, places=places)
