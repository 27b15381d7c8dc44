"""Requests that are refused before a build, because the package indexes say that none can end well."""

import logging
import math
import threading
import time
import zlib
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import MsgspecError, Struct, json

from asu_builder.core.catalog import Resolved
from asu_builder.core.preflight import Preflight
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import AsuError, FailureReason, TooManyRequests
from asu_builder.domain.job import BuildFailure, Job, JobState
from asu_builder.domain.preflight import Feasibility
from asu_builder.domain.reading import Reading, Sources
from asu_builder.domain.request import BuildRequest
from asu_builder.log_context import CURRENT_HASH
from asu_builder.ports import Statistics

_log = logging.getLogger(__name__)

_MOST_REFUSED = 1000
_MOST_REFUSED_BYTES = 3 << 20
_OVERHEAD = 2400
"""About what a refusal takes beside the request."""
_SAMPLE_SECONDS = 60.0
"""Of a target at most one build in so long is one that would have been refused."""
_SLOW_SECONDS, _REST_SECONDS = 2.0, 60.0
"""Others who submit wait for a verdict too: after a slow one none is asked for so long."""


_TOLD_SECONDS = 300.0
"""How long a refusal of another node lasts: what it was judged by may change there without a word."""
_LONGEST_TOLD = 7500
"""Characters that a database server passes on at once, and a little less."""
_LARGEST_TOLD = 1 << 20
_NO_CALLER = Caller("")


class _Announced(Struct, frozen=True):
    """A refusal as nodes tell it each other."""

    request_hash: str
    request: BuildRequest
    client: str
    at: datetime
    outcome: BuildFailure
    indexes: str


_DECODE_ANNOUNCED = json.Decoder(_Announced).decode


class _Refused(NamedTuple):
    """A refused request, and how long it stays refused."""

    job: Job
    indexes: str
    """`PackageIndexes.digest` of what it was judged by."""
    sources: Sources
    until: float
    size: int


