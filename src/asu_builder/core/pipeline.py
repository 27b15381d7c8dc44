"""Turns one request into published images: the recipe, and the conversation with an ImageBuilder."""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event

from msgspec.structs import replace

from asu_builder.core.images import Completed, Signatures, complete_files, describe_images
from asu_builder.core.preflight import learn_carried
from asu_builder.core.provenance import ProvenanceWriter
from asu_builder.domain import make
from asu_builder.domain.diagnosis import (
    ALWAYS_THERE,
    blame_feed,
    blame_filesystem,
    blame_make,
    blame_repository,
    parse_available_filesystems,
)
from asu_builder.domain.errors import (
    BuildFailed,
    BuildInterrupted,
    FailureReason,
    deadline_passed,
    some,
)
from asu_builder.domain.job import BuildResult, Image, Job, Stage
from asu_builder.domain.make import (
    Announced,
    Circumstances,
    CommandResult,
    ContainerSpec,
    ImageBuilderInfo,
    OutputCallback,
    require_revision,
    require_versions,
)
from asu_builder.domain.package_index import FoundPackages
from asu_builder.domain.packages import (
    Baseline,
    PackageSelection,
    find_too_big,
    too_big_sentence,
    warn_of_odd_packages,
    with_ucert,
)
from asu_builder.domain.provenance import Built
from asu_builder.domain.release import Release
from asu_builder.domain.repositories import APK, OPKG, key_files, render_repositories
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import Container, ImageSigning, PackageChanges, PreflightRecords, Runtime, Store

