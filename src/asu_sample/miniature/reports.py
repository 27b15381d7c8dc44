"""The files beside the images: manifest, SBOM, profiles.json, sha256sums."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from .configuration import Configuration, Profile
from .console import out
from .images import Image
from .packages import Package


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
    entry: dict[str, object] = {
        "device_packages": list(profile.packages),
        "image_prefix": f"{prefix}-{profile.id}",
        "images": [_image_entry(image, sizes=configuration.sizes_in_profiles_json) for image in shuffled],
        "supported_devices": list(profile.supported_devices),
        "titles": [dict(title) for title in profile.titles],
    }
    if profile.file_size_limits and configuration.sizes_in_profiles_json:
        entry["file_size_limits"] = profile.file_size_limits
    return entry


def _image_entry(image: Image, *, sizes: bool) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": image.name,
        "sha256": image.sha256,
        "sha256_unsigned": image.sha256_unsigned,
        "type": image.type,
    }
    if image.filesystem:
        entry["filesystem"] = image.filesystem
    if sizes:
        entry["size"] = image.size
    return entry


def write_checksums(folder: Path) -> None:
    """sha256sums of all plain files in `folder` but itself: `<hex> *<name>`, sorted by name."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "sha256sums":
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()} *{path.name}\n")
    (folder / "sha256sums").write_text("".join(lines))
