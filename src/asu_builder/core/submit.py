"""Submit a build, look at one, cancel one, and tell how long it will take: what the HTTP layer asks for."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.core.catalog import Catalog
from asu_builder.core.current_packages import CurrentPackages, Settled
from asu_builder.core.forecast import Forecast
from asu_builder.core.refusals import Refusals
from asu_builder.domain.access import Caller, Right, digest_of
from asu_builder.domain.errors import (
    AsuError,
    BuildNotFound,
    Conflict,
    NotAllowed,
    RequestRejected,
    StoreUnavailable,
    TooManyRequests,
    Unavailable,
)
from asu_builder.domain.job import FINAL_STATES, BuildResult, Entry, Job, JobState, Standing, Submission
from asu_builder.domain.reading import Reading
from asu_builder.domain.repositories import PLACEHOLDERS, key_files, require_allowed
from asu_builder.domain.request import BuildRequest, current_terms, request_hash
from asu_builder.ports import JobQueue, Operations, PackageChanges, Statistics, Store
from asu_builder.settings import Settings


class AccessTracker:
    """Hashes that somebody polled, downloaded or asked for again since the last `flush`."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._asked: set[str] = set()
        self.note = self._asked.add
        """Notes one; costs nothing, from any thread."""

    def flush(self) -> None:
        """Writes what was noted; what cannot be written is kept for the next time."""
        # Popped one by one, because others add meanwhile; an entry is either written or still there.
        asked = {self._asked.pop() for _ in range(len(self._asked))}
        if not asked:
            return
        try:
            self._queue.touch(asked)
        except BaseException:
            self._asked |= asked
            raise


class Cancellation:
    """The one road to cancel, for callers and operators."""

    def __init__(
        self,
        queue: JobQueue,
        operations: Operations,
        *,
        statistics: Statistics,
        settings: Settings,
        stop_lost_builds: Callable[[], None] = lambda: None,
    ) -> None:
        """`stop_lost_builds` stops the build at once where it runs in this process; others poll the queue."""
        self._queue = queue
        self._operations = operations
        self._statistics = statistics
        self._settings = settings
        self.stop_lost_builds = stop_lost_builds

    def cancel(self, job: Job, *, operator: str = "", cancel_digest: str | None = None) -> None:
        """Ends the job, for the operator `operator`, or for the caller with the secret of `cancel_digest`.

        Raises `NotAllowed`, or `Conflict` when the build has ended or others have asked for it since.
        """
        failure_ttl = self._settings.failure_ttl
        if not self._queue.cancel(job.id, failure_ttl=failure_ttl, cancel_digest=cancel_digest):
            if cancel_digest is not None and not self._queue.may_cancel(job.id, cancel_digest):
                raise NotAllowed(
                    "A build is cancelled with an operator's token, or with the `cancel_token` that the "
                    "request which started it was answered with. Send that in the header X-Cancel-Token."
                )
            found = self._queue.find(job.request_hash) or job
            if found.state is JobState.CANCELLED:
                return
            if found.state in FINAL_STATES:
                raise Conflict(f"The build has ended before: it is {found.state}.")
            raise Conflict("Others have asked for the same build and wait for it, so it goes on.")
        self.stop_lost_builds()
        self._statistics.record("cancelled", job.request, client=job.client)
        if cancel_digest is None:
            self._operations.record(operator, "cancel", job.request_hash)


NO_CALLER = Caller("")
_RETRY_AFTER_NO_ROOM = 300


class Ask(Struct, frozen=True):
    """One request as it arrived: what, with which program, and by whom."""

    request: BuildRequest
    client: str = ""
    caller: Caller = NO_CALLER
    reading: Reading | None = None
    """Notes which documents of upstream are lacking; without one they are waited for here."""


class Progress(Struct, frozen=True):
    """How far a job is, for those who know what it is about."""

    standing: Standing
    remaining: timedelta | None = None
    """How long until its end, as far as can be told."""
    waiting_for: str = ""
    """As in `BuildView`."""
    late: bool = False
    """Whether it has been built for longer than builds usually take."""

    @property
    def eta_seconds(self) -> int | None:
        """Whole seconds until its end, where something can be told."""
        return None if self.remaining is None else math.ceil(self.remaining.total_seconds())


