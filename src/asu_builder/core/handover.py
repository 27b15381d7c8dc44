"""From verified images to a published result, here or, where the keys are elsewhere, in another process."""

import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

import msgspec
from msgspec import Struct, field

from asu_builder.core.images import Signatures, complete_files, digest_of
from asu_builder.core.metrics import StepTimer
from asu_builder.core.provenance import ProvenanceWriter
from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
    HandedOverGone,
    SigningUnavailable,
    deadline_passed,
)
from asu_builder.domain.job import BuildResult, HandedOver, Image, Job, Stage, Traffic
from asu_builder.domain.make import Origin, Step
from asu_builder.domain.package_index import FoundPackage, FoundPackages, PackageIndex, PackageManager
from asu_builder.domain.packages import PackageChangesRecord
from asu_builder.domain.provenance import Built
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import ImageSigning, Store

DOCUMENT = ".handed-over.json"
"""Beside the images: what is to be told of them. The name of no published file."""


class Unfinished(Struct, frozen=True):
    """A build whose images are verified: what its result will say beside what signing adds."""

    built: Built
    description: Mapping[str, object]
    images: tuple[Image, ...]
    build_cmd: tuple[str, ...]
    stdout: str
    stderr: str
    warnings: tuple[str, ...]
    package_changes: PackageChangesRecord
    indexes: str
    traffic: Traffic | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class _Index(Struct, frozen=True):
    name: str
    address: str
    digest: str
    manager: PackageManager
    is_foreign: bool


class _Document(Struct, frozen=True):
    """An `Unfinished` as it lies in the store, without the request, which may hold secrets."""

    sizes: Mapping[str, int]
    """Of every other file that lies there."""
    manifest: Mapping[str, str]
    manager: PackageManager | None
    found: Mapping[str, FoundPackage]
    found_in: tuple[_Index, ...]
    origin: Origin
    carried: bool
    packages: tuple[str, ...]
    program: str
    upstream_url: str
    description: Mapping[str, object]
    images: tuple[Image, ...]
    build_cmd: tuple[str, ...]
    stdout: str
    stderr: str
    warnings: tuple[str, ...]
    package_changes: PackageChangesRecord
    indexes: str
    traffic: Traffic | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


_DOCUMENTS = msgspec.json.Decoder(_Document)


