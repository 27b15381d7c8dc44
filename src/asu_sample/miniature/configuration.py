"""What a sample ImageBuilder was made for, read from `sample.json`, and the variables make was given.

The Makefile hands variables over as plain environment; a record is kept of dangerous ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

FILE_NAME = "sample.json"


@dataclass(frozen=True)
class ImageRecipe:
    """One image of a profile.

    `limit` is in bytes, 0 for none; `wording` picks how an oversized image is reported; `bare` means the root
    file system alone, without kernel; `partition` pads it to the root partition; `metadata` adds fwtool
    trailers. `gzip_later` is the trap of ext4 images: profiles.json describes the file before it was
    compressed.
    """

    name: str
    filesystem: str
    metadata: bool = True
    limit: int = 0
    wording: str = "check-size"
    bare: bool = False
    partition: bool = False
    gzip_later: bool = False


@dataclass(frozen=True)
class Profile:
    """A device as `make info` and profiles.json describe it."""

    id: str
    titles: tuple[dict[str, str], ...]
    packages: tuple[str, ...] = ()
    supported_devices: tuple[str, ...] = ()
    images: tuple[ImageRecipe, ...] = ()
    artifacts: tuple[str, ...] = ()
    kernel: bool = False
    rootfs_tarball: bool = False
    file_size_limits: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Titles as one line of text; alternative names follow in parentheses."""
        first, *others = [
            title.get("title")
            or " ".join(title[key] for key in ("vendor", "model", "variant") if key in title)
            for title in self.titles
        ]
        return first + (f" ({', '.join(others)})" if others else "")


@dataclass(frozen=True)
class Configuration:
    """Everything baked into one sample ImageBuilder. `epoch` is in Unix seconds, `rootfs_partsize` in MiB."""

    package_manager: str
    version: str
    revision: str
    target: str
    architecture: str
    kernel_architecture: str
    kernel: dict[str, str]
    epoch: int
    default_packages: tuple[str, ...]
    profiles: tuple[Profile, ...]
    filesystems: tuple[str, ...]
    rootfs_partsize: int = 32
    info_shows_architecture: bool = True
    manifest_separator: str = " - "
    selects_filesystem: bool = False
    revision_in_names: bool = False
    sizes_in_profiles_json: bool = True

    @property
    def board(self) -> str:
        """The target without its subtarget."""
        return self.target.split("/")[0]

    def profile(self, name: str) -> Profile | None:
        """The profile called `name`, also as `DEVICE_<name>`; the first one for an empty name; None if
        unknown."""
        if not name:
            return self.profiles[0]
        wanted = name[len("DEVICE_") :] if name.startswith("DEVICE_") else name
        return next((profile for profile in self.profiles if profile.id == wanted), None)

    def file_prefix(self, extra: str) -> str:
        """`openwrt-[version-][revision-][extra-]target-subtarget`, each part but the target sanitised."""
        parts = ["openwrt"]
        if self.version != "SNAPSHOT":
            parts.append(sanitise(self.version))
        if self.revision_in_names:
            parts.append(sanitise(self.revision))
        if extra:
            parts.append(sanitise(extra))
        return "-".join((*parts, *self.target.split("/")))


def sanitise(text: str) -> str:
    """Lower case, space and underscore to dash, nothing else: what OpenWrt does to the parts of image
    names."""
    return text.lower().replace(" ", "-").replace("_", "-")


def load(directory: Path) -> Configuration:
    """Read `sample.json` of an ImageBuilder directory. Raises OSError or ValueError when it is unusable."""
    fields: dict[str, Any] = json.loads((directory / FILE_NAME).read_text())
    profiles = tuple(
        replace(
            Profile(**_with_tuples(profile)),
            images=tuple(ImageRecipe(**image) for image in profile["images"]),
        )
        for profile in fields.pop("profiles")
    )
    return Configuration(**_with_tuples(fields), profiles=profiles)


def render(configuration: Configuration) -> str:
    """The text of `sample.json`."""
    return json.dumps(asdict(configuration), indent=1, sort_keys=True) + "\n"


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


LOG_NAME = "dangerous-arguments.log"
_HARMLESS = re.compile(r"[A-Za-z0-9_]+=[A-Za-z0-9 ._+/-]*")


@dataclass(frozen=True)
class Arguments:
    """Variables of the ImageBuilder's interface as they were written on the command line, never expanded."""

    profile: str = ""
    packages: tuple[str, ...] = ()
    files: str = ""
    bin_dir: str = ""
    extra_image_name: str = ""
    disabled_services: tuple[str, ...] = ()
    add_local_key: bool = False
    rootfs_partsize: str = ""
    rootfs_filesystem: str = ""
    strip_abi: bool = False
    package: str = ""


def read_arguments(environment: Mapping[str, str]) -> Arguments:
    """Collect what the Makefile exported with the prefix `MINIATURE_`."""

    def value(name: str) -> str:
        return environment.get(f"MINIATURE_{name}", "")

    return Arguments(
        profile=value("PROFILE").strip(),
        packages=tuple(value("PACKAGES").split()),
        files=value("FILES"),
        bin_dir=value("BIN_DIR"),
        extra_image_name=value("EXTRA_IMAGE_NAME"),
        disabled_services=tuple(value("DISABLED_SERVICES").split()),
        add_local_key=bool(value("ADD_LOCAL_KEY")),
        rootfs_partsize=value("ROOTFS_PARTSIZE"),
        rootfs_filesystem=value("ROOTFS_FILESYSTEM"),
        strip_abi=bool(value("STRIP_ABI")),
        package=value("PACKAGE"),
    )


def record_dangerous(environment: Mapping[str, str], directory: Path) -> None:
    """Append every argument that the real ImageBuilder could have run as code to a log in `directory`.

    The file does not exist unless something dangerous came, so a test can assert that nothing ever did. Each
    line is the repr of `NAME=value`.
    """
    text = environment.get("MINIATURE_ARGUMENTS", "")
    lines = [line.lstrip(" ") for line in text.split("\n") if line.strip()]
    dangerous = [line for line in lines if not _HARMLESS.fullmatch(line)]
    if len(lines) != int(environment.get("MINIATURE_COUNT", "0")):
        dangerous = [text]  # a value held line breaks, so the lines cannot be told apart
    if dangerous:
        with (directory / LOG_NAME).open("a") as log:
            log.writelines(f"{line!r}\n" for line in dangerous)