class BuildView(Struct, frozen=True):
    """A job as somebody sees it; `position` is the number of jobs ahead, only while pending."""

    job: Job
    position: int | None = None
    remaining: timedelta | None = None
    """How long until its end, as far as can be told."""
    waiting_for: str = ""
    """Why nothing is built, while it waits: `paused`, `engine`, `store`, `disk_full`; "" for its turn."""
    cancel_token: str = ""
    """The secret by which this very caller may cancel the job; never part of a shared answer."""
    unchanged: bool = False
    """Whether a request for today's packages is answered with a result that has them already."""
    late: bool = False
    """As in `Progress`."""

    @property
    def progress(self) -> Progress:
        """How far the job is."""
        job = self.job
        standing = Standing(job.id, job.state, job.stage, self.position, None, job.started_at)
        return Progress(standing, self.remaining, self.waiting_for, self.late)


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
        interest: AccessTracker,
        forecast: Forecast,
        cancellation: Cancellation,
        settings: Settings,
        limit: Callable[[str], TooManyRequests | None],
        take_back: Callable[[str, int], None],
        waiting_for: Callable[[], str] = lambda: "",
        refusals: Refusals | None = None,
        current: CurrentPackages | None = None,
        accepts_result: Callable[[BuildResult], bool] = lambda _: True,
        installed_key: Callable[[], str] = lambda: "",
    ) -> None:
        """`limit` admits one more new build of a caller or says why not; `take_back` undoes so many of these.

        `waiting_for` tells why no build can run, "" where one can. Without `refusals` every request is built;
        without `current` none is about today's packages. `accepts_result` says whether a kept result may be
        answered, which depends on the keys of today. `installed_key` names the key that is put into images;
        "" where there is none.
        """
        self._accepts_result = accepts_result
        self._installed_key = installed_key
        self._current = current
        self._waiting_for = waiting_for
        self._queue = queue
        self._catalog = catalog
        self._package_changes = package_changes
        self._store = store
        self._statistics = statistics
        self.touch = interest.note
        self.changes = queue.changes
        self.newest_id = queue.newest_id
        self._refusals = refusals
        self._refused = refusals.find if refusals else lambda _: None
        self._forecast = forecast
        self._cancellation = cancellation
        self._settings = settings
        self._limit = limit
        self._take_back = take_back

    def submit(self, ask: Ask) -> BuildView:
        """The job for this request, a new one unless the same was asked for before.

        Raises `RequestRejected`, `QueueFull`, `TooManyRequests`, or `Unavailable` when upstream was
        never reached or the disk is nearly full.
        """
        (answer,) = self.submit_all([ask])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit_all(self, asked: Sequence[Ask]) -> list[BuildView | Exception]:
        """The same for many, in one durable transaction; an exception stands where one was raised.

        One whose `reading` lacks documents is not entered: it is asked again when they are here.
        One that is no `AsuError` is a bug, met by that request alone.
        """
        prepared: list[_Prepared | BuildView | Exception] = []
        built: set[str] = set()  # hashes that go to the queue, where others beside them join
        for ask in asked:
            try:
                with ask.reading.active() if ask.reading else nullcontext():
                    prepared.append(self._prepare(ask, built))
            except Exception as refusal:  # noqa: BLE001 - a bug too is the answer to this request alone
                prepared.append(refusal)
        ready = [found for found in prepared if isinstance(found, _Prepared)]
        try:
            entries = iter(self._submit(ready) if ready else ())
        except AsuError:
            raise
        except Exception as bug:  # noqa: BLE001 - nothing was entered; the one request that met it is told
            if len(asked) == 1:
                return [bug]
            return [answer for ask in asked for answer in self.submit_all([ask])]
        answers: list[BuildView | Exception] = []
        outlook: _Outlook | None = None  # the same for all of them
        for found in prepared:
            if not isinstance(found, _Prepared):
                answers.append(found)
                continue
            entry, submission = next(entries), found.submission
            try:
                if not isinstance(entry, AsuError) and self._is_gone(entry.job):
                    self._queue.expire(entry.job.id)
                    (entry,) = self._submit([found])
                if isinstance(entry, AsuError):
                    answers.append(entry)
                    continue
                if entry.created:
                    self._statistics.record("request", submission.request, client=submission.client)
                else:
                    self.touch(submission.request_hash)
                    if entry.job.state is JobState.COMPLETED:
                        self._statistics.record("cache_hit", submission.request, client=submission.client)
                token = found.cancel_token if entry.created else ""
                if outlook is None and entry.job.state not in FINAL_STATES:
                    outlook = self._outlook()
                seen = self._seen(entry.job, entry.ahead, outlook, token)
                if submission.request.as_of and entry.job.state is JobState.COMPLETED:
                    seen = replace(seen, unchanged=True)
                answers.append(seen)
            except Exception as error:  # noqa: BLE001 - the others are entered, and must be told so
                answers.append(error)
        return answers

    def _prepare(self, ask: Ask, built: set[str]) -> "_Prepared | BuildView":
        """What the queue is told of a request that policy and catalog let pass, or how it is refused."""
        request, settings = ask.request, self._settings
        if request.defaults and not settings.allow_defaults:
            raise RequestRejected("Handling `defaults` not enabled on server", field="defaults")
        if len(request.defaults) > settings.max_defaults_length:
            raise RequestRejected(
                f"defaults: at most {settings.max_defaults_length} characters are allowed here",
                field="defaults",
            )
        key_files(request.repository_keys)  # refuses what is no key
        size = request.rootfs_size_mb
        if size is not None and size > settings.max_custom_rootfs_size_mb:
            raise RequestRejected(
                f"rootfs_size_mb: at most {settings.max_custom_rootfs_size_mb} MiB are allowed here",
                field="rootfs_size_mb",
            )
        found = self._catalog.resolve(request)
        request = found.request
        target, _, subtarget = request.target.partition("/")
        values = (found.release.version, found.release.branch, target, subtarget, found.architecture)
        places = dict(zip(PLACEHOLDERS, values, strict=True))
        require_allowed(request.repositories, settings.repository_allow_list, places=places)
        stale: AsuError | None = None
        if self._current and (request.as_of or request.on_missing != "fail"):
            settled = self._current.settle(found, ask.caller)
            found, stale = settled
            request = found.request
            if request.as_of and not request.dropped and (kept := self._unchanged(settled, ask.caller)):
                self._statistics.record("cache_hit", request, client=ask.client)
                return BuildView(kept, unchanged=True)
        rules, all_rules = self._package_changes.digests(request)
        name = self._name(request, found.revision, rules)
        caller, reading, refused = ask.caller, ask.reading, None
        refusals = None if name in built else self._refusals
        if reading and not reading.lacks and refusals and refusals.may_judge(found) and self._is_new(name):
            refused = refusals.judge(found, name, reading=reading, caller=caller, client=ask.client)
        if reading and reading.lacks:
            raise Unavailable("Documents of the download server are on their way.", retry_after=1)
        if refused:
            return BuildView(refused)
        built.add(name)
        import secrets  # with OpenSSL, which a start does without

        cancel_token = secrets.token_urlsafe(18)
        digest, terms = digest_of(cancel_token), current_terms(all_rules)
        submission = Submission(request, name, ask.client, caller.name, caller.priority, digest, terms=terms)
        return _Prepared(submission, cancel_token, limited=caller.token is None, stale=stale)

    def _unchanged(self, settled: Settled, caller: Caller) -> Job | None:
        """A result of the same request without `as_of` that is what would be built today."""
        found = settled.found
        plain = replace(found.request, as_of="")
        rules, _ = self._package_changes.digests(plain)
        job = self._queue.find(self._name(plain, found.revision, rules))
        if job is None or job.withheld or not isinstance(job.outcome, BuildResult) or self._is_gone(job):
            return None
        if self._current is None or not self._current.is_unchanged(settled, job.outcome, caller):
            return None
        self.touch(job.request_hash)
        return job

    def _submit(self, prepared: "Sequence[_Prepared]") -> Sequence[Entry | AsuError]:
        no_room: AsuError | None = None
        if missing := self._store.missing():
            no_room = StoreUnavailable(missing)
        else:
            try:
                if self._store.room() <= 0:
                    no_room = Unavailable(
                        "This server's disk is nearly full, so it takes no new builds until room was made. "
                        "Builds that were asked for before are still answered.",
                        retry_after=_RETRY_AFTER_NO_ROOM,
                        plain=True,
                    )
            except Unavailable as error:
                no_room = error
        submissions: list[Submission] = []
        admitted: Counter[str] = Counter()
        names: set[str] = set()
        entries: Sequence[Entry | AsuError] = ()
        try:
            for ready in prepared:
                submission, refusal = ready.submission, no_room or ready.stale
                caller, name = submission.caller, submission.request_hash
                if ready.limited and refusal is None and name not in names:
                    refusal = self._limit(caller)
                    if refusal is None:
                        admitted[caller] += 1
                        names.add(name)
                if refusal is not None:
                    submission = replace(submission, refusal=refusal, refused_after=admitted[caller])
                submissions.append(submission)
            entries = self._queue.submit_all(submissions, max_pending=self._settings.max_pending_jobs)
        finally:
            # Only the queue knows which make new jobs: one that joins a job, or is refused, does not count.
            for ready, entry in zip(prepared, entries, strict=False):
                if ready.limited and isinstance(entry, Entry) and entry.created:
                    admitted[ready.submission.caller] -= 1
            for caller, unused in admitted.items():
                self._take_back(caller, unused)
        return entries

    def find_id(self, name: str) -> int | None:
        """The id of the job of `look`; never waits: raises `Unavailable` where it cannot be told at once."""
        job_id = self._queue.find_id(name)
        refused = self._refused(name) if job_id is None else None
        return refused.id if refused else job_id

    def look(self, name: str) -> BuildView:
        """The newest job for this hash, or the refusal of such a request.

        Raises `BuildNotFound`, or `Unavailable` for a result whose files are not there now, with the
        whole store.
        """
        job = self._queue.find(name) or self._refused(name)
        if job is None or self._is_gone(job):
            raise BuildNotFound("could not find provided request hash")
        self.touch(name)
        ahead = self._queue.position(job.id) if job.state is JobState.PENDING else None
        return self._seen(job, ahead, None if job.state in FINAL_STATES else self._outlook())

    def progress(self, names: Collection[str]) -> Mapping[str, Progress]:
        """How far the newest job of each hash is, all read at one moment; that is noted as no access.

        Hashes that no job answers are missing.
        """
        standings = self._queue.standings(names)
        ended = all(standing.state in FINAL_STATES for standing in standings.values())
        typical, hindrance = (None, "") if ended else self._outlook()
        return {
            name: Progress(
                standing,
                self._forecast.remaining(standing, standing.ahead, typical),
                hindrance if standing.state is JobState.PENDING else "",
                self._forecast.is_late(standing, typical),
            )
            for name, standing in standings.items()
        }

    def outdated(self, job_ids: Mapping[str, int]) -> tuple[Collection[str], timedelta | None]:
        """Of hashes with the ids of their final jobs those that another job answers by now, or none.

        Also how long the others answer unless they are used, or something is changed; None for any time.
        """
        refused = {name: job_id for name, job_id in job_ids.items() if job_id < 0}
        stored = {name: job_ids[name] for name in job_ids.keys() - refused.keys()}
        names, expires_at = self._queue.outdated(stored) if stored else ((), None)
        if refused:
            unanswered = refused.keys() - self._queue.standings(refused).keys()
            true = {job.id for job in map(self._refused, unanswered) if job}
            names = [*names, *(name for name, job_id in refused.items() if job_id not in true)]
        return names, None if expires_at is None else expires_at - self._forecast.now()

    def lost(self, names: Sequence[str], *, checked: Sequence[str]) -> Sequence[str]:
        """Those of these completed builds that cannot be downloaded now.

        That is all of them while the store is missing, else those of `checked` whose files are gone.
        """
        if self._store.missing():
            return names
        return [name for name in checked if not self._store.holds(name)]

    def cancel(self, name: str, *, caller: Caller, cancel_token: str) -> BuildView:
        """Ends the live job of this hash, for an operator or with its first caller's secret.

        Raises `BuildNotFound`, `NotAllowed`, or `Conflict` when the build has ended, or when others
        have asked for it since.
        """
        job = self._queue.find(name) or self._refused(name)
        if job is None:
            raise BuildNotFound("could not find provided request hash")
        digest = None if caller.may(Right.OPERATE) else digest_of(cancel_token)
        self._cancellation.cancel(job, operator=caller.name, cancel_digest=digest)
        return self.look(name)

    def pending(self) -> int:
        """How many jobs wait."""
        return self._queue.pending()

    def _outlook(self) -> "_Outlook":
        hindrance = self._waiting_for()
        return None if hindrance else self._forecast.typical(), hindrance

    def _seen(
        self, job: Job, ahead: int | None, outlook: "_Outlook | None", cancel_token: str = ""
    ) -> BuildView:
        """Raises `Unavailable` where the request's script and keys cannot be read."""
        if job.withheld is not None:
            raise job.withheld
        typical, hindrance = outlook or (None, "")
        remaining = self._forecast.remaining(job, ahead, typical)
        waits = job.state is JobState.PENDING
        late = self._forecast.is_late(job, typical)
        return BuildView(job, ahead, remaining, hindrance if waits else "", cancel_token, late=late)

    def _is_new(self, name: str) -> bool:
        with suppress(Unavailable):
            return self._queue.find_id(name) is None
        return self._queue.find(name) is None

    def _name(self, request: BuildRequest, revision: str, rules: str) -> str:
        return request_hash(request, revision=revision, rules=rules, installed_key=self._installed_key())

    def _is_gone(self, job: Job) -> bool:
        if job.state is not JobState.COMPLETED:
            return False
        if isinstance(job.outcome, BuildResult) and not self._accepts_result(job.outcome):
            # Expired for every process, so that its files go too.
            with suppress(Unavailable):
                self._queue.expire(job.id)
            return True
        # Clients do not check the status of a download: never say done about files that are gone.
        if self._store.holds(job.request_hash):
            return False
        self._store.require_root()  # gone, or only not mounted?
        return True


_Outlook = tuple[timedelta | None, str]
"""How long a build takes, as far as can be told, and why none can run; "" where one can."""


class _Prepared(Struct, frozen=True):
    """A submission, the secret that its creator gets, and whether rate limits hold for it."""

    submission: Submission
    cancel_token: str
    limited: bool
    stale: AsuError | None = None
    """Why it can only be answered with a result that is there."""
