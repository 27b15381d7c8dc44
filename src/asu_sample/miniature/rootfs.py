"""The root file system: package files, overlay, post-install scripts, services; then all of it as one blob.

Blobs are squashfs, ext4, tar.gz or cpio.gz. squashfs and ext4 need mksquashfs and mke2fs. Where a tool is
absent the blob is a cpio.gz instead, said on stderr, so a sample works on every machine; file names stay.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Collection
from pathlib import Path

from .console import err, out
from .packages import Content

_RC_COMMON = "#!/bin/sh /etc/rc.common"
_FORBIDDEN = re.compile(r"(^|/)(\.git|\.svn|\.#[^/]*)(/|$)")


class FileClash(Exception):
    """Two packages bring the same file: `path` without leading slash, `owner` is the package that was
    first."""

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(f"{path} is owned by {owner}")
        self.path = path
        self.owner = owner


class PostinstFailed(Exception):
    """A post-install script ended with `status`; `script` is its path relative to the root file system."""

    def __init__(self, script: str, status: int) -> None:
        super().__init__(f"{script} ended with {status}")
        self.script = script
        self.status = status


class Rootfs:
    """A directory that becomes the root partition. Nothing in it is ever run but post-install scripts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owners: dict[str, str] = {}
        self._scripts: list[str] = []
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)

    def install(self, content: Content) -> None:
        """Write the files of a package. Raises FileClash before anything is written."""
        name = content.package.name
        for file in content.files:
            if self._owners.get(file, name) != name:
                raise FileClash(file, self._owners[file])
        for file, entry in content.files.items():
            self._owners[file] = name
            self.write(file, entry.content, entry.mode)

    def write(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Create a file below the root. Raises ValueError for a path that would leave it."""
        if name.startswith("/") or ".." in Path(name).parts:
            raise ValueError(f"path leaves the root file system: {name}")
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(mode)

    def add_script(self, name: str, text: str) -> None:
        """Remember a post-install script, kept at `name` in the root file system."""
        self.write(name, text.encode(), 0o755)
        self._scripts.append(name)

    def overlay(self, files: Path) -> None:
        """Copy `FILES` over the root with modes and links; a path that is no directory is ignored, as
        upstream does."""
        if not files.is_dir():
            return
        for folder, subfolders, names in os.walk(files):
            relative = Path(folder).relative_to(files)
            for name in sorted((*subfolders, *names)):
                source, target = Path(folder) / name, self.path / relative / name
                if source.is_symlink():
                    _remove(target)
                    target.symlink_to(source.readlink())
                    continue
                if target.is_symlink() or (target.is_dir() and not source.is_dir()):
                    _remove(target)
                if source.is_dir():
                    target.mkdir(exist_ok=True)
                    shutil.copymode(source, target)
                elif source.is_file():
                    shutil.copy2(source, target)

    def run_postinst(self) -> None:
        """Run the post-install scripts in order of installation.

        Raises PostinstFailed at the first failure.
        """
        for script in self._scripts:
            environment = {"IPKG_INSTROOT": str(self.path), "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
            command = ["/bin/sh", f"./{script}"]
            status = subprocess.run(command, cwd=self.path, env=environment, check=False).returncode
            if status:
                raise PostinstFailed(f"./{script}", status)

    def enable_services(self, disabled: Collection[str]) -> None:
        """Link etc/rc.d/S<start><name> to each init script that is not disabled, one line of output for
        each."""
        for script in sorted((self.path / "etc/init.d").glob("*")):
            lines = script.read_text(errors="replace").splitlines() if script.is_file() else []
            if lines[:1] != [_RC_COMMON]:
                continue
            if script.name in disabled:
                out(f"Disabling {script.name}")
                continue
            out(f"Enabling {script.name}")
            for letter, key in (("S", "START"), ("K", "STOP")):
                number = next((line[len(key) + 1 :] for line in lines if line.startswith(f"{key}=")), "")
                if number.isdigit():
                    link = self.path / "etc/rc.d" / f"{letter}{number}{script.name}"
                    link.parent.mkdir(parents=True, exist_ok=True)
                    _remove(link)
                    link.symlink_to(f"../init.d/{script.name}")

    def finish(self, epoch: int) -> None:
        """Drop what never reaches a device (version control folders, /boot, /tmp/*) and set all times to
        `epoch`."""
        for path in sorted(self.path.rglob("*"), reverse=True):
            relative = path.relative_to(self.path).as_posix()
            if relative.startswith(("boot/", "tmp/")) or relative == "boot" or _FORBIDDEN.search(relative):
                _remove(path)
        for path in (*self.path.rglob("*"), self.path):
            os.utime(path, (epoch, epoch), follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


_UUID = "a5b0b01d-e75a-4000-8000-00005a3b1e00"
_EXT4_FEATURES = "^has_journal,^metadata_csum,^64bit,^resize_inode,^dir_index"
_BLOCK = 4096


class OutOfSpace(Exception):
    """The root partition is too small; `blocks` of 4 KiB did not fit."""

    def __init__(self, blocks: int) -> None:
        super().__init__(f"{blocks} blocks do not fit")
        self.blocks = blocks


class ToolFailed(Exception):
    """A program that makes file systems failed for another reason than space; the text holds its name and
    status."""


def make_blob(root: Path, filesystem: str, *, epoch: int, megabytes: int) -> bytes:
    """The directory `root` as a blob.

    `megabytes` is the size of an ext4 file system. Raises OutOfSpace or ToolFailed.
    """
    if filesystem == "ext4":
        return _ext4(root, epoch, megabytes)
    if filesystem == "squashfs":
        return _squashfs(root, epoch)
    return cpio_gz(root, epoch) if filesystem == "cpiogz" else tar_gz(root, epoch)


def _members(root: Path) -> list[Path]:
    return sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix())


def tar_gz(root: Path, epoch: int) -> bytes:
    """A gzipped tar with root as owner of everything."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in _members(root):
            entry = archive.gettarinfo(path, f"./{path.relative_to(root).as_posix()}")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = epoch
            if entry.isreg():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    return gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0)


def cpio_gz(root: Path, epoch: int) -> bytes:
    """A gzipped cpio archive in `newc` format: ASCII headers of eight hex digits each, everything padded
    to four."""
    parts = []
    for number, path in enumerate(_members(root), 1):
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        else:
            content = path.read_bytes() if path.is_file() else b""
        name = path.relative_to(root).as_posix().encode()
        parts.append(_cpio_entry(number, path.lstat().st_mode, epoch, name, content))
    parts.append(_cpio_entry(0, 0, 0, b"TRAILER!!!", b""))
    return gzip.compress(b"".join(parts), compresslevel=6, mtime=0)


def _cpio_entry(inode: int, mode: int, epoch: int, name: bytes, content: bytes) -> bytes:
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, mode, 0, 0, 1, epoch, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _instead(tool: str, root: Path, epoch: int) -> bytes:
    err(f"sample: {tool} is not installed, the image carries a cpio.gz root file system instead")
    return cpio_gz(root, epoch)


def _work_file(root: Path, suffix: str) -> Path:
    path = root.parent / f"root.{suffix}"
    path.unlink(missing_ok=True)
    return path


def _squashfs(root: Path, epoch: int) -> bytes:
    tool = shutil.which("mksquashfs")
    if tool is None:
        return _instead("mksquashfs", root, epoch)
    target = _work_file(root, "squashfs")
    options = ["-noappend", "-root-owned", "-no-xattrs", "-no-progress", "-quiet", "-processors", "2"]
    times = ["-mkfs-time", str(epoch), "-all-time", str(epoch)]
    # mksquashfs refuses its own time options when SOURCE_DATE_EPOCH is set as well.
    environment = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    command = [tool, str(root), str(target), *options, *times]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=environment)
    if done.returncode:
        raise ToolFailed(f"mksquashfs ended with {done.returncode}")
    return target.read_bytes()


def _ext4(root: Path, epoch: int, megabytes: int) -> bytes:
    blocks = sum(-(-path.lstat().st_size // _BLOCK) for path in root.rglob("*"))
    out("Creating filesystem with parameters:")
    out(f"    Size: {megabytes << 20}\n    Block size: {_BLOCK}\n    Label: rootfs\n    UUID: {_UUID}")
    if blocks * _BLOCK > megabytes << 20:
        raise OutOfSpace(blocks - (megabytes << 20) // _BLOCK)
    tool = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
    if tool is None:
        return _instead("mke2fs", root, epoch)
    target = _work_file(root, "ext4")
    with target.open("wb") as file:
        file.truncate(megabytes << 20)
    command = [tool, "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-I", "128", "-O", _EXT4_FEATURES]
    command += ["-L", "rootfs", "-U", _UUID, "-E", f"hash_seed={_UUID},root_owner=0:0", "-d", str(root)]
    environment = {**os.environ, "E2FSPROGS_FAKE_TIME": str(epoch)}
    command.append(str(target))
    quiet = subprocess.DEVNULL
    done = subprocess.run(command, check=False, env=environment, stdout=quiet, stderr=quiet)
    if done.returncode:
        raise OutOfSpace(max(blocks // 8, 1))
    out(f"Created filesystem with {blocks} blocks")
    return _flatten(bytearray(target.read_bytes()), epoch)


def _flatten(image: bytearray, epoch: int) -> bytes:
    """Give every inode to root and set its times to `epoch`: mke2fs copies owner and change time of the
    source."""
    superblock = image[1024:2048]
    (total,) = struct.unpack_from("<I", superblock, 0)
    (per_group,) = struct.unpack_from("<I", superblock, 0x28)
    for group in range(-(-total // per_group)):
        # With 4 KiB blocks the group descriptors (32 bytes each) fill the block after the superblock.
        (table,) = struct.unpack_from("<I", image, _BLOCK + 32 * group + 8)
        for number in range(per_group):
            start = table * _BLOCK + 128 * number
            (mode,) = struct.unpack_from("<H", image, start)
            if mode:
                struct.pack_into("<H", image, start + 2, 0)
                struct.pack_into("<III", image, start + 8, epoch, epoch, epoch)
                struct.pack_into("<H", image, start + 24, 0)
                struct.pack_into("<I", image, start + 100, 0)
                struct.pack_into("<I", image, start + 120, 0)
    return bytes(image)
