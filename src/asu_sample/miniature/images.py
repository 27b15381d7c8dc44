"""Image files of one profile and the files beside them. THEY FLASH NOTHING: a kernel is padded text.

Layout of every image but bare root file systems: 64 KiB of kernel blob, then the root file system, padding,
and fwtool trailers where the recipe wants them: metadata and signature chunks. A chunk is its data and
sixteen bytes: `FWx0`, CRC-32 of everything before (not inverted at the end), type, size.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import time
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import MARKER, usign
from .configuration import Configuration, ImageRecipe, Profile
from .console import err, out
from .packages import Package

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
    content = rootfs if recipe.bare else kernel(assembly.configuration) + rootfs
    if recipe.partition:
        content = content.ljust(KERNEL_SIZE + (assembly.rootfs_megabytes << 20), b"\0")
    content += bytes(-len(content) % 4096)
    if recipe.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=1, mtime=0)
    if recipe.limit and len(content) > recipe.limit:
        _report_too_big(assembly, recipe, name, len(content))
        return None
    unsigned = signed = content
    if recipe.metadata:
        if assembly.profile.supported_devices:  # only devices that know their names
            unsigned = signed = append_metadata(content, _metadata(assembly))
        if key := assembly.signing_key:
            element = usign.message_signature(key.sign(unsigned))
            certificate = usign.certificate(key, key, issued_at=int(time.time()))
            signed = append_chunk(unsigned, SIGNATURE, certificate + element)
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


SIGNATURE, METADATA = 0, 1
SIGNATURE_LIMIT = 1024
"""Bytes: fwtool silently refuses longer signature chunks."""


def append_chunk(image: bytes, kind: int, data: bytes) -> bytes:
    """`image` with one more chunk of type `kind`.

    Raises ValueError when fwtool would refuse the data silently.
    """
    if kind == SIGNATURE and len(data) > SIGNATURE_LIMIT:
        raise ValueError(f"signature of {len(data)} bytes is above fwtool's limit of {SIGNATURE_LIMIT}")
    body = image + data
    trailer = struct.pack(">4sIB3xI", b"FWx0", zlib.crc32(body) ^ 0xFFFFFFFF, kind, len(data) + 16)
    return body + trailer


def append_metadata(image: bytes, json_text: str) -> bytes:
    """`image` with a metadata chunk: eight zero bytes (version, flags) and the JSON text."""
    return append_chunk(image, METADATA, bytes(8) + json_text.encode())


def last_chunk(image: bytes) -> tuple[bytes, int, bytes] | None:
    """Split off the last chunk: (image before it, type, data), or None when there is none or its CRC is
    wrong."""
    if len(image) < 16:
        return None
    magic, crc, kind, size = struct.unpack(">4sIB3xI", image[-16:])
    if magic != b"FWx0" or not 16 <= size <= len(image) or zlib.crc32(image[:-16]) ^ 0xFFFFFFFF != crc:
        return None
    start = len(image) - size
    return image[:start], kind, image[start:-16]


def manifest_lines(packages: Iterable[Package], *, separator: str, strip_abi: bool) -> list[str]:
    """`name - version` for each package, sorted by name; `strip_abi` drops ABI suffixes from names."""
    named = ((package.base_name if strip_abi else package.name, package.version) for package in packages)
    return [f"{name}{separator}{version}" for name, version in sorted(named)]


def write_sbom(path: Path, packages: Iterable[Package]) -> None:
    """A CycloneDX 1.4 list of the packages; serial number and time stamp differ in every build, as
    upstream's do."""
    components = [
        {
            "type": "library",
            "name": package.base_name,
            "version": package.version,
            "bom-ref": package.identity,
        }
        for package in sorted(packages, key=lambda package: package.name)
    ]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.4",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        "components": components,
    }
    path.write_text(json.dumps(bom, indent=1) + "\n")


def write_profiles_json(
    path: Path, configuration: Configuration, profile: Profile, prefix: str, images: Iterable[Image]
) -> None:
    """profiles.json for the images there are: one line, keys sorted. Without images only a message.

    A profiles.json of the same revision that is already there keeps its other profiles.
    """
    listed = list(images)
    if not listed:
        out("JSON info file script could not find any JSON files for target")
        return
    profiles: dict[str, object] = {}
    if path.exists():
        present = json.loads(path.read_text())
        if present.get("version_code") == configuration.revision:
            profiles = present["profiles"]
    profiles[profile.id] = profile_entry(configuration, profile, prefix, listed)
    path.write_text(render_profiles(configuration, profiles))


def render_profiles(configuration: Configuration, profiles: dict[str, object]) -> str:
    """The whole of profiles.json around the given profile entries."""
    document = {
        "arch_packages": configuration.architecture,
        "default_packages": sorted(configuration.default_packages),
        "linux_kernel": configuration.kernel,
        "metadata_version": 1,
        "profiles": profiles,
        "source_date_epoch": configuration.epoch,
        "target": configuration.target,
        "version_code": configuration.revision,
        "version_number": configuration.version,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def profile_entry(
    configuration: Configuration, profile: Profile, prefix: str, images: Iterable[Image]
) -> dict[str, object]:
    """One profile of profiles.json.

    Images come in an arbitrary but stable order, as from a directory listing.
    """
    shuffled = sorted(images, key=lambda image: hashlib.sha256(image.name.encode()).digest())
    entries = []
    for image in shuffled:
        described: dict[str, object] = {
            "name": image.name,
            "sha256": image.sha256,
            "sha256_unsigned": image.sha256_unsigned,
            "type": image.type,
        }
        if image.filesystem:
            described["filesystem"] = image.filesystem
        if configuration.sizes_in_profiles_json:
            described["size"] = image.size
        entries.append(described)
    entry: dict[str, object] = {
        "device_packages": list(profile.packages),
        "image_prefix": f"{prefix}-{profile.id}",
        "images": entries,
        "supported_devices": list(profile.supported_devices),
        "titles": [dict(title) for title in profile.titles],
    }
    if profile.file_size_limits and configuration.sizes_in_profiles_json:
        entry["file_size_limits"] = profile.file_size_limits
    return entry


def write_checksums(folder: Path) -> None:
    """sha256sums of all plain files in `folder` but itself: `<hex> *<name>`, sorted by name."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "sha256sums":
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()} *{path.name}\n")
    (folder / "sha256sums").write_text("".join(lines))
