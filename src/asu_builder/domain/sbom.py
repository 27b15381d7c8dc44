"""What is in an image, for programs that look for flaws and licences: CycloneDX 1.6 and SPDX 2.3, as JSON.

Both are made of an `Inventory` alone, so that equal builds have equal bytes. Formats: facts on signing, SBOM.
"""

import hashlib
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote

import msgspec
from msgspec import Struct

from asu_builder.domain.licences import Licence, plain_id, read_licence
from asu_builder.domain.package_index import FoundPackages, PackageManager
from asu_builder.domain.profiles_json import source_date, unprintable
from asu_builder.domain.request import BuildRequest

MOST_PACKAGES = 20_000
"""Twice what a whole release offers. An image with more has no SBOM."""
_LONGEST = 256
"""Characters of what an index or a manifest says in one place."""
_TOOL = "asu-builder"
_NAMESPACE = uuid.UUID("6f6ff1a3-7cbd-5d19-9d7e-2d7f1a3a0b0c")
_NEVER = "1970-01-01T00:00:00Z"
"""Where SPDX wants a date and none is known: that of today would be another one in each build."""


class Component(Struct, frozen=True, omit_defaults=True):
    """One package of an image. What is not known is empty."""

    name: str
    version: str = ""
    purl: str = ""
    licence: Licence = Licence()
    cpe: str = ""
    origin: str = ""
    index: str = ""
    """Which index describes it."""
    sha256: str = ""
    """Of the package's file."""
    metadata_digest: str = ""
    """Of what apk knows of the package, which is no digest of its file."""


class Inventory(Struct, frozen=True):
    """An image and its packages, sorted by name."""

    request_hash: str
    version: str
    revision: str
    target: str
    profile: str
    created: str
    """The date of the sources, RFC 3339 in UTC; "" where the build told none."""
    components: tuple[Component, ...]

    @property
    def name(self) -> str:
        """Of the image, for people and programs."""
        return f"openwrt-{self.version}-{self.target.replace('/', '-')}-{self.profile}"

    @property
    def urn(self) -> str:
        """Another one for each content."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return uuid.uuid5(_NAMESPACE, digest).urn


def take_inventory(
    request: BuildRequest,
    request_hash: str,
    *,
    description: Mapping[str, object],
    manifest: Mapping[str, str],
    found: FoundPackages,
) -> Inventory:
    """All packages of a manifest, with what was found of each; `description` is that of the `BuildResult`."""
    architecture = _text(description.get("arch_packages"))
    version = _text(description.get("version_number")) or request.version
    components = [
        _component(name, _text(manifest[name]), found, architecture=architecture, distribution=version)
        for name in sorted(manifest)
    ]
    made_at = source_date(description)
    return Inventory(
        request_hash,
        version,
        _text(description.get("version_code")),
        request.target,
        request.profile,
        _moment(made_at) if made_at else "",
        tuple(components),
    )


def _moment(at: datetime) -> str:
    return f"{at.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _text(value: object) -> str:
    """A printable text of bearable length, else ""."""
    fits = isinstance(value, str) and len(value) <= _LONGEST and not unprintable().search(value)
    return str(value) if fits else ""


def _component(
    name: str, version: str, found: FoundPackages, *, architecture: str, distribution: str
) -> Component:
    kind = found.manager.value if found.manager else "generic"
    entry = found.packages.get(name)
    if entry is None:
        purl = _purl(kind, name, version, architecture, distribution)
        return Component(name, version, purl)
    package = entry.package
    # Of a repository that the request names it is not known whose packages they are.
    kind = "generic" if entry.is_foreign else kind
    is_file_digest = found.manager is PackageManager.OPKG
    digest = package.hash.lower()
    return Component(
        name,
        version,
        _purl(kind, name, version, _text(package.architecture) or architecture, distribution),
        licence=read_licence(_text(package.licence)),
        cpe=cpe_with_version(_text(package.cpe), upstream_version(name, version)),
        origin=_text(package.origin),
        index=_text(entry.index),
        sha256=digest if is_file_digest and _SHA256.fullmatch(digest) else "",
        metadata_digest="" if is_file_digest or not _HEXADECIMAL.fullmatch(digest) else digest,
    )


_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{40,128}")


def _purl(kind: str, name: str, version: str, architecture: str, distribution: str) -> str:
    """The package's address among all packages (https://github.com/package-url/purl-spec)."""
    qualifiers = []
    if architecture:
        qualifiers.append(f"arch={_quoted(architecture)}")
    if kind == "generic":
        space = ""
    else:
        space = "openwrt/"
        qualifiers.append(f"distro=openwrt-{_quoted(distribution)}")
    name = name.lower() if kind == PackageManager.APK else name  # that kind knows small letters only
    at = f"@{_quoted(version)}" if version else ""
    return f"pkg:{kind}/{space}{_quoted(name)}{at}{'?' if qualifiers else ''}{'&'.join(qualifiers)}"


