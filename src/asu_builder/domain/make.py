"""The ImageBuilder's make goals: arguments in, parsed text out (facts on the ImageBuilder, §2).

A make variable is code: its value is expanded by make and pasted into a shell. So this is the
last gate, and it checks again everything that the request had already checked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.printed import lines_of
from asu_builder.domain.request import (
    FILESYSTEM,
    MAX_PACKAGES_LENGTH,
    PACKAGE,
    PROFILE,
    UPSTREAM_PACKAGE,
)

_INNER_PATH = re.compile(r"/[A-Za-z0-9_./-]{1,200}")
_EXTRA_NAME = re.compile(r"[a-z0-9-]{1,64}")


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
        _guard(FILESYSTEM.fullmatch(filesystem), "ROOTFS_FILESYSTEM", filesystem)
        arguments.append(f"ROOTFS_FILESYSTEM={filesystem}")
    return tuple(arguments)


def _selection(profile: str, packages: Sequence[str]) -> tuple[str, str]:
    _guard(PROFILE.fullmatch(profile), "PROFILE", profile)
    for package in packages:
        _guard(PACKAGE.fullmatch(package) or _removes_upstreams(package), "PACKAGES", package)
    joined = " ".join(packages)
    _guard(len(joined) <= 2 * MAX_PACKAGES_LENGTH, "PACKAGES", f"{len(joined)} characters")
    return f"PROFILE={profile}", f"PACKAGES={joined}"


def _removes_upstreams(package: str) -> bool:
    # Behind the minus a shell expands no `~`; by itself `~root` would be a directory.
    return package.startswith("-~") and UPSTREAM_PACKAGE.fullmatch(package) is not None


def _guard(safe: object, variable: str, value: str) -> None:
    if not safe:
        raise BuildFailed(FailureReason.INTERNAL, f"Error: refused to pass {variable}={value[:80]!r} to make")


_PROFILES = "Available Profiles:"
_HEAD = ("Current Revision", "Current Target", "Default Packages")
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
    revision, target = (_unquoted(said.get(key, "")) for key in ("Current Revision", "Current Target"))
    defaults = said.get("Default Packages")
    profiles = dict(_parse_profiles(lines[at:]))
    if revision is None or target is None or defaults is None or not profiles:
        raise BuildFailed(
            FailureReason.SETUP_FAILED,
            "Error: The ImageBuilder does not say what it can build (`make info` lists no profile). "
            "It is broken; try again later, or choose another version.",
        )
    sound, odd = _sift(defaults.split())
    return ImageBuilderInfo(target, revision, sound, profiles, odd)


def _unquoted(text: str) -> str | None:
    """What stands between quotation marks; None where there are none around it."""
    inner = text[1:-1]
    return inner if len(text) > 1 and text == f'"{inner}"' and '"' not in inner else None


def _sift(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that may be told to make again, and the others."""
    names = list(names)
    sound = tuple(name for name in names if UPSTREAM_PACKAGE.fullmatch(name))
    return sound, tuple(name for name in names if not UPSTREAM_PACKAGE.fullmatch(name))


def _parse_profiles(lines: Iterable[str]) -> Iterable[tuple[str, ProfileInfo]]:
    profile: str | None = None
    body: list[str] = []
    for line in lines:
        header = _PROFILE_HEADER.fullmatch(line) if line.endswith(":") else None
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
    sound, odd = _sift(words.get("Packages", ()))
    return ProfileInfo(title, sound, tuple(words.get("SupportedDevices", ())), odd)


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
