"""What is outside: containers, the store, the download server, rules, and what packages need."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Protocol

from asu_builder.domain.access import Rate
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import Image, Published, Traffic
from asu_builder.domain.make import CommandResult, ContainerSpec, Origin, OutputCallback
from asu_builder.domain.package_index import PackageIndex, PackageManager
from asu_builder.domain.packages import Baseline, PackageSelection
from asu_builder.domain.preflight import Foretold, PackageIndexes
from asu_builder.domain.release import Archive, ClientChange, Release, TargetProfiles, VersionList
from asu_builder.domain.request import BuildRequest
from asu_builder.domain.search import Device


class Container(Protocol):
    """One ImageBuilder, ours alone; none of its processes outlives the context that opened it."""

    identity: str
    """Names the ImageBuilder's content (image digest or directory): equal means equal answers."""
    origin: Origin
    workdir: str
    """Absolute path of the ImageBuilder inside the container, without a trailing slash."""
    warnings: Sequence[str]
    """What the operator or caller should know, for example an image that could not be refreshed."""
    is_proxied: bool
    """Whether it reaches nothing but what `allow` names, and that by `domain.addresses.plain_address`."""

    @property
    def traffic(self) -> Traffic | None:
        """What it had of its proxy, known when its context is left; None for one that has none."""

    def allow(self, urls: Sequence[str]) -> None:
        """Lets a container that `is_proxied` fetch what is at or below these http(s) addresses.

        Raises `EngineUnavailable` where its way out does not work, `Unavailable` where the proxy has ended.
        """

    def run(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        on_output: OutputCallback | None = None,
    ) -> CommandResult:
        """Runs one command in `workdir` with a clean environment (plus `environment`).

        `output` is a directory on this host; stdout and stderr are streamed into files there. `on_output` is
        told both as they come, also what the files have no room for. Raises `BuildFailed` for deadline,
        memory and disk limits, `BuildInterrupted` when the stop event was set, or `EngineUnavailable`.
        """

    def exists(self, path: str) -> bool:
        """Whether a plain file of this name (relative to `workdir`) exists."""

    def read_bytes(self, path: str) -> bytes:
        """The content of a plain file relative to `workdir`, at most 4 MiB.

        Raises `BuildFailed(UNTRUSTED_OUTPUT)` for a larger one or anything else of that name, `Unavailable`
        where there is none.
        """

    def write_files(self, files: Mapping[str, str]) -> None:
        """Puts texts at paths relative to `workdir`, making directories, owned by its user."""

    def collect(self, directory: str, into: Path) -> Sequence[str]:
        """Streams the plain files of an absolute inner directory into `into`; returns their names.

        Nothing that leaves a container is trusted: anything but plain files with plain names
        under the count and size caps is `BuildFailed(UNTRUSTED_OUTPUT)`. No directory: no names.
        """


class Runtime(Protocol):
    """Where ImageBuilders run."""

    def open(self, spec: ContainerSpec, *, stop: Event) -> AbstractContextManager[Container]:
        """A fresh container, started. Setting `stop` ends it early.

        When the context is left, whatever happens, no process of it lives any more, as far as the
        engine answers. It is removed in the background; where many wait for that, this waits first.
        Raises `BuildFailed(IMAGEBUILDER_MISSING)`, `RegistryUnavailable` or `EngineUnavailable`.
        """

    def make_ready(self, specs: Sequence[ContainerSpec], *, warm: int, stop: Event) -> int:
        """Has what these builds would need, before they are asked for; how many containers stand started.

        At most `warm` do, of the first specs, and no others than these. Each has seen nothing of a request,
        and is given to one build. Where ImageBuilders are copied for each build nothing is made ready.
        Raises `EngineUnavailable`.
        """

    def close(self) -> bool:
        """Ends what stands started, and waits a moment for what is still being removed.

        Whether nothing is left for the next sweep.
        """

    def sweep(self, *, keep: Callable[[Mapping[str, str]], bool]) -> int:
        """Removes this installation's containers whose labels `keep` does not want; how many."""

    def check(self) -> CheckResult:
        """Whether a build could start now, within a few seconds."""

    def check_registry(self) -> CheckResult:
        """Whether the container images of ImageBuilders can be had, as far as the last tries tell."""


