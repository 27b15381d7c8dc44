"""Statements written beside the images of a build, or a warning in their place."""

import json
from pathlib import Path

import pytest

from asu_builder.core.images import Completed, Signatures, complete_files
from asu_builder.core.provenance import ProvenanceWriter
from asu_builder.domain.errors import BuildFailed, SigningUnavailable
from asu_builder.domain.health import CheckResult, ok
from asu_builder.domain.job import Image, Job, JobState
from asu_builder.domain.make import Origin
from asu_builder.domain.package_index import FoundPackages, PackageIndex, PackageManager
from asu_builder.domain.provenance import Builder, Built
from asu_builder.domain.sbom import MOST_PACKAGES
from factories import NOON, a_request

NAME = "openwrt.intoto.jsonl"


class PlainStatements:
    """Fulfils `ports.StatementSigning` without a key."""

    def __init__(self, fault: SigningUnavailable | None = None) -> None:
        self._fault = fault

    def require(self) -> None:
        if self._fault:
            raise self._fault

    def sign_statement(self, statement: bytes) -> bytes:
        self.require()
        return statement

    def offers(self) -> dict[str, bytes]:
        return {}

    def check(self) -> CheckResult:
        return ok("")


def a_writer(fault: SigningUnavailable | None = None, *, required: bool = False) -> ProvenanceWriter:
    return ProvenanceWriter(
        PlainStatements(fault),
        required=required,
        builder=Builder("https://asu.example.org", "1"),
        upstream_url="http://mirror.internal:8080/openwrt",
        announced_url="https://downloads.example.org",
        now=lambda: NOON,
    )


def completed(
    directory: Path,
    writer: ProvenanceWriter | None,
    *,
    image: str = "a.bin",
    manifest: dict[str, str] | None = None,
    indexes: tuple[PackageIndex, ...] = (),
) -> tuple[Completed, list[str]]:
    """The files of a build that left one image, and the warnings."""
    request = a_request()
    manifest = {"vim": "9.1"} if manifest is None else manifest
    found = FoundPackages(PackageManager.APK, {}, indexes)
    built = Built(request, manifest, found, Origin("sandbox"), carried=True, packages=("vim",))
    (directory / image).write_bytes(b"image")
    signatures = Signatures(None, required=False)
    files = complete_files(
        directory,
        Job(1, "4" * 64, request, JobState.BUILDING, NOON, started_at=NOON),
        built,
        {"image_prefix": "openwrt"},
        (Image(image, "sysupgrade", "5" * 64, "6" * 64, 5),),
        signatures=signatures,
        provenance=writer,
        require_time=lambda: None,
    )
    return files, signatures.warnings


def test_all_files_but_the_statement_itself_are_its_subjects(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("what a package has left under this name")
    (tmp_path / "config.buildinfo").write_text("x")
    files, warnings = completed(tmp_path, a_writer())
    assert (files["provenance"], warnings) == (NAME, [])
    subjects = {entry["name"] for entry in json.loads((tmp_path / NAME).read_bytes())["subject"]}
    assert subjects == {path.name for path in tmp_path.iterdir()} - {NAME}
    assert {"a.bin", "sha256sums", "openwrt.cdx.json", "openwrt.spdx.json"} < subjects
    sums = (tmp_path / "sha256sums").read_text()
    assert NAME not in sums and "config.buildinfo" in sums


def test_without_a_key_nothing_is_stated(tmp_path: Path) -> None:
    files, warnings = completed(tmp_path, None)
    assert (files["provenance"], warnings) == ("", []) and not (tmp_path / NAME).exists()


def test_what_cannot_be_signed_is_a_warning_unless_it_must_be(tmp_path: Path) -> None:
    away = SigningUnavailable("/etc/asu/provenance.key is away")
    a_writer(away).require()
    files, (warning,) = completed(tmp_path, a_writer(away))
    assert files["provenance"] == "" and not (tmp_path / NAME).exists()
    assert warning.startswith("It is not stated where the images came from.") and "/etc" not in warning
    for call in (
        a_writer(away, required=True).require,
        lambda: completed(tmp_path, a_writer(away, required=True)),
    ):
        with pytest.raises(SigningUnavailable):
            call()


def test_an_image_cannot_bear_the_name_of_the_statement(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="tells where the images came from"):
        completed(tmp_path, a_writer(), image=NAME)


def test_a_manifest_that_is_too_long_is_not_stated(tmp_path: Path) -> None:
    long = {f"p{number}": "1" for number in range(MOST_PACKAGES + 1)}
    files, (warning,) = completed(tmp_path, a_writer(), manifest=long)
    assert (files["sbom"], files["provenance"]) == (None, "") and "too long" in warning
    assert (tmp_path / "sha256sums").exists()
    with pytest.raises(BuildFailed, match="too long to state"):
        completed(tmp_path, a_writer(required=True), manifest=long)


def test_an_index_is_named_where_everybody_finds_it(tmp_path: Path) -> None:
    addresses = (
        "http://mirror.internal:8080/openwrt/base/packages.adb",
        "https://packages.example.org/x.adb",
    )
    indexes = tuple(PackageIndex(url[-9:], url, "7" * 64, PackageManager.APK, bytes) for url in addresses)
    completed(tmp_path, a_writer(), indexes=indexes)
    text = (tmp_path / NAME).read_text()
    assert "mirror.internal" not in text
    assert "https://downloads.example.org/base/packages.adb" in text and addresses[1] in text
