"""Turns one request into published images; reads like a recipe."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

from asu_builder.core.imagebuilder import ImageBuilder
from asu_builder.domain.announced import Announced
from asu_builder.domain.errors import (
    BuildFailed,
    BuildInterrupted,
    BuildProblem,
    FailureReason,
    Side,
    deadline_passed,
)
from asu_builder.domain.job import BuildResult, Image, Job, Stage
from asu_builder.domain.make import ImageBuilderInfo
from asu_builder.domain.packages import Baseline, PackageSelection, warn_of_odd_packages
from asu_builder.domain.profiles_json import (
    MAX_BYTES,
    TRAILER_BYTES,
    BuiltImage,
    parse_built,
    signature_length,
)
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import ContainerSpec, OutputCallback, PackageChanges, Runtime, Store

_CHUNK_BYTES = 1 << 20


def describe_images(
    directory: Path,
    request: BuildRequest,
    *,
    require_time: Callable[[], None] = lambda: None,
    own_numbering: bool = False,
) -> tuple[dict[str, object], tuple[Image, ...]]:
    """The lifted `profiles.json` and the verified images of a build in `directory`.

    Raises `BuildFailed` when anything is missing or is not what it is said to be. `require_time` is
    called between pieces of files, and raises when the build may not go on. With `own_numbering` the
    version that the ImageBuilder tells may be any.
    """
    built = parse_built(_read(directory / "profiles.json"), request.profile)
    if built.version and built.version != request.version and not own_numbering:
        raise BuildFailed(
            FailureReason.REVISION_MISMATCH,
            f"Error: Received incorrect version {built.version} (requested {request.version}). "
            "The ImageBuilder is another version's; try again later.",
            side=Side.INFRASTRUCTURE,
            field="version",
            problem=BuildProblem(revisions=(request.version, built.version)),
        )
    images: dict[str, Image] = {}
    for entry in built.images:
        name, stated = _find(directory, entry)
        if name not in images:
            images[name] = _verify(directory / name, entry, stated, require_time)
    if not images:
        raise BuildFailed(
            FailureReason.NO_IMAGES,
            f"Error: No image was built for {request.profile}. The request itself may be fine; try again "
            "later.",
        )
    return built.description, tuple(images[name] for name in sorted(images))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _incomplete("No JSON file found") from None
    if len(content) > MAX_BYTES:
        raise _incomplete("JSON file too big")
    return content


def _find(directory: Path, entry: BuiltImage) -> tuple[str, str | None]:
    """The name of the file, and the digest it should have."""
    if (directory / entry.name).is_file():
        return entry.name, entry.sha256
    if (directory / f"{entry.name}.gz").is_file():
        # Some targets compress after describing: name, digest and size are the intermediate's.
        return f"{entry.name}.gz", None
    raise _incomplete(f"Image {entry.name} is listed but missing")


def _verify(path: Path, entry: BuiltImage, stated: str | None, require_time: Callable[[], None]) -> Image:
    sha256, sha256_unsigned = _digests(path, require_time)
    if stated is not None and stated != sha256:
        raise _incomplete(f"Image {path.name} is not what profiles.json says")
    return Image(
        name=path.name,
        type=entry.type,
        sha256=sha256,
        sha256_unsigned=sha256_unsigned,
        size=path.stat().st_size,
        filesystem=entry.filesystem,
    )


def _digests(path: Path, require_time: Callable[[], None]) -> tuple[str, str]:
    """SHA-256 of the file, and of what a signature at its end covers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TRAILER_BYTES))
        unsigned_left = size - signature_length(file.read(TRAILER_BYTES), size)
        file.seek(0)

        def pieces(left: int) -> Iterator[bytes]:
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                require_time()
                left -= len(chunk)
                yield chunk

        unsigned = hashlib.sha256()
        for piece in pieces(unsigned_left):
            unsigned.update(piece)
        whole = unsigned.copy()
        for piece in pieces(size - unsigned_left):
            whole.update(piece)
    return whole.hexdigest(), unsigned.hexdigest()


def _incomplete(what: str) -> BuildFailed:
    return BuildFailed(FailureReason.INCOMPLETE_OUTPUT, f"Error: {what}")