class ArchiveSource(Protocol):
    """Packed ImageBuilders of the download server, for releases whose container image is missing."""

    def find(self, release: Release, target: str) -> Archive | None:
        """The archive that the signed list of checksums names for a target; None where upstream has none.

        Raises `ArchiveRefused` where there is no key for the release's line or the signature does not hold,
        and `UpstreamUnavailable`.
        """

    def fetch(self, archive: Archive, write: Callable[[bytes], object], *, stop: Event, ends: float) -> None:
        """Passes an archive to `write` as it arrives; it is to be used only when this returns.

        It does not go on after `ends`, in seconds of the monotonic clock. Raises `ArchiveRefused` for one
        that is too large or has another checksum, `UpstreamUnavailable`, or `BuildInterrupted`.
        """


class RemoteFile(Protocol):
    """A published file that is not on a disk of this host; for the event loop."""

    @property
    def size(self) -> int:
        """Bytes, as the result tells."""

    @property
    def etag(self) -> str:
        """Without quotes; no other content has the same."""

    @property
    def modified_at(self) -> datetime:
        """When it was published."""

    async def read(self, start: int, count: int) -> memoryview:
        """So many bytes from `start` on, within seconds.

        Raises `BuildNotFound` where the file is gone, and `StoreUnavailable` for everything else, a file of
        another length than the result tells among it.
        """

    def signed_url(self) -> str:
        """Where everybody can GET it for a while, without the host being asked. Reaches for nothing."""


class Store(Protocol):
    """Published images: one directory per request hash, never rewritten."""

    keeps_on_disk: bool
    """Whether images share the disk of `room` with builds: only then does removing them make room."""

    def publish(
        self, request_hash: str, scratch: Path, *, require_time: Callable[[], None] = ...
    ) -> Published:
        """Makes the files of a scratch directory the published ones, in one step, durably.

        `require_time` is called between files where each takes its time, and raises when the build may not
        go on. Where the answer names files, they are published when the job's result names them.

        Only the holder of the job's lease may call this: then files of that hash belong
        to no completed job (expired, or left by a crash before *completed*) and are taken away.
        """

    def hand_over(self, request_hash: str, scratch: Path, *, require_time: Callable[[], None] = ...) -> str:
        """Keeps the files of a scratch directory, durably, for another process; what names them.

        They are not published. A sweep removes them an hour later if no building job names them.
        """

    def take_over(
        self, request_hash: str, folder: str, into: Path, *, require_time: Callable[[], None] = ...
    ) -> None:
        """Copies what was handed over to an empty directory. Raises `HandedOverGone` if it is not there."""

    def discard(self, request_hash: str, folder: str) -> None:
        """Removes what was handed over, and is done too if it is not there."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh directory on a disk of this host, gone later; raises as `require_root`."""

    def locate(self, request_hash: str, name: str) -> Path | RemoteFile | None:
        """The published plain file, or None; never anything outside the store."""

    def holds(self, request_hash: str) -> bool:
        """Whether this hash is published."""

    def absent(self, request_hashes: Sequence[str]) -> Sequence[str]:
        """Those of these hashes that are not published, in the same order."""

    def owns(self, request_hash: str) -> bool:
        """Whether this installation has published it; what another has put there is not ours to touch."""

    def hold(self, request_hash: str, *, wait: bool = True) -> AbstractContextManager[None]:
        """Lets no process take away what is located; without `wait`, `BlockingIOError` while one does.

        Where `locate` gives a `RemoteFile`, that outlives its removal long enough, and nothing is held.
        """

    def remove(self, request_hash: str, *, confirm: Callable[[], bool] = ...) -> bool:
        """Takes a published directory away, and is done too if there is none.

        `confirm` is asked last, while nothing can be published, and must not wait; without its yes nothing is
        taken and False is the answer. Raises `StillRead` while it is held, and as `require_root` does.
        """

    def published(self) -> Iterable[str]:
        """The names in the store that are hashes, in no order, of any installation."""

    def require_root(self) -> None:
        """Passes where this is the store that results were put into; else raises `StoreUnavailable`.

        To be asked before anything is called lost: a disk that is not mounted leaves an empty directory.
        """

    def missing(self) -> str:
        """Why this is not the store that results were put into, as last seen; reads no disk. "" if it is."""

    def adopt(self) -> None:
        """Takes this for the store from now on, whatever lies in it; the operator has decided so."""

    def room(self) -> int:
        """Bytes of free disk above the floor, where scratch directories lie.

        Raises `StoreUnavailable`, which does not mean a full disk.
        """

    def sweep(self) -> int:
        """Removes scratch directories that no living process holds, removed files, and what was handed over.

        Of the last what no job names. Returns how many.
        """

    def check(self) -> CheckResult:
        """Whether images can be written now."""


