"""The ImageBuilder's make goals: arguments in, parsed text out (facts on the ImageBuilder, §2).

A make variable is code: its value is expanded by make and pasted into a shell. So this is the
last gate, and it checks again everything that the request had already checked.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from asu_builder.domain.errors import BuildFailed, BuildProblem, FailureReason, Side, some
from asu_builder.domain.release import Release
from asu_builder.domain.request import (
    FILESYSTEM,
    MAX_PACKAGES_LENGTH,
    PACKAGE,
    PROFILE,
    UPSTREAM_PACKAGE,
    BuildRequest,
)

MAX_LINE_LENGTH = 4096
"""Characters of a line that are read: its first and its last half, because a reason may end a long line."""
MAX_LINES = 6_000
"""Lines that are read, the last ones: a reason stands at the end."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}+"
"""What a package may be called, with or without its version."""


def lines_of(text: str) -> list[str]:
    """The lines, ended by any of CR, LF and CR LF, at most `MAX_LINES` of `MAX_LINE` characters."""
    parts = text.replace("\r\n", "\n").replace("\r", "\n").rsplit("\n", MAX_LINES)
    half = MAX_LINE_LENGTH // 2 - 2
    return [part if len(part) <= MAX_LINE_LENGTH else f"{part[:half]} … {part[-half:]}" for part in parts]


MAX_LINE = 2000
"""Characters of a line that are kept."""

_RAW_LINE = 4 * MAX_LINE
"""Bytes of a line that are looked at; beyond them a line without an end is not even held in memory."""
_LEAST_LINES = 1000
_SHORT_LINE = 40
"""Bytes: a piece of output in which lines are shorter on average is shortened to as many lines."""
_CUT = " […]"
# Patterns as text: most starts need none of them, and `re` remembers what it has compiled.
_SEQUENCES = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
# Control characters, what breaks a line elsewhere, and what turns the direction of writing round.
_HIDDEN = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"


