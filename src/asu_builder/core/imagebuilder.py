"""The conversation with one ImageBuilder in a running container."""

import contextlib
import zlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path

from asu_builder.domain import make
from asu_builder.domain.announced import Announced, Circumstances, require_revision, require_versions
from asu_builder.domain.diagnosis import (
    blame_feed,
    blame_filesystem,
    blame_make,
    blame_repository,
    brought_back,
    filesystem_warning,
    parse_available_filesystems,
)
from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.job import Image
from asu_builder.domain.make import ImageBuilderInfo
from asu_builder.domain.packages import PackageSelection, find_too_big, too_big_sentence
from asu_builder.domain.release import Release
from asu_builder.domain.repositories import APK, OPKG, RepositoryFile, key_files, render_repositories
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import CommandResult, Container, OutputCallback

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


class ImageBuilder:
    """Asks one ImageBuilder for what a build needs; each step refuses on its own grounds.

    `output` is a directory on this host for what the commands print, and `on_output` is told it as it
    comes. `known_info` remembers what `make info` printed, packed, by the identity of the ImageBuilder.
    `announced` says what this server tells about the request's version and target, `status` what the
    server of a repository answers for a file of it; they are asked when something is amiss.
    """

    def __init__(
        self,
        container: Container,
        output: Path,
        *,
        known_info: MutableMapping[str, bytes],
        on_output: OutputCallback | None = None,
        announced: Callable[[BuildRequest], Announced] = lambda _: Announced(),
        status: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._container = container
        self._output = output
        self._known_info = known_info
        self._on_output = on_output
        self._announced = announced
        self._status = status
        self._identity: str | None = container.identity
        self.build_cmd: tuple[str, ...] = ()
        self.stdout = ""
        self.stderr = ""
        self.warnings: list[str] = []
        """What went less well though the build succeeds."""

    def set_up(self, request: BuildRequest, release: Release, *, upstream_url: str) -> None:
        """Puts the ImageBuilder, keys, repositories and the first-boot script in place."""
        if not self._container.exists("Makefile"):
            self._unpack(request, release, upstream_url)
        files = {f"keys/{name}": text for name, text in key_files(request.repository_keys).items()}
        if request.repositories:
            file = self._repository_file()
            present = self._container.read_text(file.name) if self._container.exists(file.name) else ""
            mode = request.repositories_mode
            files[file.name] = render_repositories(present, request.repositories, mode=mode, file=file)
        if request.defaults:
            files[_DEFAULTS_SCRIPT] = request.defaults
        if files:
            self._container.write_files(files)

    def _repository_file(self) -> RepositoryFile:
        # An apk ImageBuilder that carries its packages has neither file.
        apk = self._container.exists(APK.name) or (
            not self._container.exists(OPKG.name) and self._container.exists(_APK_PROGRAM)
        )
        return APK if apk else OPKG

    def _unpack(self, request: BuildRequest, release: Release, upstream_url: str) -> None:
        environment = {
            "UPSTREAM_URL": upstream_url,
            "TARGET": request.target,
            "VERSION_PATH": release.path,
            "DOWNLOAD_FILE": _DOWNLOAD_FILE,
        }
        self._identity = None  # the image's digest says nothing about what was downloaded
        result = self._run(("sh", "setup.sh"), "setup", environment=environment)
        if result.exit_code != 0:
            raise self._failed(
                FailureReason.SETUP_FAILED,
                f"Error: Could not set up ImageBuilder (returncode={result.exit_code})",
            )

    def info(self) -> ImageBuilderInfo:
        """What this ImageBuilder can build; remembered as long as its content is the same."""
        known = self._known_info.get(self._identity) if self._identity else None
        if known is not None:
            return make.parse_info(zlib.decompress(known).decode())
        self._run(make.info_arguments(), "info")
        text = self._read("info", "stdout", _READ_OUTPUT_BYTES)
        with self.blamed():
            info = make.parse_info(text)
        if self._identity:
            self._remember_info(self._identity, text)
        return info

    def _remember_info(self, identity: str, text: str) -> None:
        # Other threads may do the same to the mapping; each step of it is one of the interpreter's.
        if len(self._known_info) >= _KNOWN:
            self._known_info.pop(next(iter(list(self._known_info))), None)
        self._known_info[identity] = zlib.compress(text.encode())

    def require_revision(self, request: BuildRequest, info: ImageBuilderInfo, *, released: str = "") -> None:
        """Refuses an ImageBuilder of other sources than the caller saw, or without the profile."""
        with self.blamed():
            require_revision(self._circumstances(request, ()), info.revision, released=released)
        if request.profile not in info.profiles:
            raise self._failed(
                FailureReason.UNKNOWN_PROFILE,
                f"Error: The ImageBuilder of {request.version} does not know the profile {request.profile}",
            )

    def resolve(
        self, request: BuildRequest, selection: PackageSelection, defaults: Sequence[str] = ()
    ) -> dict[str, str]:
        """Package names and versions that the image will contain, as asked for.

        `defaults` is what the ImageBuilder installs by itself.
        """
        self.build_cmd = make.manifest_arguments(request.profile, selection.packages)
        result = self._run(self.build_cmd, "manifest")
        found = self._circumstances(request, defaults)
        self._judge(found, result, "Error: Impossible package selection", FailureReason.SETUP_FAILED)
        manifest = make.parse_manifest(self._read("manifest", "stdout", _READ_OUTPUT_BYTES))
        with self.blamed():
            require_versions(found, manifest, released=selection.released)
        removed = [name[1:] for name in selection.packages if name.startswith("-")]
        if warning := brought_back(removed, manifest):
            self.warnings.append(warning)
        return manifest

    def build(
        self,
        request: BuildRequest,
        selection: Sequence[str],
        *,
        extra_name: str,
        into: Path,
        defaults: Sequence[str] = (),
    ) -> None:
        """Builds the images and brings them to `into`; make's exit status alone proves nothing."""
        bin_dir = f"{self._container.workdir}/{_BIN_DIR}"
        self.build_cmd = make.image_arguments(
            request.profile,
            selection,
            bin_dir=bin_dir,
            extra_name=extra_name,
            files=f"{self._container.workdir}/{_FILES}" if request.defaults else None,
            rootfs_size_mb=request.rootfs_size_mb,
            filesystem=request.filesystem,
        )
        result = self._run(self.build_cmd, "image")
        problem = find_too_big(self._read("image", "stderr", _READ_OUTPUT_BYTES))
        if problem is not None:
            raise self._attach(
                BuildFailed(
                    FailureReason.TOO_BIG, too_big_sentence(problem), field="packages", problem=problem
                )
            )
        self._judge(
            self._circumstances(request, defaults),
            result,
            "Error: Error while building firmware. See stdout/stderr",
            FailureReason.MAKE_FAILED,
        )
        with self.blamed():
            self._container.collect(bin_dir, into)

    def require_filesystem(self, request: BuildRequest, images: Sequence[Image]) -> None:
        """Refuses a build without an image of the file system asked for; others are named in a warning."""
        built = {image.filesystem for image in images if image.filesystem}
        if request.filesystem and request.filesystem not in built:
            raise blame_filesystem(self._circumstances(request, ()), built)
        if warning := filesystem_warning(request, built):
            self.warnings.append(warning)

    def _circumstances(self, request: BuildRequest, defaults: Sequence[str]) -> Circumstances:
        return Circumstances(request, frozenset(defaults), lambda: self._announced(request))

    def _judge(
        self, found: Circumstances, result: CommandResult, otherwise: str, reason: FailureReason
    ) -> None:
        """Refuses what failed, and what succeeded without one of its repositories."""
        stderr = self._read(self._latest, "stderr", _READ_OUTPUT_BYTES)
        if failure := blame_repository(found.request, stderr, status=self._status):
            raise self._attach(failure)
        if result.exit_code == 0:
            if failure := blame_feed(found.request, stderr):
                raise self._attach(failure)
            return
        available = parse_available_filesystems(self._read(self._latest, "stdout", _READ_OUTPUT_BYTES))
        if available is not None and found.request.filesystem:
            raise self._attach(blame_filesystem(found, available))
        raise self._attach(blame_make(found, stderr, otherwise=otherwise, reason=reason))

    def _run(
        self, arguments: Sequence[str], name: str, *, environment: dict[str, str] | None = None
    ) -> CommandResult:
        output = self._output / name
        output.mkdir()
        self._latest = name
        with self.blamed():
            try:
                return self._container.run(
                    arguments, output=output, environment=environment, on_output=self._on_output
                )
            finally:
                self.stdout = self._read(name, "stdout", SHOWN_OUTPUT_BYTES)
                self.stderr = self._read(name, "stderr", SHOWN_OUTPUT_BYTES)

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

    def _failed(self, reason: FailureReason, detail: str) -> BuildFailed:
        return self._attach(BuildFailed(reason, detail))

    def _attach(self, failure: BuildFailed) -> BuildFailed:
        failure.stdout, failure.stderr, failure.build_cmd = self.stdout, self.stderr, self.build_cmd
        return failure

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """A failure found in here carries the output of the latest command."""
        try:
            yield
        except BuildFailed as failure:
            self._attach(failure)
            raise
