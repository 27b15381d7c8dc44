"""Every deliberate error, and why a build can fail.

Services and adapters raise these and nothing else on purpose; `web/app.py` holds the one table
from class to HTTP status.
"""

from enum import StrEnum


class AsuError(Exception):
    """Base of every error that is meant; its text is fit for the person who asked."""


class RequestRejected(AsuError):
    """The request is well formed but cannot be served here (HTTP 400)."""


class RequestMalformed(RequestRejected):
    """The body does not say a build request at all; the text names the field (HTTP 422)."""


class BuildNotFound(AsuError):
    """Nobody knows this request hash or file (HTTP 404)."""


class QueueFull(AsuError):
    """The queue holds as many jobs as it may (HTTP 429 with `Retry-After`)."""

    def __init__(self, pending: int, retry_after: int) -> None:
        super().__init__(f"server overload, queue contains too many build requests: {pending}")
        self.pending = pending
        self.retry_after = retry_after


class Unavailable(AsuError):
    """A part of the world does not answer (HTTP 503); inside a worker the job is given back."""

    def __init__(self, sentence: str, *, retry_after: int = 10) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class PartUnavailable(Unavailable):
    """A part that builds need is down. It says nothing about the job, which is given back uncounted.

    Only where the part fails on one job again and again while it serves others, that job fails.

    `retry_after` is when the part is asked again, so nothing is gained by trying earlier.
    """

    part = ""
    """Its name in the health report."""


class EngineUnavailable(PartUnavailable):
    """The container engine does not answer or cannot start anything; no build can run."""

    part = "engine"


class RegistryUnavailable(PartUnavailable):
    """The registry does not deliver the container images of ImageBuilders; what is here can be built."""

    part = "registry"


class StoreUnavailable(PartUnavailable):
    """The store takes no images; no build can end well."""

    part = "store"


class StoreFull(Unavailable):
    """The store's disk is full. It may be this very build that fills it, so it counts as a try."""


class UpstreamUnavailable(PartUnavailable):
    """The download server does not answer and nothing usable is remembered."""

    part = "upstream"


class TooManyRequests(AsuError):
    """This asker has had its share of new builds (HTTP 429 with `Retry-After` in seconds)."""

    def __init__(self, sentence: str, *, retry_after: int) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class NotAuthenticated(AsuError):
    """The act needs a token, and none that is known was sent (HTTP 401)."""


class NotAllowed(AsuError):
    """Whoever asks is known and may not do this (HTTP 403)."""


class Conflict(AsuError):
    """The act does not fit how things are now (HTTP 409)."""


class StillRead(AsuError):
    """A result that is being downloaded is not taken away; housekeeping comes back later."""


class ServerMistake(AsuError):
    """Another server answered what no sound one would; its operator must mend it."""


class LeaseLost(AsuError):
    """Another worker owns the job now; whatever this one knows about it is void."""


class BuildInterrupted(AsuError):
    """The build was stopped from outside (shutdown, lost lease); says nothing about the request."""


class Fault(StrEnum):
    """Whose side a failure is on."""

    USER = "user"
    WORLD = "world"
    OURS = "ours"


class FailureReason(StrEnum):
    """Why a build failed; stored, counted and shown, so names never change their meaning."""

    IMAGEBUILDER_MISSING = "imagebuilder_missing"
    SETUP_FAILED = "setup_failed"
    REVISION_MISMATCH = "revision_mismatch"
    NOT_OFFERED = "not_offered"
    UNKNOWN_PROFILE = "unknown_profile"
    IMPOSSIBLE_SELECTION = "impossible_selection"
    VERSION_MISMATCH = "version_mismatch"
    TOO_BIG = "too_big"
    MAKE_FAILED = "make_failed"
    NO_IMAGES = "no_images"
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_LIMIT = "disk_limit"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    WORLD_UNAVAILABLE = "world_unavailable"
    UNTRUSTED_OUTPUT = "untrusted_output"
    INCOMPLETE_OUTPUT = "incomplete_output"
    GAVE_UP = "gave_up"
    EXPIRED = "expired"
    INTERNAL = "internal"

    @property
    def fault(self) -> Fault:
        """Whose side it is on; decides how long the failure is remembered."""
        return _FAULTS.get(self, Fault.USER)

    @property
    def retried(self) -> bool:
        """Whether waiting a little may help, so that the worker tries again by itself."""
        return self in (self.SETUP_FAILED, self.UPSTREAM_UNREACHABLE, self.WORLD_UNAVAILABLE)


_FAULTS = {
    FailureReason.IMAGEBUILDER_MISSING: Fault.WORLD,
    FailureReason.SETUP_FAILED: Fault.WORLD,
    FailureReason.UPSTREAM_UNREACHABLE: Fault.WORLD,
    FailureReason.WORLD_UNAVAILABLE: Fault.WORLD,
    FailureReason.UNTRUSTED_OUTPUT: Fault.OURS,
    FailureReason.INCOMPLETE_OUTPUT: Fault.OURS,
    FailureReason.GAVE_UP: Fault.OURS,
    FailureReason.INTERNAL: Fault.OURS,
}


class BuildFailed(AsuError):
    """A build ended without images; recorded once, then shown as 500 on the build's URL.

    `detail` is one or two sentences: what happened and what to do next. Clients show it; users
    search for its first words, which are the predecessor's.
    """

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.stdout = ""
        self.stderr = ""
        self.build_cmd: tuple[str, ...] = ()