SHOWN_OUTPUT_BYTES = 64 << 10
"""How much of a command's output an answer carries; the end of it, where the reason stands."""
_READ_OUTPUT_BYTES = 1 << 20
_KNOWN = 256
"""ImageBuilders of which `make info` is remembered: packed a few kilobytes each, read up to 300."""
_FILES = "asu-files"
_DEFAULTS_SCRIPT = f"{_FILES}/etc/uci-defaults/99-asu-defaults"
_BIN_DIR = "asu-images"
_APK_PROGRAM = "staging_dir/host/bin/apk"
# The pattern by which setup.sh finds the archive in upstream's sha256sums.
_DOWNLOAD_FILE = "imagebuilder-.*x86_64.tar."


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
        records: PreflightRecords | None = None,
        indexes: Callable[[BuildRequest], str] = lambda _: "",
        signing: ImageSigning | None = None,
        signing_required: bool = False,
        provenance: ProvenanceWriter | None = None,
        installed_key: tuple[str, str] | None = None,
        found_packages: Callable[[BuildRequest, Mapping[str, str]], FoundPackages] = lambda *_: (
            FoundPackages()
        ),
        upstream_url: str,
        job_timeout: timedelta,
    ) -> None:
        """`records` keeps what ImageBuilders bring along; `indexes` names a request's package indexes.

        `found_packages` tells what they say of the packages of a manifest; `installed_key` is the name and
        the text of the public key that images trust.
        """
        self._signing = signing
        self._signing_required = signing_required
        self._provenance = provenance
        self._installed_key = installed_key
        self._release = release
        self._package_changes = package_changes
        self._baseline = baseline
        self._announced = announced
        self._released_revision = released_revision
        self._repository_status = repository_status
        self._records = records
        self._indexes = indexes
        self._found_packages = found_packages
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
        request, since = job.whole_request, time.monotonic()
        signatures = Signatures(self._signing, required=self._signing_required)
        signatures.require()
        if self._provenance:
            self._provenance.require()
        release = self._release(request.version)
        spec = ContainerSpec(release, request.target, self._job_timeout, labels=labels)
        with self._store.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            advance(Stage.CONTAINER_SETUP)
            if request.diff_packages:
                self._baseline(request)  # asked early, so that upstream's answer is there when it is needed
            with self._runtime.open(spec, stop=stop) as container:
                imagebuilder = ImageBuilder(
                    container,
                    request,
                    scratch,
                    known_info=self._known_info,
                    on_output=on_output,
                    announced=self._announced,
                    status=self._repository_status,
                    installed_key=self._installed_key,
                )
                with imagebuilder.blamed():
                    imagebuilder.set_up(release, upstream_url=self._upstream_url)
                    advance(Stage.VALIDATE_REVISION)
                    info = imagebuilder.inspect(released=self._released_revision(request))
                    selection = self._package_changes.apply(
                        request,
                        default_packages=imagebuilder.defaults,
                        baseline=self._baseline(request) if request.diff_packages else None,
                        digest=job.terms.rules,
                    )
                    if self._installed_key:
                        selection = with_ucert(selection)
                    odd = (*info.odd_packages, *info.profiles[request.profile].odd_packages)
                    if request.diff_packages and odd:
                        selection = warn_of_odd_packages(selection, odd)
                    advance(Stage.VALIDATE_MANIFEST)
                    manifest = self._resolve(imagebuilder, selection, release=release, revision=info.revision)
                    indexes = self._indexes(request)
                    found = self._found_packages(request, manifest)
                    advance(Stage.BUILDING_IMAGE)
                    imagebuilder.build(selection.packages, extra_name=job.request_hash[:12], into=images)
                imagebuilder.warnings += container.warnings
            require_time = partial(_require_time, stop, since, self._job_timeout)
            carried = imagebuilder.identity is not None
            built = Built(request, manifest, found, container.origin, carried, selection.packages)
            completed = self._complete(job, images, imagebuilder, signatures, built, advance, require_time)
            # Proves that the lease is still ours, right before publishing.
            advance(Stage.SIGNING_IMAGES if self._signing else Stage.BUILDING_IMAGE)
            published = self._store.publish(job.request_hash, images, require_time=require_time)
        return BuildResult(
            **completed,
            manifest=manifest,
            build_cmd=imagebuilder.build_cmd,
            packages=selection.packages,
            stdout=imagebuilder.stdout,
            stderr=imagebuilder.stderr,
            warnings=tuple(imagebuilder.warnings),
            package_changes=selection.record,
            stored_bytes=published.stored_bytes,
            files=published.files,
            indexes=indexes,
        )

    def _complete(
        self,
        job: Job,
        images: Path,
        imagebuilder: "ImageBuilder",
        signatures: Signatures,
        built: Built,
        advance: Callable[[Stage], None],
        require_time: Callable[[], None],
    ) -> Completed:
        """Verifies what a build left and puts our files beside it."""
        with imagebuilder.blamed():
            own_numbering = self._release(job.request.version).own_numbering
            description, verified = describe_images(
                images, job.request, require_time=require_time, own_numbering=own_numbering
            )
            imagebuilder.require_filesystem(verified)
            if self._signing:
                advance(Stage.SIGNING_IMAGES)
            completed = complete_files(
                images,
                job,
                built,
                description,
                verified,
                signatures=signatures,
                provenance=self._provenance,
                require_time=require_time,
            )
        imagebuilder.warnings += signatures.warnings
        return completed

    def _resolve(
        self, imagebuilder: "ImageBuilder", selection: PackageSelection, *, release: Release, revision: str
    ) -> dict[str, str]:
        """Has the packages resolved, and learns of the ImageBuilder what it has shown by then."""

        def learn(manifest: Mapping[str, str]) -> None:
            if self._records is not None:
                learn_carried(
                    self._records,
                    imagebuilder.container,
                    imagebuilder.request,
                    release,
                    identity=imagebuilder.identity or revision,
                    revision=revision,
                    manifest=manifest,
                )

        try:
            manifest = imagebuilder.resolve(selection)
        except BuildFailed:
            learn({})  # the index of what it brings along is made before any is selected
            raise
        learn(manifest)
        return manifest


def _require_time(stop: Event, since: float, most: timedelta) -> None:
    """Raises what ends a build from outside: it holds for reading what a build left, too."""
    if stop.is_set():
        raise BuildInterrupted("The build was stopped; it will be tried again.")
    if time.monotonic() - since > most.total_seconds():
        raise deadline_passed(most)


