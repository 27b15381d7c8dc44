"""Every deliberate error, why a build can fail, and what exactly it failed at."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum

from msgspec import Struct, field

_NAMED = 20
"""Names in a sentence; all of them are in the problem beside it."""


class BuildProblem(Struct, frozen=True, omit_defaults=True):
    """What a person, or a program, can act on. What does not apply is empty."""

    missing: tuple[str, ...] = ()
    """Packages that do not exist, or cannot be installed on this device."""
    conflicts: tuple[str, ...] = ()
    """Packages that exclude each other."""
    needed_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a missing dependency, the packages that need it."""
    providers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a name that several packages may provide, those packages: one must be named."""
    refused: tuple[str, ...] = ()
    """Asked for and not installed, where the package manager does not say whether they exist."""
    undelivered: Mapping[str, str] = field(default_factory=dict)
    """Packages that the index lists and that could not be had, and why."""
    repositories: Mapping[str, str] = field(default_factory=dict)
    """Addresses of repositories that could not be used, and why."""
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Packages with the version asked for and the one there is; "" for none."""
    revisions: tuple[str, str] | None = None
    """The revision, or version, that was asked for, and the one that was found."""
    script: str = ""
    """The package whose install script failed."""
    size: int | None = None
    """Bytes of an image that did not fit."""
    limit: int | None = None
    """Bytes there were room for."""
    full: bool = False
    """Whether it was the root file system that had no room."""
    filesystems: tuple[str, ...] = ()
    """The file systems that were built where another was asked for."""

    def __bool__(self) -> bool:
        return self != _NOTHING

    def sentence(self) -> str:
        """Why a selection is impossible: the predecessor's first words, then what to do."""
        parts = []
        if self.missing:
            parts.append(f"missing ({some(self.missing)})")
        if self.conflicts:
            parts.append(f"conflicts ({some(self.conflicts)})")
        sentence = f"Error: Impossible package selection: {' '.join(parts)}"
        for name, needing in list(self.needed_by.items())[:_NAMED]:
            sentence += f". {name} is needed by {some(needing)}"
        for name, providers in list(self.providers.items())[:_NAMED]:
            sentence += f". {name} is provided by {some(providers)}: name one of these"
        if self.refused:
            sentence += f". Not installed: {some(self.refused)}"
        return sentence


_NOTHING = BuildProblem()


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


class AsuError(Exception):
    """Base of every error that is meant.

    Its text may name hosts, paths and what other programs said, for the log and for operators;
    `public` is what everybody may read.
    """

    @property
    def public(self) -> str:
        """What happened, without anything that is the operator's alone."""
        return str(self)


class RequestRejected(AsuError):
    """The request is well formed but cannot be served here (HTTP 400).

    `field` is the field of the request that it is about; "" for none, or for all.
    """

    def __init__(self, sentence: str, *, field: str = "") -> None:
        super().__init__(sentence)
        self.field = field


class RequestMalformed(RequestRejected):
    """The body does not say a build request at all; the text names the field (HTTP 422)."""


class BuildNotFound(AsuError):
    """There is no job with this hash, or no such file (HTTP 404)."""


class QueueFull(AsuError):
    """The queue holds as many jobs as it may (HTTP 429 with `Retry-After`)."""

    def __init__(self, pending: int, retry_after: int) -> None:
        super().__init__(f"server overload, queue contains too many build requests: {pending}")
        self.pending = pending
        self.retry_after = retry_after


class Unavailable(AsuError):
    """A part of the world does not answer (HTTP 503); inside a worker the job is given back."""

    public_sentence = "A part of this service does not answer. Try again in a moment."
    """What anonymous callers read; the sentence itself is the operator's."""

    def __init__(self, sentence: str, *, retry_after: int = 10, plain: bool = False) -> None:
        """`plain` says that the sentence names nothing that is the operator's alone."""
        super().__init__(sentence)
        self.retry_after = retry_after
        self._plain = plain

    @property
    def public(self) -> str:
        """What anonymous callers read."""
        return str(self) if self._plain else self.public_sentence


class PartUnavailable(Unavailable):
    """A part that builds need is down. It says nothing about the job, which is given back uncounted.

    Only where the part fails on one job again and again while it serves others, that job fails.

    `retry_after` is when the part is asked again, so nothing is gained by trying earlier.
    """

    part = ""
    """Its name in the health report."""


class EngineUnavailable(PartUnavailable):
    """The container engine does not answer or cannot start anything; no build can run."""

    public_sentence = "The container engine of this server does not work now. Try again later."
    part = "engine"


class RegistryUnavailable(PartUnavailable):
    """The registry does not deliver the container images of ImageBuilders; what is here can be built."""

    public_sentence = "The ImageBuilder could not be fetched now. Try again later."
    part = "registry"


class StoreUnavailable(PartUnavailable):
    """The store takes no images; no build can end well."""

    public_sentence = "The store of this server takes no images now. Try again later."
    part = "store"


class StoreFull(Unavailable):
    """The store's disk is full. It may be this very build that fills it, so it counts as a try."""

    public_sentence = "This server has no room for more images now. Try again later."


class NoRoom(Unavailable):
    """The machine that builds has no room left. It may be this very build's doing, so it counts as a try."""

    public_sentence = "The machine that builds has no room left. Try again later."