class KeyHolder(Protocol):
    """Holds an Ed25519 key: a file, a program, a token or a service. The secret half never leaves it.

    All methods raise `SigningUnavailable`, whose sentence never repeats anything of the key.
    """

    def public_key(self) -> str:
        """The text of the public half's file, of usign or PEM; the same for as long as the service runs."""

    def examine(self) -> None:
        """Passes where the secret half is whole too, as far as can be told without signing."""

    def sign(self, path: Path) -> bytes:
        """The 64 bytes of an Ed25519 signature over a whole file, which is not empty. May take a minute."""


class ImageSigning(Protocol):
    """Signs what is published, as OpenWrt's devices check it. Safe to use from any thread.

    Whatever the key, its certificate or its holder lacks is `SigningUnavailable`; then nothing is changed.
    """

    @property
    def key_id(self) -> str:
        """The name of the key of today, 16 hexadecimal digits."""

    def require(self) -> None:
        """Passes where images could be signed now, as far as can be told without signing."""

    def is_revoked(self, key_id: str) -> bool:
        """Whether this server offers a revoker of the key; so in every process, once it is written."""

    def sign_image(self, image: Image, path: Path) -> Image:
        """Takes former signatures from an image and signs it in place; what it is then.

        An image without metadata, at whose end no device looks, gets a file `.sig` beside it. What was signed
        is verified. Raises `BuildFailed` for an image that is empty or ends in a broken trailer.
        """

    def sign_file(self, path: Path) -> None:
        """Writes a file `.sig` beside it."""

    def offers(self) -> Mapping[str, bytes]:
        """What everybody may have, by file name: the public key, its certificate, revokers."""

    def expires_at(self) -> datetime | None:
        """When the certificate expires; None without one."""

    def check(self) -> CheckResult:
        """Whether images can be signed; a warning in the last third of the certificate's time."""


class StatementSigning(Protocol):
    """Signs what the service states about its builds, with a key for that alone. Safe to use from any thread.

    Whatever the key or its holder lacks is `SigningUnavailable`.
    """

    def require(self) -> None:
        """Passes where statements could be signed now, as far as can be told without signing."""

    def sign_statement(self, statement: bytes) -> bytes:
        """The envelope that holds an in-toto statement and its signature: DSSE, one line of JSON."""

    def offers(self) -> Mapping[str, bytes]:
        """What everybody may have, by file name: the public key."""

    def check(self) -> CheckResult:
        """Whether statements can be signed."""


class Upstream(Protocol):
    """The download server's metadata: cached, revalidated, stale rather than none.

    `Unavailable` means that a document is not here. Within a `Reading` everything answers at once,
    and what is lacking is noted there; without one the call waits for it, up to ten seconds.
    """

    def check(self) -> CheckResult:
        """Degraded when the download server does not answer."""

    def versions(self) -> VersionList:
        """Every released version that upstream lists, and which are the latest."""

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        """Target → package architecture; None when upstream has no such version.

        Without `wait` the answer can be made without it: five seconds at most, and none after a failure.
        """

    def devices(self, release: Release) -> Sequence[Device] | None:
        """Every device of a version, the very same value until upstream's list changes.

        None for an unknown version. Where upstream lists no devices, those of the targets asked for before.
        """

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        """The profiles of one target; None when upstream does not have it."""

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        """`profiles.json` as JSON with one profile's keys lifted to the top; None when unknown."""

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        """Names without ABI suffix and versions, merged over the feeds of an architecture."""

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        """Names and versions of a target's own packages, its kernel modules among them."""