class Lines(Struct):
    """Puts lines of text together from the pieces in which a command's two streams arrive.

    What is no UTF-8 becomes replacement characters, a tab becomes a space; of a line that a program
    has written over and over (`\\r`), the last writing stands.
    """

    _begun: dict[int, bytes] = {}

    def feed(self, stream: int, chunk: bytes) -> Iterator[str]:
        """The lines that end in this piece of a stream."""
        *ended, rest = (self._begun.get(stream, b"") + chunk).split(b"\n")
        self._begun[stream] = rest[:_RAW_LINE]
        most = max(_LEAST_LINES, len(chunk) // _SHORT_LINE)
        if len(ended) > most:
            # A flood of empty lines tells nothing, and would keep everything else waiting.
            left_out = f"[… {len(ended) - most} lines are left out]".encode()
            ended[most // 2 : len(ended) - most // 2] = [left_out]
        if not ended:
            return
        # All at once: a flood of short lines costs no more than its bytes.
        text = b"\n".join([line[:_RAW_LINE] for line in ended]).decode("utf-8", "replace")
        if "\r" in text:
            text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        if not text.replace("\n", "").isprintable():
            text = re.sub(_HIDDEN, "", re.sub(_SEQUENCES, "", text).replace("\t", " "))
        for line in text.split("\n"):
            yield line if len(line) <= MAX_LINE else line[: MAX_LINE - len(_CUT)] + _CUT

    def end(self) -> Iterator[str]:
        """What was begun and never ended; a new command begins with nothing."""
        begun, self._begun = self._begun, {}
        for stream, line in begun.items():
            if line:
                yield from self.feed(stream, line + b"\n")


STDOUT, STDERR = 1, 2


OutputCallback = Callable[[int, bytes], None]
"""Told what a command prints as it arrives: the stream's number and the next piece of it.

Called in the thread that runs the command, so it must return at once; it raises nothing.
"""


class Step(StrEnum):
    """What a build spends its time with. Finer than the stages, which are those that clients know."""

    PULL = "pull"
    SET_UP = "set_up"
    DOWNLOAD = "download"
    INSTALL = "install"
    IMAGE = "image"
    COLLECT = "collect"
    SIGN = "sign"
    PUBLISH = "publish"


class ContainerSpec(Struct, frozen=True):
    """What a build needs of its container; the hardening is the adapter's own, not a choice."""

    release: Release
    target: str
    deadline: timedelta
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Origin(Struct, frozen=True):
    """What a container was made of, and what stands between it and the service."""

    isolation: Literal["container", "sandbox", "none"]
    image: str = ""
    """The name of the container image; "" for a directory of this host."""
    digest: str = ""
    """SHA-256 of the container image's manifest, 64 hexadecimal digits; "" where the engine tells none."""
    archive: str = ""
    """SHA-256 of the archive that the ImageBuilder was unpacked from; "" where the image carried it."""
    pull_seconds: float = 0.0
    """How long the build waited for the container image."""


class CommandResult(Struct, frozen=True):
    """How a command ended. Its output is on disk, capped; both files exist."""

    exit_code: int
    stdout: Path
    stderr: Path


_INNER_PATH = re.compile(r"(?!.*\.\.)/[A-Za-z0-9_./-]{1,200}")
_SAFE = {
    "PROFILE": PROFILE,
    "EXTRA_IMAGE_NAME": re.compile(r"[a-z0-9-]{1,64}"),
    "BIN_DIR": _INNER_PATH,
    "FILES": _INNER_PATH,
    "ROOTFS_PARTSIZE": re.compile(r"[0-9]{1,20}"),
    "ROOTFS_FILESYSTEM": FILESYSTEM,
    "STRIP_ABI": re.compile("1"),
}
"""Which values a make variable may have."""


class ProfileInfo(Struct, frozen=True):
    """One profile as `make info` prints it."""

    title: str
    packages: tuple[str, ...]
    supported_devices: tuple[str, ...] = ()
    odd_packages: tuple[str, ...] = ()
    """Names that make must never be told."""


class ImageBuilderInfo(Struct, frozen=True):
    """What `make info` says; `default_packages` are the target's, without the profile's."""

    target: str
    revision: str
    default_packages: tuple[str, ...]
    profiles: Mapping[str, ProfileInfo] = field(default_factory=dict)
    odd_packages: tuple[str, ...] = ()
    """Default packages whose names make must never be told."""


INFO_ARGUMENTS = ("make", "info")
"""The command that asks the ImageBuilder what it is."""


def make_arguments(
    goal: Literal["manifest", "image"],
    profile: str,
    packages: Sequence[str],
    *,
    bin_dir: str | None = None,
    extra_name: str | None = None,
    files: str | None = None,
    rootfs_size_mb: int | None = None,
    filesystem: str | None = None,
) -> tuple[str, ...]:
    """The command that builds the images, or only resolves a package selection (`manifest`).

    Refuses what is no plain word for a shell. `bin_dir` and `files` are absolute paths inside the
    container: with a relative `BIN_DIR` the images land elsewhere and make still succeeds.
    `filesystem` is ignored by old releases.
    """
    given = {
        "PROFILE": profile,
        "EXTRA_IMAGE_NAME": extra_name,
        "BIN_DIR": bin_dir,
        "FILES": files,
        "ROOTFS_PARTSIZE": None if rootfs_size_mb is None else str(rootfs_size_mb),
        "ROOTFS_FILESYSTEM": filesystem,
        "STRIP_ABI": "1" if goal == "manifest" else None,
    }
    variables = {name: value for name, value in given.items() if value is not None}
    joined = " ".join(packages)
    wrong = [(name, value) for name, value in variables.items() if not _SAFE[name].fullmatch(value)]
    wrong += [
        ("PACKAGES", package)
        for package in packages
        # Behind the minus a shell expands no `~`; by itself `~root` would be a directory.
        if not PACKAGE.fullmatch(package)
        and not (package.startswith("-~") and UPSTREAM_PACKAGE.fullmatch(package))
    ]
    if len(joined) > 2 * MAX_PACKAGES_LENGTH:
        wrong.append(("PACKAGES", f"{len(joined)} characters"))
    if wrong:
        name, value = wrong[0]
        raise BuildFailed(FailureReason.INTERNAL, f"Error: refused to pass {name}={value[:80]!r} to make")
    first, *others = (f"{name}={value}" for name, value in variables.items())
    return ("make", goal, first, f"PACKAGES={joined}", *others)


_PROFILES = "Available Profiles:"
_HEAD = ("Current Revision", "Current Target", "Default Packages")
_QUOTED = re.compile(r'"([^"]*+)"')
_PROFILE_HEADER = re.compile(r"([A-Za-z0-9_.-]{1,200}+):")


def parse_info(stdout: str) -> ImageBuilderInfo:
    """What `make info` printed; `BuildFailed` when it is not such a text or lists no profile.

    With perl missing, `make info` exits 0 and lists no profile, silently: that is a broken
    ImageBuilder, not an empty one.
    """
    lines = lines_of(stdout)
    at = lines.index(_PROFILES) if _PROFILES in lines else len(lines)
    said: dict[str, str] = {}
    for line in lines[:at]:
        key, separator, value = line.partition(": ")
        if separator and key in _HEAD:
            said.setdefault(key, value)
    revision, target = (
        _QUOTED.fullmatch(said.get(key, "")) for key in ("Current Revision", "Current Target")
    )
    defaults = said.get("Default Packages")
    bodies: dict[str, list[str]] = {}
    body: list[str] = []
    for line in lines[at:]:
        if header := _PROFILE_HEADER.fullmatch(line) if line.endswith(":") else None:
            body = bodies[header[1]] = []
        elif line.startswith("    "):
            body.append(line[4:])
    if revision is None or target is None or defaults is None or not bodies:
        raise BuildFailed(
            FailureReason.SETUP_FAILED,
            "Error: The ImageBuilder does not say what it can build (`make info` lists no profile). "
            "It is broken; try again later, or choose another version.",
        )
    # No profile has the name "": it stands for the target and its defaults.
    profiles = {}
    for name, body in ({"": [f"Packages: {defaults}"]} | bodies).items():
        # A title may itself look like "Packages: x": only the first line can be one.
        title = body[0] if body and not body[0].startswith("Packages: ") else ""
        words = {
            key: value.split()
            for key, _, value in (line.partition(": ") for line in body[1 if title else 0 :])
        }
        packages = words.get("Packages", ())
        sound = tuple(package for package in packages if UPSTREAM_PACKAGE.fullmatch(package))
        odd = tuple(package for package in packages if not UPSTREAM_PACKAGE.fullmatch(package))
        profiles[name] = ProfileInfo(title, sound, tuple(words.get("SupportedDevices", ())), odd)
    own = profiles.pop("")
    return ImageBuilderInfo(target[1], revision[1], own.packages, profiles, own.odd_packages)


def parse_manifest(stdout: str) -> dict[str, str]:
    """Names and versions that `make manifest` printed; lines of any other form are skipped.

    opkg and current apk print "name - version", apk of 2024 and 2025 printed "name version".
    """
    manifest = {}
    for line in lines_of(stdout):
        name, separator, version = line.partition(" - ")
        if not separator:
            name, separator, version = line.partition(" ")
        if separator and PACKAGE.fullmatch(name) and version and " " not in version.strip():
            manifest[name] = version.strip()
    return manifest


BETWEEN = (
    "Upstream is between two states: what this server announces is not yet what the ImageBuilder has. "
    "Try again later."
)


class Announced(Struct, frozen=True):
    """What this server tells about a version and target now; None and "" for what is not known."""

    revision: str = ""
    packages: Mapping[str, str] | None = None
    filesystems: Collection[str] = ()
    """The file systems that upstream's own images of the profile have."""


class Circumstances(Struct, frozen=True):
    """What is known beside the output of a make call."""

    request: BuildRequest
    defaults: Collection[str] = ()
    """The packages that the ImageBuilder itself installs."""
    announced: Callable[[], Announced] = Announced
    """Asked only when it decides something, because it may take a while."""


def require_revision(found: Circumstances, revision: str, *, released: str = "") -> None:
    """Refuses an ImageBuilder of another revision than the release's, and than the request's.

    `released` is the revision that upstream says of a fixed release, "" where none can be compared:
    a container image under a release's tag may hold another one. Another mismatch is the user's fault
    only where this server announces what the ImageBuilder has: then the caller cannot have the other
    revision from us now.
    """
    asked = found.request.version_code
    if released and released != revision:
        raise BuildFailed(
            FailureReason.REVISION_MISMATCH,
            f"Error: Received incorrect version {revision} (requested {released}). The ImageBuilder of "
            f"{found.request.version} is another one than upstream has released; try again later.",
            side=Side.INFRASTRUCTURE,
            field="version",
            problem=BuildProblem(revisions=(released, revision)),
        )
    if not asked or asked == revision:
        return
    behind = found.announced().revision != revision
    detail = f"Error: Received incorrect version {revision} (requested {asked})"
    raise BuildFailed(
        FailureReason.REVISION_MISMATCH,
        f"{detail}. {BETWEEN}" if behind else detail,
        side=Side.INFRASTRUCTURE if behind else Side.USER,
        field="version_code",
        problem=BuildProblem(revisions=(asked, revision)),
    )


def wrong_versions(
    request: BuildRequest, manifest: Mapping[str, str], released: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Packages that a manifest does not hold as asked for: the version asked for, and the one there is."""
    return {
        name: (version, manifest.get(name, ""))
        for name, version in request.packages_versions.items()
        if not name.startswith("-")
        and name not in released
        and (name not in manifest or (version and manifest[name] != version))
    }


def require_versions(
    found: Circumstances, manifest: Mapping[str, str], *, released: Collection[str] = ()
) -> None:
    """Refuses a manifest that does not hold exactly the versions the caller was shown, and names all of them.

    `released` are names that a package rule renamed or removed: no caller was shown their version.
    """
    wrong = wrong_versions(found.request, manifest, released)
    if not wrong:
        return
    named = [
        f"{name} version not as requested: {version} vs. {there}" if there else f"{name} not in manifest"
        for name, (version, there) in wrong.items()
    ]
    detail = f"Error: Impossible package selection: {some(named)}"
    announced = found.announced().packages
    lag = announced is not None and all(
        name in announced and version in ("", announced[name]) for name, (version, _) in wrong.items()
    )
    raise BuildFailed(
        FailureReason.VERSION_MISMATCH,
        f"{detail}. {BETWEEN}" if lag else detail,
        side=Side.INFRASTRUCTURE if lag else Side.USER,
        field="packages_versions",
        problem=BuildProblem(versions=wrong),
    )