class SigningUnavailable(Unavailable):
    """The key, its certificate or the program that signs cannot be used; an operator must mend it."""

    public_sentence = "This server cannot sign images now. Try again later."


class HandedOverGone(Unavailable):
    """What was handed over to be signed is not in the store any more, or not as it was; it is built again."""

    public_sentence = "The images were lost before they were signed. Try again later."


class SecretsUnavailable(Unavailable):
    """The script and keys of a request cannot be decrypted; an operator must put the key back."""

    public_sentence = (
        "The first-boot script or the repository keys of this request cannot be read on this server now. "
        "Send the whole request again."
    )


class UpstreamUnavailable(PartUnavailable):
    """The download server does not answer and nothing usable is remembered."""

    public_sentence = "The download server of OpenWrt does not answer now. Try again later."
    part = "upstream"


class ArchiveRefused(AsuError):
    """The archive of an ImageBuilder is not used; the text is a sentence for the operator."""


class TooManyRequests(AsuError):
    """This caller has had its share of new builds (HTTP 429 with `Retry-After` in seconds)."""

    def __init__(self, sentence: str, *, retry_after: int) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class NotAuthenticated(AsuError):
    """The act needs a token, and none that is known was sent (HTTP 401)."""


class NotAllowed(AsuError):
    """The caller is known and may not do this (HTTP 403)."""


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


class Side(StrEnum):
    """Whose side a failure is on: it decides how long it is remembered, and whether it is retried."""

    USER = "user"
    """Surely the request's: it is remembered, and fails again in the same way."""
    INFRASTRUCTURE = "infrastructure"
    """Everything around this program, and whatever cannot be explained: another try may go well."""
    INTERNAL = "internal"
    """A mistake of this program."""

    @property
    def fault(self) -> "Fault":
        """The word for it that clients know."""
        return _FAULTS[self]


class Fault(StrEnum):
    """Whose side a failure is on, in the words that have always been on the wire."""

    USER = "user"
    WORLD = "world"
    OURS = "ours"


_FAULTS = {Side.USER: Fault.USER, Side.INFRASTRUCTURE: Fault.WORLD, Side.INTERNAL: Fault.OURS}


class FailureReason(StrEnum):
    """Why a build failed; stored, counted and shown, so names never change their meaning."""

    IMAGEBUILDER_MISSING = "imagebuilder_missing"
    SETUP_FAILED = "setup_failed"
    REVISION_MISMATCH = "revision_mismatch"
    NOT_OFFERED = "not_offered"
    UNKNOWN_PROFILE = "unknown_profile"
    BAD_REPOSITORY = "bad_repository"
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
    def side(self) -> Side:
        """Whose side it mostly is on, where a failure does not say it itself."""
        return _SIDES.get(self, Side.USER)

    @property
    def fault(self) -> Fault:
        """The same in the words of the wire."""
        return self.side.fault

    @property
    def is_final(self) -> bool:
        """Whether another try costs too much, or surely ends in the same way for hours."""
        return self in (self.IMAGEBUILDER_MISSING, self.DEADLINE)

    @property
    def retried(self) -> bool:
        """Whether the worker mostly tries again by itself, because waiting a little may help."""
        return self.side is Side.INFRASTRUCTURE and not self.is_final


_SIDES = {
    FailureReason.IMAGEBUILDER_MISSING: Side.INFRASTRUCTURE,
    FailureReason.SETUP_FAILED: Side.INFRASTRUCTURE,
    FailureReason.UNKNOWN_PROFILE: Side.INFRASTRUCTURE,
    FailureReason.NO_IMAGES: Side.INFRASTRUCTURE,
    FailureReason.DEADLINE: Side.INFRASTRUCTURE,
    FailureReason.UPSTREAM_UNREACHABLE: Side.INFRASTRUCTURE,
    FailureReason.WORLD_UNAVAILABLE: Side.INFRASTRUCTURE,
    FailureReason.UNTRUSTED_OUTPUT: Side.INTERNAL,
    FailureReason.INCOMPLETE_OUTPUT: Side.INTERNAL,
    FailureReason.GAVE_UP: Side.INTERNAL,
    FailureReason.INTERNAL: Side.INTERNAL,
}


class BuildFailed(AsuError):
    """A build ended without images; recorded once, then shown as 500 on the build's URL.

    `detail` is one or two sentences: what happened and what to do next. Clients show it; users
    search for its first words, which are the predecessor's. `side` is the reason's where none is
    given; `field` is the field of the request that it is about; `problem` has the names and numbers.
    """

    def __init__(
        self,
        reason: FailureReason,
        detail: str,
        *,
        side: Side | None = None,
        field: str = "",
        problem: BuildProblem | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.side = side or reason.side
        self.field = field
        self.problem = problem or BuildProblem()
        self.stdout = ""
        self.stderr = ""
        self.build_cmd: tuple[str, ...] = ()


def deadline_passed(deadline: timedelta) -> BuildFailed:
    """The build ran into its deadline."""
    minutes = deadline.total_seconds() / 60
    return BuildFailed(
        FailureReason.DEADLINE,
        f"Error: The build did not end within {minutes:.3g} minutes and was stopped. "
        "Try again in a minute, when the server may be less busy, or ask for fewer packages.",
    )
