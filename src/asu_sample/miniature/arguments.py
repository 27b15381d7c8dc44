"""The variables make was given, handed over by the Makefile as plain environment, and a record of
dangerous ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


def read(environment: Mapping[str, str]) -> Arguments:
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
        dangerous = [text]  # a value had lines of its own, so the lines cannot be told apart
    if dangerous:
        with (directory / LOG_NAME).open("a") as log:
            log.writelines(f"{line!r}\n" for line in dangerous)