class ImageBuilder:
    """Asks the ImageBuilder in a container for what one request needs; each step refuses on its own grounds.

    `output` is a directory on this host for what the commands print, and `on_output` is told it as it
    comes. `known_info` remembers what `make info` printed, packed, by the identity of the ImageBuilder.
    `announced` says what this server tells about the request's version and target, `status` what the
    server of a repository answers for a file of it; they are asked when something is amiss.
    """

    def __init__(
        self,
        container: Container,
        request: BuildRequest,
        output: Path,
        *,
        known_info: MutableMapping[str, bytes],
        on_output: OutputCallback | None = None,
        announced: Callable[[BuildRequest], Announced] = lambda _: Announced(),
        status: Callable[[str], int] = lambda _: 0,
        installed_key: tuple[str, str] | None = None,
    ) -> None:
        self._installed_key = installed_key
        self.container = container
        self.request = request
        self._found = Circumstances(request, announced=lambda: announced(request))
        self._output = output
        self._known_info = known_info
        self._on_output = on_output
        self._status = status
        self.identity: str | None = container.identity
        """Of the content; None where it was downloaded into the container."""
        self.defaults: tuple[str, ...] = ()
        """The packages that it installs by itself, known once it was inspected."""
        self.build_cmd: tuple[str, ...] = ()
        self.stdout = ""
        self.stderr = ""
        self.warnings: list[str] = []
        """What went less well though the build succeeds."""

    def set_up(self, release: Release, *, upstream_url: str) -> None:
        """Puts the ImageBuilder, keys, repositories and the first-boot script in place."""
        container, request = self.container, self.request
        if not container.exists("Makefile"):
            self.identity = None  # the image's digest says nothing about what was downloaded
            environment = {
                "UPSTREAM_URL": upstream_url,
                "TARGET": request.target,
                "VERSION_PATH": release.path,
                "DOWNLOAD_FILE": _DOWNLOAD_FILE,
            }
            result = self._run(("sh", "setup.sh"), "setup", environment=environment)
            if result.exit_code != 0:
                raise BuildFailed(
                    FailureReason.SETUP_FAILED,
                    f"Error: Could not set up ImageBuilder (returncode={result.exit_code})",
                )
        files = {f"keys/{name}": text for name, text in key_files(request.repository_keys).items()}
        if request.repositories:
            # An apk ImageBuilder that carries its packages has neither file.
            apk = container.exists(APK.name) or (
                not container.exists(OPKG.name) and container.exists(_APK_PROGRAM)
            )
            file = APK if apk else OPKG
            content = container.read_bytes(file.name) if container.exists(file.name) else b""
            present, mode = content.decode(errors="replace"), request.repositories_mode
            files[file.name] = render_repositories(present, request.repositories, mode=mode, file=file)
        if request.defaults:
            files[_DEFAULTS_SCRIPT] = request.defaults
        if self._installed_key:
            name, text = self._installed_key
            # On releases with apk too: it is where the device looks for keys of firmware.
            files[f"{_FILES}/etc/opkg/keys/{name}"] = text
        if files:
            container.write_files(files)

    def inspect(self, *, released: str = "") -> ImageBuilderInfo:
        """What this ImageBuilder can build; remembered as long as its content is the same.

        Refuses one of other sources than the caller saw or upstream has `released`, or without the profile.
        """
        known = self._known_info.get(self.identity or "")
        if known is None:
            self._run(make.INFO_ARGUMENTS, "info")
            text = self._read("info", "stdout", _READ_OUTPUT_BYTES)
        else:
            text = zlib.decompress(known).decode()
        info = make.parse_info(text)
        if known is None and self.identity:
            # Other threads may do the same to the mapping; each step of it is one of the interpreter's.
            if len(self._known_info) >= _KNOWN:
                self._known_info.pop(next(iter(list(self._known_info))), None)
            self._known_info[self.identity] = zlib.compress(text.encode())
        require_revision(self._found, info.revision, released=released)
        request = self.request
        if request.profile not in info.profiles:
            raise BuildFailed(
                FailureReason.UNKNOWN_PROFILE,
                f"Error: The ImageBuilder of {request.version} does not know the profile {request.profile}",
            )
        self.defaults = (*info.default_packages, *info.profiles[request.profile].packages)
        self._found = replace(self._found, defaults=frozenset(self.defaults))
        return info

    def resolve(self, selection: PackageSelection) -> dict[str, str]:
        """Package names and versions that the image will contain, as asked for."""
        self.build_cmd = make.make_arguments("manifest", self.request.profile, selection.packages)
        self._run(self.build_cmd, "manifest", otherwise="Error: Impossible package selection")
        manifest = make.parse_manifest(self._read("manifest", "stdout", _READ_OUTPUT_BYTES))
        require_versions(self._found, manifest, released=selection.released)
        removed = dict.fromkeys(name[1:] for name in selection.packages if name.startswith("-"))
        if back := [name for name in removed if name in manifest and name not in ALWAYS_THERE]:
            self.warnings.append(
                f"Removed, and nevertheless there because other packages need them: {some(back)}."
            )
        return manifest

    def build(self, selection: Sequence[str], *, extra_name: str, into: Path) -> None:
        """Builds the images and brings them to `into`; make's exit status alone proves nothing."""
        request, workdir = self.request, self.container.workdir
        self.build_cmd = make.make_arguments(
            "image",
            request.profile,
            selection,
            bin_dir=f"{workdir}/{_BIN_DIR}",
            extra_name=extra_name,
            files=f"{workdir}/{_FILES}" if request.defaults or self._installed_key else None,
            rootfs_size_mb=request.rootfs_size_mb,
            filesystem=request.filesystem,
        )
        self._run(
            self.build_cmd,
            "image",
            otherwise="Error: Error while building firmware. See stdout/stderr",
            reason=FailureReason.MAKE_FAILED,
        )
        self.container.collect(f"{workdir}/{_BIN_DIR}", into)

    def require_filesystem(self, images: Sequence[Image]) -> None:
        """Refuses a build without an image of the file system asked for; others are named in a warning."""
        asked = self.request.filesystem
        built = {image.filesystem for image in images if image.filesystem}
        if not asked:
            return
        if asked not in built:
            raise blame_filesystem(self._found, built)
        if others := sorted(built - {asked}):
            self.warnings.append(
                f"This ImageBuilder makes every file system: beside {asked} there are images with "
                f"{some(others)}."
            )

    def _run(
        self,
        arguments: Sequence[str],
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        otherwise: str = "",
        reason: FailureReason = FailureReason.SETUP_FAILED,
    ) -> CommandResult:
        """Runs a command; one with `otherwise`, its sentence where nothing better is found, is judged, too.

        Refused is then what failed, and what succeeded without one of its repositories.
        """
        output = self._output / name
        output.mkdir()
        try:
            result = self.container.run(
                arguments, output=output, environment=environment, on_output=self._on_output
            )
        finally:
            self.stdout = self._read(name, "stdout", SHOWN_OUTPUT_BYTES)
            self.stderr = self._read(name, "stderr", SHOWN_OUTPUT_BYTES)
        if not otherwise:
            return result
        request, stderr = self.request, self._read(name, "stderr", _READ_OUTPUT_BYTES)
        if name == "image" and (problem := find_too_big(stderr)) is not None:
            sentence = too_big_sentence(problem)
            raise BuildFailed(FailureReason.TOO_BIG, sentence, field="packages", problem=problem)
        if failure := blame_repository(request, stderr, status=self._status):
            raise failure
        if result.exit_code == 0:
            if failure := blame_feed(request, stderr):
                raise failure
            return result
        available = parse_available_filesystems(self._read(name, "stdout", _READ_OUTPUT_BYTES))
        if available is not None and request.filesystem:
            raise blame_filesystem(self._found, available)
        raise blame_make(self._found, stderr, otherwise=otherwise, reason=reason)

    def _read(self, name: str, stream: str, limit: int) -> str:
        # By pattern, because a command that was cut off returned no result to name its files.
        path = next((self._output / name).glob(f"*{stream}"), None)
        if path is None:
            return ""
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - limit))
            text = file.read(limit).decode("utf-8", "replace")
        return text if size <= limit else f"[… the first {size - limit} bytes are left out]\n{text}"

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """A failure found in here carries the output of the latest command."""
        try:
            yield
        except BuildFailed as failure:
            failure.stdout, failure.stderr, failure.build_cmd = self.stdout, self.stderr, self.build_cmd
            raise