class Refusals:
    """Requests that are refused before a build, because no build of them can end well.

    They are kept in memory alone, within bounds, for as long as the documents that they were judged by say
    the same, so that nothing a stranger asks for takes room in the database. Each is told as a failed job
    with a negative id. Why so: docs/decisions/refused-before-the-build.md. For any thread.
    """

    def __init__(
        self,
        preflight: Preflight,
        *,
        is_enforced: Callable[[str, str], bool],
        sample: Callable[[str, str], bool],
        is_idle: Callable[[], bool],
        limit: Callable[[str], TooManyRequests | None],
        statistics: Statistics,
        ttl: timedelta,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`is_enforced` says whether verdicts hold for a release's path and a target.

        `sample` says of the same whether the next one is built nevertheless, so that the verdict can be
        proved wrong, and counts it; it is asked only while a worker `is_idle`. `limit` admits one more look
        of a caller without a token. `ttl` is how long a refusal lasts at most; `clock` counts seconds.
        `announce` passes a line on to the other nodes, which `adopt` it.
        """
        self._preflight = preflight
        self._is_enforced = is_enforced
        self._sample = sample
        self._is_idle = is_idle
        self._limit = limit
        self._statistics = statistics
        self._ttl = ttl
        self._now = now
        self._clock = clock
        self._announce = announce
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Refused] = OrderedDict()
        self._size = 0
        self._last_id = 0
        self._sampled: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When one of a release and target was built all the same; the oldest first."""
        self._rests_until = -math.inf

    def may_judge(self, found: Resolved) -> bool:
        """Whether a request may be refused at all; costs next to nothing."""
        if self._clock() < self._rests_until:
            return False
        try:
            return self._is_enforced(found.release.path, found.request.target) and self._preflight.knows(
                found
            )
        except AsuError:
            return False

    def judge(
        self, found: Resolved, name: str, *, reading: Reading, caller: Caller, client: str
    ) -> Job | None:
        """The refusal of a request that no job answers and that `may_judge`; None where it is to be built.

        To be called within the reading. Where that `lacks` documents afterwards nothing was decided yet.
        Whatever goes wrong, the request is built.
        """
        try:
            return self._judge(found, name, reading, caller, client)
        except AsuError as error:
            _log.debug("nothing was foretold: %s", error)
        except Exception:  # noqa: BLE001 - a build finds out by itself what can be installed
            _log.exception("foretelling a build failed: a bug")
        return None

    def find(self, name: str) -> Job | None:
        """The refusal under this hash, as long as it lasts; never waits."""
        kept = self._find(name)
        return None if kept is None else kept.job

    def forget(self, name: str) -> bool:
        """Drops the refusal under this hash, so that the request is judged again; whether there was one."""
        with self._lock:
            return self._drop(name)

    def adopt(self, line: str) -> None:
        """Answers, too, what another node has refused; any line is taken, one that makes no sense is left."""
        try:
            unpacked = zlib.decompressobj().decompress(b64decode(line, validate=True), _LARGEST_TOLD)
            found = _DECODE_ANNOUNCED(unpacked)
        except (ValueError, zlib.error, MsgspecError) as error:
            _log.debug("a refusal of another version is not understood: %s", error)
            return
        if self._find(found.request_hash) is None:
            job = self._make_job(
                found.request, found.request_hash, found.outcome, at=found.at, client=found.client
            )
            self._keep(job, found.indexes, Sources(), seconds=_TOLD_SECONDS)

    def _announce_refusal(self, job: Job, indexes: str) -> None:
        request, failure = job.request, job.outcome
        # What is secret is stored nowhere as it is, and the server writes down what it passes on.
        if request.defaults or request.repository_keys or not isinstance(failure, BuildFailure):
            return
        announced = _Announced(job.request_hash, request, job.client, job.enqueued_at, failure, indexes)
        line = b64encode(zlib.compress(json.encode(announced))).decode()
        if len(line) <= _LONGEST_TOLD:
            self._announce(line)

    def _judge(self, found: Resolved, name: str, reading: Reading, caller: Caller, client: str) -> Job | None:
        place = found.release.path, found.request.target
        known = self._preflight.indexes(found)
        if reading.lacks:
            return None
        former = self._find(name)
        if former is not None:
            if not known.lacking and known.digest == former.indexes:
                return former.job
            self.forget(name)
        # Nothing certain can be told without an index, so nothing is asked.
        if known.lacking or (caller.token is None and self._limit(caller.name) is not None):
            return None
        began = self._clock()
        foretold = self._preflight.foretell(found, known=known).foretold
        took = self._clock() - began
        if took > _SLOW_SECONDS:
            self._rests_until = self._clock() + _REST_SECONDS
            _log.warning("Foretelling took %.1f s; new requests are built unjudged for a minute", took)
        if reading.lacks or foretold.verdict is not Feasibility.IMPOSSIBLE:
            return None
        if self._is_sampled(place):
            _log.info("built though foretold as impossible, to compare: %s", foretold.problem.sentence())
            return None
        failure = BuildFailure(
            FailureReason.IMPOSSIBLE_SELECTION,
            foretold.problem.sentence(),  # the very text of a failed build: users search for it
            field="packages",
            problem=foretold.problem,
        )
        job = self._make_job(found.request, name, failure, at=self._now(), client=client, caller=caller)
        self._keep(job, known.digest, reading.sources, seconds=self._ttl.total_seconds())
        self._announce_refusal(job, known.digest)
        reason = FailureReason.IMPOSSIBLE_SELECTION
        self._statistics.record("refused", job.request, client=client, reason=reason, side=reason.side)
        token = CURRENT_HASH.set(name)
        _log.info("build refused: %s", foretold.problem.sentence())
        CURRENT_HASH.reset(token)
        return job

    def _find(self, name: str) -> _Refused | None:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                return None
            if self._clock() >= kept.until or not kept.sources.unchanged:
                self._drop(name)
                return None
            self._kept.move_to_end(name)
            return kept

    def _is_sampled(self, place: tuple[str, str]) -> bool:
        """Whether this one is to be built, whatever was foretold."""
        since = self._clock() - _SAMPLE_SECONDS
        with self._lock:
            while self._sampled and next(iter(self._sampled.values())) <= since:
                self._sampled.popitem(last=False)
            if place in self._sampled:
                return False
        if not self._is_idle() or not self._sample(*place):
            return False
        with self._lock:
            self._sampled[place] = self._clock()
        return True

    def _make_job(
        self,
        request: BuildRequest,
        name: str,
        failure: BuildFailure,
        *,
        at: datetime,
        client: str,
        caller: Caller = _NO_CALLER,
    ) -> Job:
        with self._lock:
            self._last_id -= 1
            job_id = self._last_id
        return Job(
            job_id,
            name,
            request,
            JobState.FAILED,
            at,
            client=client,
            caller=caller.name,
            priority=caller.priority,
            finished_at=at,
            reason=failure.reason,
            outcome=failure,
        )

    def _keep(self, job: Job, indexes: str, sources: Sources, *, seconds: float) -> None:
        size = _OVERHEAD + len(json.encode((job.request, job.outcome)))
        until = self._clock() + min(seconds, self._ttl.total_seconds())
        with self._lock:
            self._drop(job.request_hash)
            self._kept[job.request_hash] = _Refused(job, indexes, sources, until, size)
            self._size += size
            while len(self._kept) > _MOST_REFUSED or self._size > _MOST_REFUSED_BYTES:
                self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> bool:
        kept = self._kept.pop(name, None)
        self._size -= kept.size if kept else 0
        return kept is not None
