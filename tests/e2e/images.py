"""Looking inside images: which files the root file system holds, and which trailers follow it."""

import gzip
import subprocess
from dataclasses import dataclass
from pathlib import Path

import sample_make
from asu_sample.miniature.images import last_chunk
from tools import require_tool

_SQUASHFS = b"hsqs"
_DEFAULTS = "etc/uci-defaults/99-asu-defaults"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A root file system, unpacked to a directory."""

    root: Path

    def has(self, path: str) -> bool:
        """Whether there is such a file or link, even one that leads nowhere here."""
        place = self.root / path
        return place.exists() or place.is_symlink()

    def has_package(self, name: str) -> bool:
        """Whether a package of the sample distribution is installed."""
        return self.has(f"usr/share/sample/{name}")

    def starts(self, service: str) -> bool:
        """Whether a service is enabled: linked from rc.d."""
        return any(link.is_symlink() for link in (self.root / "etc/rc.d").glob(f"S[0-9][0-9]{service}"))

    @property
    def defaults(self) -> str | None:
        """The script of the first boot."""
        path = self.root / _DEFAULTS
        return path.read_text() if path.exists() else None


def unsquash(image: bytes, into: Path) -> Unpacked:
    """Unpacks the squashfs that starts somewhere in an image."""
    require_tool("squashfs", "unsquashfs")
    return Unpacked(sample_make.unsquash(image[image.index(_SQUASHFS) :], into))


def ext4_names(image_gz: bytes, directory: str, into: Path) -> list[str]:
    """Names in one directory of a gzipped bare ext4 image."""
    require_tool("ext4", "debugfs")
    file = into / "rootfs.ext4"
    file.write_bytes(gzip.decompress(image_gz))
    listed = subprocess.run(["debugfs", "-R", f"ls -p {directory}", file], check=True, capture_output=True)
    return [line.split("/")[5] for line in listed.stdout.decode().splitlines() if line.count("/") > 5]


def kinds_of_trailers(image: bytes) -> list[int]:
    """Types of the fwtool chunks at an image's end, last first; each must have a correct checksum."""
    kinds = []
    while found := last_chunk(image):
        image, kind, _ = found
        kinds.append(kind)
    return kinds
