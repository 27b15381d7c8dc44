"""A container image with a sample ImageBuilder, made of this host's own files: no registry, no network.

Inside, everything is as drivers expect it of OpenWrt's images: user `buildbot`, working directory `/builder`,
a shell as command. THE IMAGES BUILT IN IT FLASH NOTHING.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO, Any

USER, UID = "buildbot", 1000
WORKDIR = "/builder"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_FOLDERS = ("etc", "proc", "sys", "dev", "run", "usr/bin", "usr/lib", "var")
_ETC = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{UID}:{UID}:sample:{WORKDIR}:/bin/sh\n",
    "etc/group": f"root:x:0:\n{USER}:x:{UID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'NAME="ASU Builder sample"\nPRETTY_NAME="ASU Builder sample, flashes nothing"\n',
}
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "usr/sbin": "bin", "usr/bin/python": "python3"}
_CHUNK = 1024 * 1024


def write_root_filesystem(builder: Path, output: IO[bytes]) -> None:
    """Write a tar of the whole root file system to `output`, with the directory `builder` as `/builder`.

    `builder` is an unpacked ImageBuilder or the start of a snapshot container. Raises ToolMissing
    when this host lacks a program.
    """
    files = collect()
    # Hosts with one merged /usr have links here; others get real folders from the files.
    merged = [name for name in ("lib", "lib64") if Path("/", name).is_symlink()]
    links = {**_LINKS, **{name: f"usr/{name}" for name in merged}}
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for folder in _FOLDERS:
            archive.addfile(_entry(folder, tarfile.DIRTYPE, mode=0o755))
        archive.addfile(_entry("tmp", tarfile.DIRTYPE, mode=0o1777))
        for name, target in links.items():
            entry = _entry(name, tarfile.SYMTYPE)
            entry.linkname = target
            archive.addfile(entry)
        for name, text in _ETC.items():
            entry = _entry(name, tarfile.REGTYPE, mode=0o644)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
        for name, path in sorted(files.items()):
            place = f"usr/{name}" if name.split("/")[0] in merged else name
            # Byte code is used while its source is as old as it says.
            _add_file(archive, place, path, moment=int(path.stat().st_mtime))
        archive.addfile(_entry("builder", tarfile.DIRTYPE, owner=UID))
        for path in sorted(builder.rglob("*")):
            name = f"builder/{path.relative_to(builder)}"
            if path.is_dir():
                archive.addfile(_entry(name, tarfile.DIRTYPE, owner=UID))
            elif path.is_file():
                _add_file(archive, name, path, owner=UID)


def import_image(socket_url: str, reference: str, builder: Path) -> str:
    """Make a container image called `reference` (`name:tag`) of `builder` through Podman's API.

    `socket_url` is where that API listens, as `unix:///path/podman.sock`.

    Returns the image id. Raises ToolMissing, or podman's errors when the service cannot be reached
    or refuses. The image is streamed; nothing but the client's buffers is held in memory.
    """
    import podman

    parameters = {
        "reference": reference,
        "message": "ASU Builder sample, flashes nothing",
        "changes": [f"USER {USER}", f"WORKDIR {WORKDIR}", f"ENV PATH={PATH}", 'CMD ["/bin/bash"]'],
    }
    with podman.PodmanClient(base_url=socket_url) as client:
        # podman-py's annotation forgets that requests streams any iterable of bytes.
        stream: Any = _streamed(lambda output: write_root_filesystem(builder, output))
        headers = {"Content-Type": "application/x-tar"}
        answer = client.api.post("/images/import", params=parameters, data=stream, headers=headers)
        answer.raise_for_status()
        return str(answer.json()["Id"])


def _entry(name: str, kind: bytes, *, mode: int = 0o755, owner: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    entry.uid = entry.gid = owner
    return entry


def _add_file(archive: tarfile.TarFile, name: str, path: Path, *, owner: int = 0, moment: int = 0) -> None:
    # Set-user bits do not belong into a sample, readable files do: the container's user is not the host's.
    mode = 0o755 if path.stat().st_mode & 0o111 else 0o644
    entry = _entry(name, tarfile.REGTYPE, mode=mode, owner=owner)
    entry.size, entry.mtime = path.stat().st_size, moment
    with path.open("rb") as file:
        archive.addfile(entry, file)


def _streamed(write: Callable[[IO[bytes]], None]) -> Iterator[bytes]:
    """Turn a function that writes to a file into an iterator of chunks, by a thread and a pipe."""
    reading, writing = os.pipe()
    failure: Queue[BaseException] = Queue()

    def run() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=_CHUNK) as output:
                write(output)
        except BrokenPipeError:
            pass  # the reader gave up and says why itself
        except Exception as error:  # noqa: BLE001 - handed to the reading thread
            failure.put(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as source:
        while chunk := source.read(_CHUNK):
            yield chunk
    thread.join()
    if not failure.empty():
        raise failure.get()


_REQUIRED = ("sh", "make", "tar", "gzip", "sleep", "env", "cat", "cp", "ls", "mkdir", "rm", "mv", "id")
_OPTIONAL = """
    bash chmod chown cut date dd df echo false find grep head ln mksquashfs mke2fs mktemp printf ps pwd
    readlink sed sha256sum sort stat sync tail test touch true uname unsquashfs wc whoami xz zcat zstd gunzip
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
    "distutils",
    "pydoc_data",
    "__pycache__",
}
_SKIPPED_MODULES = ("_tkinter.", "_test", "_ctypes_test.", "_xxtestfuzz.", "xxlimited")
"""Beginnings of compiled modules that nothing imports in there; the first needs libraries of the desktop."""


class ToolMissing(Exception):
    """The host lacks a program without which no sample container can be made; the text names it."""


def collect() -> dict[str, Path]:
    """Path in the container (without leading slash) → file on this host, symbolic links already followed.

    Programs come with their shared libraries as ldd lists them, python3 with its standard library and the
    byte code that this host has of it: without, each call of make compiles for a third of a second. Raises
    ToolMissing.
    """
    files: dict[str, Path] = {}
    for name in (*_REQUIRED, *_OPTIONAL.split()):
        found = shutil.which(name, path=_SEARCH_PATH)
        if found:
            files[f"usr/bin/{name}"] = Path(found).resolve()
        elif name in _REQUIRED:
            raise ToolMissing(f"{name} is not installed on this host")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # The interpreter of a virtual environment is a link to the real one, which finds its library below its
    # prefix.
    base = Path(sys.base_prefix) / "bin" / version
    files["usr/bin/python3"] = (base if base.exists() else Path(sys.executable)).resolve()
    binaries = list(files.values())
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    for source in {Path(paths["stdlib"]), Path(paths["platstdlib"])}:
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            unused = _SKIPPED.intersection(relative.parts) or path.name.startswith(_SKIPPED_MODULES)
            if path.is_file() and not unused and path.suffix != ".a":
                files[f"usr/lib/{version}/{relative}"] = path.resolve()
                if ".so" in path.resolve().suffixes:
                    binaries.append(path.resolve())
                compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
                if path.suffix == ".py" and compiled.is_file():
                    files[f"usr/lib/{version}/{compiled.relative_to(source)}"] = compiled
    for library in _shared_libraries(frozenset(binaries)):
        files[str(library).lstrip("/")] = library.resolve()
    return files


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