class Pipeline:
    """Builds with one runtime into one store; one call per job, from any thread."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        *,
        release: Callable[[str], Release],
        package_changes: PackageChanges,
        baseline: Callable[[BuildRequest], Baseline | None],
        announced: Callable[[BuildRequest], Announced] = lambda _: Announced(),
        released_revision: Callable[[BuildRequest], str] = lambda _: "",
        repository_status: Callable[[str], int] = lambda _: 0,
        upstream_url: str,
        job_timeout: timedelta,
    ) -> None:
        self._release = release
        self._package_changes = package_changes
        self._baseline = baseline
        self._announced = announced
        self._released_revision = released_revision
        self._repository_status = repository_status
        self._runtime = runtime
        self._store = store
        self._upstream_url = upstream_url
        self._job_timeout = job_timeout
        # Packed text, because the service would else grow by what every ImageBuilder offers.
        self._known_info: dict[str, bytes] = {}

    def build(
        self,
        job: Job,
        *,
        labels: dict[str, str],
        advance: Callable[[Stage], None],
        stop: Event,
        on_output: OutputCallback | None = None,
    ) -> BuildResult:
        """The published result of a job; `on_output` is told what its commands print.

        Raises `BuildFailed`, `BuildInterrupted` when `stop` was set, `LeaseLost` from `advance`,
        or `Unavailable` for what the world did.
        """
        request, since = job.request, time.monotonic()
        release = self._release(request.version)
        spec = ContainerSpec(release, request.target, self._job_timeout, labels=labels)
        with self._store.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            advance(Stage.CONTAINER_SETUP)
            self._baseline_of(request)  # asked early, so that upstream's answer is there when it is needed
            with self._runtime.open(spec, stop=stop) as container:
                imagebuilder = ImageBuilder(
                    container,
                    scratch,
                    known_info=self._known_info,
                    on_output=on_output,
                    announced=self._announced,
                    status=self._repository_status,
                )
                imagebuilder.set_up(request, release, upstream_url=self._upstream_url)
                advance(Stage.VALIDATE_REVISION)
                info = imagebuilder.info()
                imagebuilder.require_revision(request, info, released=self._released_revision(request))
                defaults = (*info.default_packages, *info.profiles[request.profile].packages)
                selection = self._select(request, info, defaults)
                advance(Stage.VALIDATE_MANIFEST)
                manifest = imagebuilder.resolve(request, selection, defaults)
                advance(Stage.BUILDING_IMAGE)
                imagebuilder.build(
                    request,
                    selection.packages,
                    extra_name=job.request_hash[:12],
                    into=images,
                    defaults=defaults,
                )
                imagebuilder.warnings += container.warnings
            with imagebuilder.blamed():
                require_time = partial(_require_time, stop, since, self._job_timeout)
                description, verified = describe_images(
                    images, request, require_time=require_time, own_numbering=release.own_numbering
                )
                imagebuilder.require_filesystem(request, verified)
            advance(Stage.BUILDING_IMAGE)  # proves that the lease is still ours, right before publishing
            stored_bytes = self._store.publish(job.request_hash, images)
        return BuildResult(
            description=description,
            images=verified,
            manifest=manifest,
            build_cmd=imagebuilder.build_cmd,
            packages=selection.packages,
            stdout=imagebuilder.stdout,
            stderr=imagebuilder.stderr,
            warnings=tuple(imagebuilder.warnings),
            package_changes=selection.record,
            stored_bytes=stored_bytes,
        )

    def _select(
        self, request: BuildRequest, info: ImageBuilderInfo, defaults: Sequence[str]
    ) -> PackageSelection:
        selection = self._package_changes.apply(
            request, default_packages=defaults, baseline=self._baseline_of(request)
        )
        odd = (*info.odd_packages, *info.profiles[request.profile].odd_packages)
        return warn_of_odd_packages(selection, odd) if request.diff_packages and odd else selection

    def _baseline_of(self, request: BuildRequest) -> Baseline | None:
        return self._baseline(request) if request.diff_packages else None


def _require_time(stop: Event, since: float, most: timedelta) -> None:
    """Raises what ends a build from outside: it holds for reading what a build left, too."""
    if stop.is_set():
        raise BuildInterrupted("The build was stopped; it will be tried again.")
    if time.monotonic() - since > most.total_seconds():
        raise deadline_passed(most)