class Finishing:
    """Signs and publishes what was built into one store; for any thread."""

    def __init__(
        self,
        store: Store,
        *,
        signing: ImageSigning | None = None,
        signing_required: bool = False,
        provenance: ProvenanceWriter | None = None,
        has_keys: bool = True,
        program: str = "",
        upstream_url: str = "",
        job_timeout: timedelta,
    ) -> None:
        """Without `has_keys` nothing is signed or published here: it is handed over.

        `program` is the version of this one, and `upstream_url` where it reads package indexes: the statement
        of another process names them.
        """
        self._store = store
        self._signing = signing
        self._signing_required = signing_required
        self._provenance = provenance
        self._has_keys = has_keys
        self._program = program
        self._upstream_url = upstream_url
        self._job_timeout = job_timeout

    @property
    def key(self) -> str:
        """The name of the key that has to sign; "" where none has, or where it cannot be document."""
        with contextlib.suppress(SigningUnavailable):
            return self._signing.key_id if self._signing else ""
        return ""

    def require(self) -> None:
        """Raises `SigningUnavailable` where a build would be in vain."""
        if self._has_keys:
            Signatures(self._signing, required=self._signing_required).require()
            if self._provenance:
                self._provenance.require()

    def finish(
        self,
        job: Job,
        images: Path,
        build: Unfinished,
        *,
        advance: Callable[[Stage], None],
        require_time: Callable[[], None],
    ) -> BuildResult | HandedOver:
        """Signs and publishes what lies in a scratch directory, or hands it over.

        What is handed over is not published until the queue was told of it. Raises `BuildFailed`, or
        `Unavailable` for what the world did.
        """
        if self._has_keys:
            return self._publish(job, images, build, advance, require_time)
        (images / DOCUMENT).write_bytes(msgspec.json.encode(self._document(images, build)))
        folder = self._store.hand_over(job.request_hash, images, require_time=require_time)
        return HandedOver(folder, self.key, 0.0)

    def sign(self, job: Job, *, advance: Callable[[Stage], None], stop: Event) -> BuildResult:
        """The published result of a job whose images another process has handed over.

        These stay until `discard`: a process that is stopped in between leaves them to the next one.
        Raises `HandedOverGone` where they are not what was handed over; else as `finish`.
        """
        assert job.handed_over
        require_time = partial(raise_when_over, stop, time.monotonic(), self._job_timeout)
        request = job.whole_request
        self.require()
        with self._store.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            advance(Stage.SIGNING_IMAGES)
            self._store.take_over(job.request_hash, job.handed_over.folder, images, require_time=require_time)
            build = _read(images, request, require_time)
            return self._publish(job, images, build, advance, require_time)

    def discard(self, job: Job) -> None:
        """Takes away what was handed over, when the job has its result. What fails is left to a sweep."""
        if job.handed_over:
            with contextlib.suppress(AsuError):
                self._store.discard(job.request_hash, job.handed_over.folder)

    def _publish(
        self,
        job: Job,
        images: Path,
        build: Unfinished,
        advance: Callable[[Stage], None],
        require_time: Callable[[], None],
    ) -> BuildResult:
        signatures, steps = Signatures(self._signing, required=self._signing_required), StepTimer()
        steps.enter(Step.SIGN)
        if self._signing:
            advance(Stage.SIGNING_IMAGES)
        try:
            completed = complete_files(
                images,
                job,
                build.built,
                build.description,
                build.images,
                signatures=signatures,
                provenance=self._provenance,
                require_time=require_time,
            )
        except BuildFailed as failure:
            failure.stdout, failure.stderr, failure.build_cmd = build.stdout, build.stderr, build.build_cmd
            raise
        # Proves that the lease is still ours, right before publishing.
        advance(Stage.SIGNING_IMAGES if self._signing else Stage.BUILDING_IMAGE)
        steps.enter(Step.PUBLISH)
        published = self._store.publish(job.request_hash, images, require_time=require_time)
        spent = steps.durations()
        return BuildResult(
            **completed,
            manifest=build.built.manifest,
            build_cmd=build.build_cmd,
            packages=tuple(build.built.packages),
            stdout=build.stdout,
            stderr=build.stderr,
            warnings=(*build.warnings, *signatures.warnings),
            package_changes=build.package_changes,
            stored_bytes=published.stored_bytes,
            files=published.files,
            indexes=build.indexes,
            traffic=build.traffic,
            seconds={**build.seconds, "sign": spent["sign"], "publish": spent["publish"]},
        )

    def _document(self, images: Path, build: Unfinished) -> _Document:
        built = build.built
        return _Document(
            sizes={path.name: path.stat().st_size for path in images.iterdir() if path.name != DOCUMENT},
            manifest=built.manifest,
            manager=built.found.manager,
            found=built.found.packages,
            found_in=tuple(
                _Index(index.name, index.address, index.digest, index.manager, index.is_foreign)
                for index in built.found.indexes
            ),
            origin=built.origin,
            carried=built.carried,
            packages=tuple(built.packages),
            program=self._program,
            upstream_url=self._upstream_url,
            description=build.description,
            images=build.images,
            build_cmd=build.build_cmd,
            stdout=build.stdout,
            stderr=build.stderr,
            warnings=build.warnings,
            package_changes=build.package_changes,
            indexes=build.indexes,
            traffic=build.traffic,
            seconds=build.seconds,
        )


def _read(images: Path, request: BuildRequest, require_time: Callable[[], None]) -> Unfinished:
    """What was handed over, in every file as it was."""
    path = images / DOCUMENT
    try:
        document = _DOCUMENTS.decode(path.read_bytes())
        path.unlink()
        sizes = {entry.name: entry.stat().st_size for entry in images.iterdir()}
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise HandedOverGone("What was handed over to be signed cannot be read.") from error
    if sizes != document.sizes:
        raise HandedOverGone("Of what was handed over to be signed not every file is there, or whole.")
    for image in document.images:
        require_time()
        if image.name not in sizes or digest_of(images / image.name) != image.sha256:
            raise HandedOverGone(f"Image {image.name} is not what was handed over to be signed.")
    indexes = tuple(
        PackageIndex(it.name, it.address, it.digest, it.manager, lambda: None, it.is_foreign)
        for it in document.found_in
    )
    built = Built(
        request,
        document.manifest,
        FoundPackages(document.manager, document.found, indexes),
        document.origin,
        document.carried,
        document.packages,
        document.program,
        document.upstream_url,
    )
    return Unfinished(
        built,
        document.description,
        document.images,
        document.build_cmd,
        document.stdout,
        document.stderr,
        document.warnings,
        document.package_changes,
        document.indexes,
        document.traffic,
        document.seconds,
    )


def raise_when_over(stop: Event, since: float, most: timedelta) -> None:
    """Raises what ends a build from outside: it holds for reading what a build left, too."""
    if stop.is_set():
        raise BuildInterrupted("The build was stopped; it will be tried again.")
    if time.monotonic() - since > most.total_seconds():
        raise deadline_passed(most)
