"""Which files of this host make a small root file system that can run the sample ImageBuilder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_REQUIRED = ("sh", "make", "tar", "gzip", "sleep", "env", "cat", "cp", "ls", "mkdir", "rm", "mv", "id")
_OPTIONAL = """
    bash chmod chown cut date dd df echo false find grep head ln mksquashfs mke2fs mktemp printf ps pwd
    readlink sed sha256sum sort stat sync tail test touch true uname unsquashfs wc whoami xz zcat gunzip
"""
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOADED_LATER = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
"""Libraries that ldd cannot see: glibc opens them when a thread ends or a host name is looked up."""
_SKIPPED = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "__pycache__",
}


class ToolMissing(Exception):
    """The host lacks a program without which no sample container can be made; the text names it."""


def collect() -> dict[str, Path]:
    """Path in the container (without leading slash) → file on this host, symbolic links already followed.

    Programs come with their shared libraries as ldd lists them, python3 with its standard library. Raises
    ToolMissing.
    """
    files: dict[str, Path] = {}
    programs = [*_programs(), _python()]
    for name, path in programs:
        files[f"usr/bin/{name}"] = path
    standard_library = list(_standard_library())
    files.update(standard_library)
    binaries = [path for _, path in programs]
    binaries += [path for _, path in standard_library if ".so" in path.suffixes]
    for library in _shared_libraries(frozenset(binaries)):
        files[str(library).lstrip("/")] = library.resolve()
    return files


def _programs() -> Iterator[tuple[str, Path]]:
    for name in (*_REQUIRED, *_OPTIONAL.split()):
        found = shutil.which(name, path=_SEARCH_PATH)
        if found:
            yield name, Path(found).resolve()
        elif name in _REQUIRED:
            raise ToolMissing(f"{name} is not installed on this host")


def _python() -> tuple[str, Path]:
    # The interpreter of a virtual environment is a link to the real one, which finds its library below its
    # prefix.
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return "python3", (base if base.exists() else Path(sys.executable)).resolve()


def _standard_library() -> Iterator[tuple[str, Path]]:
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for source in {Path(paths["stdlib"]), Path(paths["platstdlib"])}:
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if path.is_file() and not _SKIPPED.intersection(relative.parts) and path.suffix != ".a":
                yield f"usr/lib/{version}/{relative}", path.resolve()


@cache
def _shared_libraries(binaries: frozenset[Path]) -> set[Path]:
    """Found once in a process: ldd takes two seconds for them all."""
    command = ["ldd", *sorted({str(path) for path in binaries})]
    try:
        listing = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise ToolMissing("ldd is not installed on this host") from error
    # "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)"
    found = {Path(name) for name in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", listing, flags=re.MULTILINE)}
    folders = {path.parent for path in found if path.name.startswith("libc.so")}
    return found | {path for folder in folders for name in _LOADED_LATER if (path := folder / name).exists()}
