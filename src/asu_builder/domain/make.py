"""The ImageBuilder's make goals: arguments in, parsed text out (facts on the ImageBuilder, §2).

A make variable is code: its value is expanded by make and pasted into a shell. So this is the
last gate, and it checks again everything that the request had already checked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.request import FILESYSTEMS, MAX_PACKAGES_LENGTH, PACKAGE, PROFILE

_INNER_PATH = re.compile(r"/[A-Za-z0-9_./-]{1,200}")
_EXTRA_NAME = re.compile(r"[a-z0-9-]{1,64}")


class ProfileInfo(Struct, frozen=True):
    """One profile as `make info` prints it."""

    title: str
    packages: tuple[str, ...]
    supported_devices: tuple[str, ...] = ()


class ImageBuilderInfo(Struct, frozen=True):
    """What `make info` says; `default_packages` are the target's, without the profile's."""

    target: str
    revision: str
    default_packages: tuple[str, ...]
    profiles: Mapping[str, ProfileInfo] = field(default_factory=dict)


def info_arguments() -> tuple[str, ...]:
    """The command that asks the ImageBuilder what it is."""
    return ("make", "info")


def manifest_arguments(profile: str, packages: Sequence[str]) -> tuple[str, ...]:
    """The command that resolves a package selection without building an image."""
    return ("make", "manifest", *_selection(profile, packages), "STRIP_ABI=1")


def image_arguments(
    profile: str,
    packages: Sequence[str],
    *,
    bin_dir: str,
    extra_name: str,
    files: str | None = None,
    rootfs_size_mb: int | None = None,
    filesystem: str | None = None,
) -> tuple[str, ...]:
    """The command that builds the images.

    `bin_dir` and `files` are absolute paths inside the container: with a relative `BIN_DIR` the
    images land elsewhere and make still succeeds. `filesystem` is ignored by old releases.
    """
    _guard(_INNER_PATH.fullmatch(bin_dir) and ".." not in bin_dir, "BIN_DIR", bin_dir)
    _guard(_EXTRA_NAME.fullmatch(extra_name), "EXTRA_IMAGE_NAME", extra_name)
    arguments = ["make", "image", *_selection(profile, packages)]
    arguments += [f"EXTRA_IMAGE_NAME={extra_name}", f"BIN_DIR={bin_dir}"]
    if files is not None:
        _guard(_INNER_PATH.fullmatch(files) and ".." not in files, "FILES", files)
        arguments.append(f"FILES={files}")
    if rootfs_size_mb is not None:
        arguments.append(f"ROOTFS_PARTSIZE={int(rootfs_size_mb)}")
    if filesystem is not None:
        _guard(filesystem in FILESYSTEMS, "ROOTFS_FILESYSTEM", filesystem)
        arguments.append(f"ROOTFS_FILESYSTEM={filesystem}")
    return tuple(arguments)


def _selection(profile: str, packages: Sequence[str]) -> tuple[str, str]:
    _guard(PROFILE.fullmatch(profile), "PROFILE", profile)
    for package in packages:
        _guard(PACKAGE.fullmatch(package), "PACKAGES", package)
    joined = " ".join(packages)
    _guard(len(joined) <= 2 * MAX_PACKAGES_LENGTH, "PACKAGES", f"{len(joined)} characters")
    return f"PROFILE={profile}", f"PACKAGES={joined}"


def _guard(safe: object, variable: str, value: str) -> None:
    if not safe:
        raise BuildFailed(FailureReason.INTERNAL, f"Error: refused to pass {variable}={value[:80]!r} to make")


_PROFILE_HEADER = re.compile(r"([A-Za-z0-9_.-]+):")


def parse_info(stdout: str) -> ImageBuilderInfo:
    """What `make info` printed; `BuildFailed` when it is not such a text or lists no profile.

    With perl missing, `make info` exits 0 and lists no profile, silently: that is a broken
    ImageBuilder, not an empty one.
    """
    head, _, tail = stdout.partition("Available Profiles:")
    revision = re.search(r'^Current Revision: "([^"\n]*)"$', head, re.MULTILINE)
    target = re.search(r'^Current Target: "([^"\n]*)"$', head, re.MULTILINE)
    defaults = re.search(r"^Default Packages: (.*)$", head, re.MULTILINE)
    profiles = dict(_parse_profiles(tail.splitlines()))
    if not (revision and defaults and target and profiles):
        raise BuildFailed(
            FailureReason.SETUP_FAILED,
            "Error: The ImageBuilder does not say what it can build (`make info` lists no profile). "
            "Its container image is broken; the operator should look at it.",
        )
    return ImageBuilderInfo(target[1], revision[1], tuple(defaults[1].split()), profiles)


def _parse_profiles(lines: Iterable[str]) -> Iterable[tuple[str, ProfileInfo]]:
    profile: str | None = None
    body: list[str] = []
    for line in lines:
        header = _PROFILE_HEADER.fullmatch(line)
        if header:
            if profile is not None:
                yield profile, _parse_profile(body)
            profile, body = header[1], []
        elif line.startswith("    "):
            body.append(line[4:])
    if profile is not None:
        yield profile, _parse_profile(body)


def _parse_profile(body: Sequence[str]) -> ProfileInfo:
    # A title may itself look like "Packages: x": only the first line can be one.
    title = body[0] if body and not body[0].startswith("Packages: ") else ""
    words = {
        key: value.split() for key, _, value in (line.partition(": ") for line in body[1 if title else 0 :])
    }
    return ProfileInfo(title, tuple(words.get("Packages", ())), tuple(words.get("SupportedDevices", ())))


def parse_manifest(stdout: str) -> dict[str, str]:
    """Names and versions that `make manifest` printed; lines of any other form are skipped.

    opkg and current apk print "name - version", apk of 2024 and 2025 printed "name version".
    """
    manifest = {}
    for line in stdout.splitlines():
        name, separator, version = line.partition(" - ")
        if not separator:
            name, separator, version = line.partition(" ")
        if separator and PACKAGE.fullmatch(name) and version and " " not in version.strip():
            manifest[name] = version.strip()
    return manifest
