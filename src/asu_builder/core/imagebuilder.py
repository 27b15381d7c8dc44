"""The conversation with an ImageBuilder in a container: what it is asked, and what its answers mean."""

import contextlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from asu_builder.domain import make
from asu_builder.domain.addresses import plain_address
from asu_builder.domain.diagnosis import (
    ALWAYS_THERE,
    blame_feed,
    blame_filesystem,
    blame_make,
    blame_repository,
    parse_available_filesystems,
)
from asu_builder.domain.errors import BuildFailed, FailureReason, some
from asu_builder.domain.job import Image
from asu_builder.domain.make import (
    Announced,
    Circumstances,
    CommandResult,
    ImageBuilderInfo,
    OutputCallback,
    Step,
    require_revision,
    require_versions,
)
from asu_builder.domain.packages import PackageSelection, find_too_big, too_big_sentence
from asu_builder.domain.release import Release
from asu_builder.domain.repositories import APK, OPKG, key_files, proxied_repositories, render_repositories
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import Container

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


_LONGEST_MARK = 64
_MARK = re.compile(
    rb"^(?:\( {0,4}[0-9]{1,5}/[0-9]{1,5}\) )?"
    rb"(Installing packages\.\.\.|Downloading |Installing |Configuring |Finalizing root"
    rb"|Building images\.\.\.)",
    re.MULTILINE,
)
_STEP_OF_MARK = {
    b"Installing packages...": Step.DOWNLOAD,  # the indexes are loaded before the first package comes
    b"Downloading ": Step.DOWNLOAD,
    b"Building images...": Step.IMAGE,
}
"""All other marks are of installing (facts on the ImageBuilder, §2.3)."""


class StepMarks:
    """Tells from what a make goal prints which step of a build it is at."""

    def __init__(self, enter: Callable[[Step], None], on_output: OutputCallback | None) -> None:
        """`enter` is told each step that begins, `on_output` everything that is printed."""
        self._enter = enter
        self._on_output = on_output
        self._begun: dict[int, bytes] = {}

    def read(self, stream: int, chunk: bytes) -> None:
        """An `OutputCallback`."""
        if self._on_output:
            self._on_output(stream, chunk)
        ended, _, rest = (self._begun.get(stream, b"") + chunk).rpartition(b"\n")
        self._begun[stream] = rest[:_LONGEST_MARK]
        mark = None
        for found in _MARK.finditer(ended):
            mark = found[1]
        if mark:
            self._enter(_STEP_OF_MARK.get(mark, Step.INSTALL))


class ImageBuilder:
    """Asks the ImageBuilder in a container for what one request needs; each step refuses on its own grounds.

    `output` is a directory on this host for what the commands print, and `on_output` is told it as it
    comes. `known_info` remembers what `make info` printed, packed, by the identity of the ImageBuilder.
    `announced` says what this server tells about the request's version and target, `status` what the
    server of a repository answers for a file of it; they are asked when something is amiss. `enter` is told
    what time is spent with.
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
        enter: Callable[[Step], None] = lambda _: None,
    ) -> None:
        self._enter = enter
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
            if container.is_proxied:
                container.allow([f"{upstream_url}/{release.path}/targets/{request.target}"])
            environment = {
                # Plain HTTP is enough: the script verifies what it loads.
                "UPSTREAM_URL": plain_address(upstream_url) if container.is_proxied else upstream_url,
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
        files |= self._repositories()
        if request.defaults:
            files[_DEFAULTS_SCRIPT] = request.defaults
        if self._installed_key:
            name, text = self._installed_key
            # On releases with apk too: it is where the device looks for keys of firmware.
            files[f"{_FILES}/etc/opkg/keys/{name}"] = text
        if files:
            container.write_files(files)

    def _repositories(self) -> dict[str, str]:
        """The repositories file where it is not to stay as it is, and what the container may reach for it."""
        container, request = self.container, self.request
        if not (request.repositories or container.is_proxied):
            return {}
        # An apk ImageBuilder that carries its packages has neither file.
        apk = container.exists(APK.name) or (
            not container.exists(OPKG.name) and container.exists(_APK_PROGRAM)
        )
        file = APK if apk else OPKG
        content = container.read_bytes(file.name) if container.exists(file.name) else b""
        present, mode = content.decode(errors="replace"), request.repositories_mode
        text = render_repositories(present, request.repositories, mode=mode, file=file)
        if container.is_proxied:
            try:
                text, folders = proxied_repositories(text, file)
            except ValueError as error:
                raise BuildFailed(FailureReason.SETUP_FAILED, f"Error: {error}") from error
            container.allow(folders)
        return {} if text == present else {file.name: text}

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
        self._enter(Step.INSTALL)
        self._run(self.build_cmd, "manifest", otherwise="Error: Impossible package selection")
        manifest = make.parse_manifest(self._read("manifest", "stdout", _READ_OUTPUT_BYTES))
        self.require_packages(selection, manifest)
        return manifest

    def require_packages(self, selection: PackageSelection, manifest: Mapping[str, str]) -> None:
        """Refuses packages in other versions than asked for; names those that came back in a warning."""
        require_versions(self._found, manifest, released=selection.released)
        removed = dict.fromkeys(name[1:] for name in selection.packages if name.startswith("-"))
        if back := [name for name in removed if name in manifest and name not in ALWAYS_THERE]:
            self.warnings.append(
                f"Removed, and nevertheless there because other packages need them: {some(back)}."
            )

    def read_manifest(self, images: Path) -> dict[str, str]:
        """The packages that were installed for `images`, with ABI suffixes, as the list beside them says.

        Empty where there is no such list, or more than one.
        """
        listed = list(images.glob("*.manifest"))
        if len(listed) != 1 or listed[0].stat().st_size > _READ_OUTPUT_BYTES:
            return {}
        return make.parse_manifest(listed[0].read_text("utf-8", "replace"))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What a command in here prints is told only if it fails."""
        before = self.build_cmd, self.stdout, self.stderr
        yield
        self.build_cmd, self.stdout, self.stderr = before

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
        self._enter(Step.INSTALL)
        self._run(
            self.build_cmd,
            "image",
            otherwise="Error: Error while building firmware. See stdout/stderr",
            reason=FailureReason.MAKE_FAILED,
        )
        self._enter(Step.COLLECT)
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
            on_lines = StepMarks(self._enter, self._on_output).read if otherwise else self._on_output
            result = self.container.run(arguments, output=output, environment=environment, on_output=on_lines)
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
