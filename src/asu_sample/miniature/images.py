"""Image files of one profile. THEY FLASH NOTHING: the kernel is a line of text, padded.

Layout of every image but bare root file systems: 64 KiB of kernel blob, then the root file system, padding,
and fwtool trailers where the recipe wants them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from . import MARKER, trailers, usign
from .configuration import Configuration, ImageRecipe, Profile
from .console import err, out

KERNEL_SIZE = 64 * 1024
"""Bytes before the root file system."""


@dataclass(frozen=True)
class Image:
    """An image as profiles.json lists it; sizes in bytes."""

    name: str
    type: str
    filesystem: str
    sha256: str
    sha256_unsigned: str
    size: int


@dataclass(frozen=True)
class Assembly:
    """What all images of one build share."""

    configuration: Configuration
    profile: Profile
    folder: Path
    prefix: str
    rootfs_megabytes: int
    signing_key: usign.SigningKey | None
    work: Path


def kernel(configuration: Configuration) -> bytes:
    """The kernel blob: the marker and the version, then zeros."""
    version = f"{configuration.version} {configuration.revision} {configuration.target}"
    return f"{MARKER}\nASU Builder sample {version}\n".encode().ljust(KERNEL_SIZE, b"\0")


def write(assembly: Assembly, recipe: ImageRecipe, rootfs: bytes) -> Image | None:
    """Make one device image; None when it turned out too big, which make reports and survives."""
    name = f"{assembly.prefix}-{recipe.filesystem}-{recipe.name}"
    content = _content(assembly, recipe, rootfs)
    if recipe.limit and len(content) > recipe.limit:
        _report_too_big(assembly, recipe, name, len(content))
        return None
    unsigned, signed = _with_trailers(assembly, recipe, content)
    records = -(-len(unsigned) // 512)
    err(f"{records}+0 records in\n{records}+0 records out")
    err(f"{len(unsigned)} bytes ({len(unsigned) / 1e6:.1f} MB) copied, 0.0123 s, 99.9 MB/s")
    if recipe.gzip_later:
        delivered = gzip.compress(signed, compresslevel=1, mtime=0)
        (assembly.folder / f"{name}.gz").write_bytes(delivered)
    else:
        (assembly.folder / name).write_bytes(signed)
    kind = recipe.name.split(".")[0]
    return Image(name, kind, recipe.filesystem, _sha256(signed), _sha256(unsigned), len(signed))


def write_artifact(assembly: Assembly, artifact: str) -> Image:
    """Make a file without file system, such as a preloader; its type is its whole name."""
    name = f"{assembly.prefix}-{artifact}"
    content = f"{MARKER}\n{artifact}\n".encode().ljust(20000, b"\0")
    (assembly.folder / name).write_bytes(content)
    return Image(name, artifact, "", _sha256(content), _sha256(content), len(content))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _content(assembly: Assembly, recipe: ImageRecipe, rootfs: bytes) -> bytes:
    body = rootfs if recipe.bare else kernel(assembly.configuration) + rootfs
    if recipe.partition:
        body = body.ljust(KERNEL_SIZE + (assembly.rootfs_megabytes << 20), b"\0")
    body += bytes(-len(body) % 4096)
    return gzip.compress(body, compresslevel=1, mtime=0) if recipe.name.endswith(".gz") else body


def _with_trailers(assembly: Assembly, recipe: ImageRecipe, content: bytes) -> tuple[bytes, bytes]:
    """The image before and after its signature; metadata only for devices that know their names."""
    if not recipe.metadata:
        return content, content
    devices = assembly.profile.supported_devices
    unsigned = trailers.append_metadata(content, _metadata(assembly)) if devices else content
    key = assembly.signing_key
    if key is None:
        return unsigned, unsigned
    element = usign.message_signature(key.sign(unsigned))
    certificate = usign.certificate(key, key, issued_at=int(time.time()))
    return unsigned, trailers.append(unsigned, trailers.SIGNATURE, certificate + element)


def _metadata(assembly: Assembly) -> str:
    configuration, profile = assembly.configuration, assembly.profile
    version = {
        "dist": "OpenWrt",
        "version": configuration.version,
        "revision": configuration.revision,
        "target": configuration.target,
        "board": profile.id,
    }
    metadata = {
        "metadata_version": "1.1",
        "compat_version": "1.0",
        "supported_devices": list(profile.supported_devices),
        "version": version,
    }
    return "  " + json.dumps(metadata, separators=(", ", ":")) + "\n"


def _report_too_big(assembly: Assembly, recipe: ImageRecipe, name: str, size: int) -> None:
    path = assembly.work / "tmp" / name
    if recipe.wording == "mktplinkfw":
        err("[mktplinkfw] rootfs offset aligned to 0x1900512")
        err(f"[mktplinkfw] *** error: images are too big by {size - recipe.limit} bytes")
    elif recipe.wording == "safeloader":
        err(f"file-system partition too big (more than {recipe.limit} bytes): Success")
        if recipe.metadata:  # sysupgrade images are measured once more, with nothing left to measure
            err(f"stat: cannot statx '{path}': No such file or directory")
            err(f"bash: line 1: [: {recipe.limit}: unary operator expected")
            err(f"    WARNING: Image file {path} is too big:  > {recipe.limit}")
    else:
        err(f"    WARNING: Image file {path} is too big: {size} > {recipe.limit}")
    if recipe.metadata:
        err("Failed to open firmware file")
        err(f"sha256sum: {path}: No such file or directory")
    err(f"cp: cannot stat '{path}': No such file or directory")
    out(f"Skip JSON creation for non existing file {path}")
