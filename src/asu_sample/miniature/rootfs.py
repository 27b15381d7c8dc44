"""The root file system: package files, overlay, post-install scripts, services."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from .archives import Content
from .console import err, out

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
                self._copy(Path(folder) / name, self.path / relative / name)

    def _copy(self, source: Path, target: Path) -> None:
        replaces = target.is_symlink() or (target.is_dir() and not source.is_dir())
        if source.is_symlink():
            if target.exists() or target.is_symlink():
                _remove(target)
            target.symlink_to(source.readlink())
            return
        if replaces:
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


def report_postinst(failure: PostinstFailed) -> None:
    """The line make prints for a failed script."""
    err(f"postinst script {failure.script} has failed with exit code {failure.status}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
