"""Call `make` in an ImageBuilder directory, and look into what came out of it.

For tests and demonstrations.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from asu_sample.miniature.images import KERNEL_SIZE, last_chunk


@dataclass(frozen=True)
class Run:
    """How one call of make ended."""

    status: int
    stdout: str
    stderr: str


def command(goal: str, variables: dict[str, str]) -> list[str]:
    """The argument words of one call: each variable is one word, no shell ever sees it."""
    return ["make", goal, *(f"{name}={value}" for name, value in variables.items())]


def make(tree: Path, goal: str, variables: dict[str, str] | None = None, *, timeout: float = 60) -> Run:
    """Run one goal in the directory `tree` with a clean environment, as a careful driver does.

    `timeout` is in seconds; subprocess.TimeoutExpired is raised after it. Output that is not text is
    replaced.
    """
    # The interpreter that runs us comes first: version managers put slow wrappers into PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tree), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command(goal, variables or {}),
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def split_trailers(image: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """An image without its fwtool chunks, and the chunks (type, data) from last to first."""
    chunks = []
    while (found := last_chunk(image)) is not None:
        image, kind, data = found
        chunks.append((kind, data))
    return image, chunks


def root_blob(image: bytes) -> bytes:
    """The root file system with padding of a sample image: what follows the 64 KiB of kernel."""
    return split_trailers(image)[0][KERNEL_SIZE:]


def unsquash(blob: bytes, folder: Path) -> Path:
    """Unpack a squashfs blob below `folder` and return the root.

    Raises FileNotFoundError without unsquashfs.
    """
    tool = shutil.which("unsquashfs")
    if tool is None:
        raise FileNotFoundError("unsquashfs is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "blob").write_bytes(blob)
    words = [tool, "-quiet", "-no-progress", "-dest", str(folder / "root"), str(folder / "blob")]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return folder / "root"