class PackageChanges(Protocol):
    """Rules that are always there: the last good ones where new ones cannot be had."""

    def apply(
        self,
        request: BuildRequest,
        *,
        default_packages: Sequence[str],
        baseline: Baseline | None,
        digest: str = "",
    ) -> PackageSelection:
        """What make is told instead of the request's packages.

        `default_packages` are the default and device packages of the version asked for; without a
        `baseline` nothing is guessed about what the device had. `digest` names the rules, of those that are
        `known`, "" the present ones. Raises `Unavailable` for others.
        """

    def digests(self, request: BuildRequest) -> tuple[str, str]:
        """Names what the rules may do to this request, and all of the rules, at one moment.

        The first is "" when none of them is about it.
        """

    def known(self) -> Sequence[str]:
        """Names all rules that can be applied: the present ones, and some that named requests before."""

    def client_changes(self) -> Sequence[ClientChange]:
        """Every change that clients are told."""

    def check(self) -> CheckResult:
        """Whether the rules are those that the operator wants."""


class RateWindows(Protocol):
    """Moving windows: what a caller had is counted until it is as old as the window is long."""

    def admit(self, key: str, rates: Sequence[Rate]) -> tuple[Rate, float] | None:
        """None when one more fits into the windows of all rates: it is counted in each of them.

        Otherwise it is counted in none: the full rate that has room last, and the seconds until then.
        """

    def take_back(self, key: str, amount: int) -> None:
        """Counts the latest so many no more, as if they had not been admitted."""


class SharedCopies(Protocol):
    """What the nodes of an installation make for each other, for a minute at most, and can lose.

    Each call may take a moment, so none is made on the event loop but `mark` and `forget`. A name begins with
    what it is of: `answer:` or `document:`.
    """

    def mark(self) -> int:
        """To be taken before something is read that is then `put`."""

    def get(self, name: str) -> bytes | None:
        """What a node has put under this name within the last minute; None where that cannot be told."""

    def put(self, name: str, content: bytes, *, since: int) -> None:
        """Lets others read it, unless anything was to be forgotten since that mark."""

    def forget(self, name: str) -> None:
        """It is not true any more. It is deleted within a second, or before anything else is read."""

    def reads(self) -> Mapping[tuple[str, str], int]:
        """How often a kind of copy was asked for, by what came of it: `hit`, `miss` or `failed`."""


class PackageIndexSource(Protocol):
    """The package indexes of the download server and of repositories that requests name."""

    def package_indexes(self, release: Release, target: str, architecture: str) -> PackageIndexes:
        """The indexes that the package manager of this release reads for a target: feeds, target, kmods.

        `PackageIndexes.lacking` says which are not readable or past their time. Within a `Reading` they are
        asked for beside: the answer waits five seconds for them at most, and only where they are not known.
        """

    def repository_index(self, name: str, url: str, manager: PackageManager) -> PackageIndex | None:
        """The index of a repository that a request names, kept like every document; None if not readable.

        To be called only for addresses that `require_allowed` has let pass.
        """


class PackageResolver(Protocol):
    """Says what apk or opkg would do with a selection, without either; safe to use from any thread."""

    def resolve(self, known: PackageIndexes, names: Sequence[str]) -> Foretold:
        """What is installed for these names, or why nothing can be.

        `names` are as make is told them: `-name` takes one away that another entry or a default would
        bring, and is no conflict; `!name` is apk's conflict. Defaults must be among them. Where `known`
        lacks something the verdict is never *impossible*. Never raises: a resolver that is killed, hangs or
        is not installed says *unknown* and why. Blocks for some milliseconds, for some hundred when it
        meets these indexes for the first time.
        """

    def close(self) -> None:
        """Ends what runs for it."""