def _quoted(text: str) -> str:
    return quote(text, safe=".-_~")


_KERNEL = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?")
_OWN_RELEASE = re.compile(r"-r?[0-9]+$")


def upstream_version(name: str, version: str) -> str:
    """The version of what was packaged: `1.36.1` of `1.36.1-r2`, of kernel modules that of the kernel."""
    if name == "kernel" or name.startswith("kmod-"):
        kernel = _KERNEL.match(version)
        return kernel[0] if kernel else ""
    return _OWN_RELEASE.sub("", version).partition("~")[0]


_CPE_22 = re.compile(r"cpe:/[aho](:[A-Za-z0-9._~%-]{1,100}){2}(:[A-Za-z0-9._~%-]{0,100}){0,4}")
_ESCAPED = r"""\\[\\*?!"#$%&'()+,/:;<=>@\[\]^`{|}~]"""
_PART = rf"([*-]|([A-Za-z0-9._-]|{_ESCAPED}){{1,100}})"
_LANGUAGE = r"([*-]|[A-Za-z]{2,3}(-([A-Za-z]{2}|[0-9]{3}))?)"
_CPE_23 = re.compile(rf"cpe:2\.3:[aho](:{_PART}){{5}}:{_LANGUAGE}(:{_PART}){{4}}")
_NO_PLAIN_LETTER = re.compile(r"[^a-z0-9._-]")


def cpe_with_version(cpe: str, version: str) -> str:
    """A CPE (2.2 or 2.3, as it came) that names a version, this one where it names none; "" if it is none."""
    version = version.lower() if version.isascii() else ""
    if _CPE_22.fullmatch(cpe):
        scheme, part, *names = cpe.split(":")
        if version and not "".join(names[2:3]):
            names[2:3] = [_NO_PLAIN_LETTER.sub(lambda letter: f"%{ord(letter[0]):02x}", version)]
        return ":".join((scheme, part, *names))
    # A colon behind a backslash belongs to a name.
    names = re.split(r"(?<!\\):", cpe)
    names += ["*"] * (13 - len(names))
    if version and names[5] in ("*", "-"):
        names[5] = _NO_PLAIN_LETTER.sub(lambda letter: f"\\{letter[0]}", version)
    whole = ":".join(names)
    return whole if _CPE_23.fullmatch(whole) else ""


def _purpose(name: str) -> tuple[str, str]:
    """What kind of thing a package is, in the words of CycloneDX and of SPDX, by its name."""
    if name == "kernel":
        return "operating-system", "OPERATING-SYSTEM"
    if name.startswith("kmod-"):
        return "device-driver", "OTHER"
    if name.endswith("-firmware") or "-firmware-" in name:
        return "firmware", "FIRMWARE"
    return ("library", "LIBRARY") if name.startswith("lib") else ("application", "APPLICATION")


