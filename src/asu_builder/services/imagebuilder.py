"""The conversation with one ImageBuilder in a running container."""

import contextlib
import zlib
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from asu_builder.domain import make, packages
from asu_builder.domain.changes import PackageSelection
from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.make import ImageBuilderInfo
from asu_builder.domain.release import Release
from asu_builder.domain.repositories import APK, OPKG, key_files, render_repositories
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import CommandResult, Container, Heard

SHOWN_OUTPUT_BYTES = 64 << 10
"""How much of a command's output an answer carries; the end of it, where the reason stands."""
_READ_OUTPUT_BYTES = 1 << 20
_KNOWN = 256
"""ImageBuilders of which `make info` is remembered: packed a few kilobytes each, read up to 300."""
_FILES = "asu-files"
_DEFAULTS_SCRIPT = f"{_FILES}/etc/uci-defaults/99-asu-defaults"
_BIN_DIR = "asu-images"
# The pattern by which setup.sh finds the archive in upstream's sha256sums.
_DOWNLOAD_FILE = "imagebuilder-.*x86_64.tar."


class ImageBuilder:
    """Asks one ImageBuilder for what a build needs; each step refuses on its own grounds.

    `output` is a directory on this host for what the commands print, and `heard` is told it as it
    comes. `known_info` remembers what `make info` printed, packed, by the identity of the ImageBuilder.
    """

    def __init__(
        self,
        container: Container,
        output: Path,
        *,
        known_info: MutableMapping[str, bytes],
        heard: Heard | None = None,
    ) -> None:
        self._container = container
        self._output = output
        self._known_info = known_info
        self._heard = heard
        self._identity: str | None = container.identity
        self.build_cmd: tuple[str, ...] = ()
        self.stdout = ""
        self.stderr = ""

    def set_up(self, request: BuildRequest, release: Release, *, upstream_url: str) -> None:
        """Puts the ImageBuilder, keys, repositories and the first-boot script in place."""
        if not self._container.exists("Makefile"):
            self._unpack(request, release, upstream_url)
        files = {f"keys/{name}": text for name, text in key_files(request.repository_keys).items()}
        if request.repositories:
            file = APK if self._container.exists(APK.name) else OPKG
            present = self._container.read_text(file.name)
            mode = request.repositories_mode
            files[file.name] = render_repositories(present, request.repositories, mode=mode, file=file)
        if request.defaults:
            files[_DEFAULTS_SCRIPT] = request.defaults
        if files:
            self._container.write_files(files)

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

    def require_revision(self, request: BuildRequest, info: ImageBuilderInfo) -> None:
        """Refuses an ImageBuilder of other sources than the asker saw, or without the profile."""
        if request.version_code and request.version_code != info.revision:
            raise self._failed(
                FailureReason.REVISION_MISMATCH,
                f"Error: Received incorrect version {info.revision} (requested {request.version_code})",
            )
        if request.profile not in info.profiles:
            raise self._failed(
                FailureReason.UNKNOWN_PROFILE,
                f"Error: The ImageBuilder of {request.version} does not know the profile {request.profile}",
            )

    def resolve(self, request: BuildRequest, selection: PackageSelection) -> dict[str, str]:
        """Package names and versions that the image will contain, as asked for."""
        self.build_cmd = make.manifest_arguments(request.profile, selection.packages)
        result = self._run(self.build_cmd, "manifest")
        if result.exit_code != 0:
            raise self._explained("Error: Impossible package selection", FailureReason.IMPOSSIBLE_SELECTION)
        manifest = make.parse_manifest(self._read("manifest", "stdout", _READ_OUTPUT_BYTES))
        with self.blamed():
            packages.require_versions(request, manifest, released=selection.released)
        return manifest

    def build(self, request: BuildRequest, selection: Sequence[str], *, extra_name: str, into: Path) -> None:
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
        too_big = packages.explain_too_big(self._read("image", "stderr", _READ_OUTPUT_BYTES))
        if too_big:
            raise self._failed(FailureReason.TOO_BIG, too_big)
        if result.exit_code != 0:
            raise self._explained(
                "Error: Error while building firmware. See stdout/stderr", FailureReason.MAKE_FAILED
            )
        with self.blamed():
            self._container.collect(bin_dir, into)

    def _explained(self, otherwise: str, reason: FailureReason) -> BuildFailed:
        """Why make failed, from what the package manager said, with the right side blamed."""
        stderr = self._read(self._latest, "stderr", _READ_OUTPUT_BYTES)
        if unreachable := packages.unreachable_repositories(stderr):
            return self._failed(
                FailureReason.UPSTREAM_UNREACHABLE,
                f"Error: A package repository could not be reached: {', '.join(unreachable[:3])}. "
                "The request itself may be fine; try again later.",
            )
        if problem := packages.explain_selection(stderr):
            return self._failed(FailureReason.IMPOSSIBLE_SELECTION, problem.sentence())
        if sentence := packages.explain_script(stderr):
            return self._failed(FailureReason.MAKE_FAILED, f"{otherwise}. {sentence}")
        return self._failed(reason, otherwise)

    def _run(
        self, arguments: Sequence[str], name: str, *, environment: dict[str, str] | None = None
    ) -> CommandResult:
        output = self._output / name
        output.mkdir()
        self._latest = name
        with self.blamed():
            try:
                return self._container.run(
                    arguments, output=output, environment=environment, heard=self._heard
                )
            finally:
                self._remember()

    def _remember(self) -> None:
        self.stdout = self._read(self._latest, "stdout", SHOWN_OUTPUT_BYTES)
        self.stderr = self._read(self._latest, "stderr", SHOWN_OUTPUT_BYTES)

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
