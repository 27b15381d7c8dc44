"""Where images came from, as an in-toto statement with SLSA provenance, which everybody may read.

Formats: https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1; facts on provenance.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from asu_builder.domain.job import Image
from asu_builder.domain.make import Origin
from asu_builder.domain.package_index import FoundPackages, PackageIndex
from asu_builder.domain.request import BuildRequest, canonical_json
from asu_builder.domain.sbom import Component, Inventory

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:asu-builder:build:1"
"""How a build is done and what its parameters mean: docs/provenance.md."""
SUFFIX = ".intoto.jsonl"
"""Ending of the file beside the images."""


class Builder(Struct, frozen=True):
    """Which service has built: the address that names it, and the version of the program."""

    address: str
    version: str


class Built(Struct, frozen=True):
    """What a build was asked for, and with what it was done."""

    request: BuildRequest
    manifest: Mapping[str, str]
    found: FoundPackages
    origin: Origin
    carried: bool
    """Whether the container image carried the ImageBuilder; else the build downloaded it."""
    packages: Sequence[str]
    """As make was told them."""
    program: str = ""
    """The version of the program that built; "" for the one that states it."""
    upstream_url: str = ""
    """Where that one read package indexes; "" likewise."""


def render_statement(
    built: Built,
    inventory: Inventory,
    digests: Mapping[str, str],
    images: Sequence[Image],
    *,
    builder: Builder,
    started_at: datetime | None,
    finished_at: datetime,
) -> bytes:
    """The statement about files with these digests, by name; equal builds differ in the two times only.

    The request hash is left out: it gives access to the request, which may hold secrets.
    """
    unsigned = {image.name: image.sha256_unsigned for image in images}
    subjects = []
    for name in sorted(digests):
        subject: dict[str, object] = {"name": name, "digest": {"sha256": digests[name]}}
        if name in unsigned:
            subject["annotations"] = {"sha256_unsigned": unsigned[name]}
        subjects.append(subject)
    metadata = {"finishedOn": _moment(finished_at)}
    if started_at:
        metadata["startedOn"] = _moment(started_at)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"request": _request(built.request)},
                "internalParameters": {
                    "isolation": built.origin.isolation,
                    "packages": list(built.packages),
                },
                "resolvedDependencies": [
                    *_imagebuilder(built, inventory),
                    *map(_index, built.found.indexes),
                    *map(_package, inventory.components),
                ],
            },
            "runDetails": {
                "builder": {"id": builder.address, "version": {"asu-builder": builder.version}},
                "metadata": metadata,
            },
        },
    }
    return canonical_json(statement)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _digest(text: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def _request(request: BuildRequest) -> dict[str, object]:
    """What was asked for; of the first-boot script and the keys of repositories the digests only."""
    given: dict[str, object] = {
        "version": request.version,
        "version_code": request.version_code,
        "target": request.target,
        "profile": request.profile,
        "packages": sorted(request.wanted),
        "packages_versions": dict(request.packages_versions),
        "diff_packages": request.diff_packages,
        "defaults": _digest(request.defaults) if request.defaults else None,
        "rootfs_size_mb": request.rootfs_size_mb,
        "filesystem": request.filesystem,
        "repositories": {name: _without_user(url) for name, url in request.repositories.items()},
        "repositories_mode": request.repositories_mode if request.repositories else "",
        "repository_keys": [_digest(key) for key in sorted(set(request.repository_keys))],
        "dropped": sorted(request.dropped),
        "as_of": request.as_of,
    }
    return {name: value for name, value in given.items() if value not in ("", None, [], {})}


def _without_user(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _imagebuilder(built: Built, inventory: Inventory) -> list[dict[str, object]]:
    """The container image, and the ImageBuilder where that is something else."""
    found: list[dict[str, object]] = []
    origin = built.origin
    if origin.image:
        entry: dict[str, object] = {"name": "container image", "uri": f"docker://{origin.image}"}
        if origin.digest:
            entry["digest"] = {"sha256": origin.digest}
        found.append(entry)
    if origin.archive or not (origin.image and built.carried):
        version, target = quote(inventory.version, safe=""), quote(inventory.target, safe="")
        entry = {
            "name": "ImageBuilder",
            "uri": f"pkg:generic/openwrt-imagebuilder@{version}?target={target}",
        }
        if origin.archive:
            entry["digest"] = {"sha256": origin.archive}
        if inventory.revision:
            entry["annotations"] = {"revision": inventory.revision}
        found.append(entry)
    return found


def _index(index: PackageIndex) -> dict[str, object]:
    entry: dict[str, object] = {"name": f"package index {index.name}", "digest": {"sha256": index.digest}}
    if index.address:
        entry["uri"] = index.address
    return entry


def _package(component: Component) -> dict[str, object]:
    entry: dict[str, object] = {"name": component.name, "uri": component.purl}
    if component.sha256:
        entry["digest"] = {"sha256": component.sha256}
    said = {"apk_metadata_digest": component.metadata_digest, "index": component.index}
    if annotations := {name: value for name, value in said.items() if value}:
        entry["annotations"] = annotations
    return entry


class _Subject(Struct, frozen=True):
    name: str
    digest: Mapping[str, str]


class _BuilderRead(Struct, frozen=True):
    id: str
    version: Mapping[str, str] = field(default_factory=dict)


class _Run(Struct, frozen=True):
    builder: _BuilderRead
    metadata: Mapping[str, Any] = field(default_factory=dict)


class _Definition(Struct, frozen=True, rename="camel"):
    build_type: str
    external_parameters: Mapping[str, Any] = field(default_factory=dict)


class _Predicate(Struct, frozen=True, rename="camel"):
    build_definition: _Definition
    run_details: _Run


class _Statement(Struct, frozen=True):
    type: str = field(name="_type")
    predicate_type: str = field(name="predicateType")
    subject: tuple[_Subject, ...]
    predicate: _Predicate


_DECODER = msgspec.json.Decoder(_Statement)


class BadStatement(Exception):
    """What is no provenance of a build; the sentence says why."""


class Provenance(Struct, frozen=True):
    """What a statement says, as far as it is told to people."""

    digests: Mapping[str, str]
    """SHA-256 of each file, by name."""
    builder: str
    program: str
    build_type: str
    request: Mapping[str, Any]
    finished_at: str


def parse_statement(text: bytes) -> Provenance:
    """What any builder states about files. Raises `BadStatement`."""
    try:
        read = _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise BadStatement("it holds no in-toto statement with SLSA provenance, edition 1") from None
    if (read.type, read.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise BadStatement("it holds a statement of another kind than SLSA provenance, edition 1")
    digests: dict[str, str] = {}
    for subject in read.subject:
        if "sha256" not in subject.digest:
            raise BadStatement("a file in it has no SHA-256")
        if digests.setdefault(subject.name, subject.digest["sha256"]) != subject.digest["sha256"]:
            raise BadStatement("it names a file twice")
    if not digests:
        raise BadStatement("it names no file")
    predicate = read.predicate
    run, definition = predicate.run_details, predicate.build_definition
    request = definition.external_parameters.get("request")
    return Provenance(
        digests,
        run.builder.id,
        " ".join(" ".join(pair) for pair in run.builder.version.items()),
        definition.build_type,
        request if isinstance(request, dict) else {},
        str(run.metadata.get("finishedOn") or ""),
    )