def render_cyclonedx(inventory: Inventory) -> bytes:
    """The document of CycloneDX 1.6."""
    components = []
    for component in inventory.components:
        entry: dict[str, object] = {
            "type": _purpose(component.name)[0],
            "bom-ref": f"package:{component.name}",
            "name": component.name,
        }
        if component.version:
            entry["version"] = component.version
        if component.sha256:
            entry["hashes"] = [{"alg": "SHA-256", "content": component.sha256}]
        if licence := component.licence.expression:
            named = component.licence.names.get(licence)
            if named is not None:
                entry["licenses"] = [{"license": {"name": named}}]
            elif " " in licence:
                entry["licenses"] = [{"expression": licence}]
            else:
                entry["licenses"] = [{"license": {"id": licence}}]
        if component.cpe:
            entry["cpe"] = component.cpe
        entry["purl"] = component.purl
        said = {
            "apk-metadata-digest": component.metadata_digest,
            "index": component.index,
            "origin": component.origin,
        }
        if properties := _properties(said):
            entry["properties"] = properties
        components.append(entry)
    metadata: dict[str, object] = {"timestamp": inventory.created} if inventory.created else {}
    metadata |= {
        "tools": {"components": [{"type": "application", "name": _TOOL}]},
        "component": {
            "type": "firmware",
            "bom-ref": "image",
            "name": inventory.name,
            "version": inventory.version,
            "properties": _properties(
                {
                    "profile": inventory.profile,
                    "request-hash": inventory.request_hash,
                    "revision": inventory.revision,
                    "target": inventory.target,
                }
            ),
        },
    }
    return _lines(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": inventory.urn,
            "version": 1,
            "metadata": metadata,
            "components": components,
            "dependencies": [{"ref": "image", "dependsOn": [entry["bom-ref"] for entry in components]}],
        }
    )


def _properties(said: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"{_TOOL}:{name}", "value": value} for name, value in said.items() if value]


def render_spdx(inventory: Inventory) -> bytes:
    """The document of SPDX 2.3."""
    image = "SPDXRef-Image"
    whole = _spdx_package(image, inventory.name, inventory.version, "FIRMWARE")
    whole["comment"] = (
        f"Profile {inventory.profile} of {inventory.target}, revision {inventory.revision or 'not known'}, "
        f"request hash {inventory.request_hash}"
    )
    packages = [_spdx_component(component) for component in inventory.components]
    licences = {
        name: text for component in inventory.components for name, text in component.licence.names.items()
    }
    relationships = [("SPDXRef-DOCUMENT", "DESCRIBES", image)]
    relationships += [(image, "CONTAINS", str(entry["SPDXID"])) for entry in packages]
    document: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": inventory.name,
        "documentNamespace": inventory.urn,
        "creationInfo": {"created": inventory.created or _NEVER, "creators": [f"Tool: {_TOOL}"]},
        "packages": [whole, *packages],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relationships
        ],
    }
    if licences:
        document["hasExtractedLicensingInfos"] = [
            {"licenseId": name, "extractedText": text, "name": text}
            for name, text in sorted(licences.items())
        ]
    return _lines(document)


def _spdx_component(component: Component) -> dict[str, object]:
    entry = _spdx_package(
        f"SPDXRef-Package-{plain_id(component.name)}",
        component.name,
        component.version,
        _purpose(component.name)[1],
        licence=component.licence.expression,
    )
    if component.sha256:
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": component.sha256}]
    said = {"origin": component.origin, "index": component.index}
    if words := "; ".join(f"{name}: {value}" for name, value in said.items() if value):
        entry["sourceInfo"] = words
    if component.metadata_digest:
        entry["comment"] = (
            f"Digest of the package's metadata in its index, not of its file: {component.metadata_digest}"
        )
    references = [("PACKAGE-MANAGER", "purl", component.purl)]
    if component.cpe:
        kind = "cpe23Type" if component.cpe.startswith("cpe:2.3:") else "cpe22Type"
        references.append(("SECURITY", kind, component.cpe))
    entry["externalRefs"] = [
        {"referenceCategory": category, "referenceType": kind, "referenceLocator": locator}
        for category, kind, locator in references
    ]
    return entry


def _spdx_package(
    spdx_id: str, name: str, version: str, purpose: str, *, licence: str = ""
) -> dict[str, object]:
    nothing = "NOASSERTION"
    return {
        "SPDXID": spdx_id,
        "name": name,
        **({"versionInfo": version} if version else {}),
        "primaryPackagePurpose": purpose,
        "downloadLocation": nothing,
        "filesAnalyzed": False,
        "licenseConcluded": nothing,
        "licenseDeclared": licence or nothing,
        "copyrightText": nothing,
    }


def _lines(document: Mapping[str, object]) -> bytes:
    """One package a line, so that two documents can be compared line by line."""
    encode = msgspec.json.Encoder().encode
    members = []
    for key, value in document.items():
        text = encode(value)
        if isinstance(value, list) and value:
            text = b"[\n%b\n]" % b",\n".join(map(encode, value))
        members.append(b"%b:%b" % (encode(key), text))
    return b"{\n%b\n}\n" % b",\n".join(members)
