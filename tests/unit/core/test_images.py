import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from asu_builder.core.images import Signatures, describe_images, write_sbom
from asu_builder.domain.errors import (
    AsuError,
    BuildFailed,
    BuildInterrupted,
    FailureReason,
    SigningUnavailable,
)
from asu_builder.domain.health import CheckResult, ok
from asu_builder.domain.job import Image, SbomFiles
from asu_builder.domain.package_index import FoundPackages
from asu_builder.domain.profiles_json import MAX_BYTES
from asu_builder.domain.sbom import take_inventory
from factories import a_request

SIGNATURE = b"ucert" + b"FWx0" + b"\0\0\0\0" + b"\0\0\0\0" + (21).to_bytes(4, "big")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(directory: Path, files: dict[str, bytes], **changes: Any) -> None:
    images = [
        {"name": name, "type": "sysupgrade", "filesystem": "squashfs", "sha256": sha256(content)}
        for name, content in files.items()
    ]
    profile = {"images": images, "titles": [{"model": "Widget"}], "image_prefix": "openwrt"} | changes
    document = {
        "version_number": "24.10.5",
        "target": "pico/nine",
        "metadata_version": 1,
        "profiles": {"acme_widget-5": profile},
    }
    (directory / "profiles.json").write_text(json.dumps(document))
    for name, content in files.items():
        (directory / name).write_bytes(content)


def failure(directory: Path) -> BuildFailed:
    with pytest.raises(BuildFailed) as caught:
        describe_images(directory, a_request())
    return caught.value


def test_the_description_is_lifted_and_images_come_in_a_fixed_order(tmp_path: Path) -> None:
    write(tmp_path, {"b.bin": b"two", "a.bin": b"one"})
    description, images = describe_images(tmp_path, a_request())
    assert description == {
        "version_number": "24.10.5",
        "target": "pico/nine",
        "metadata_version": 1,
        "titles": [{"model": "Widget"}],
        "image_prefix": "openwrt",
    }
    assert [(image.name, image.sha256, image.size) for image in images] == [
        ("a.bin", sha256(b"one"), 3),
        ("b.bin", sha256(b"two"), 3),
    ]


def test_the_unsigned_digest_is_ours_too(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"payload" + SIGNATURE})
    _, (image,) = describe_images(tmp_path, a_request())
    assert image.sha256 == sha256(b"payload" + SIGNATURE)
    assert image.sha256_unsigned == sha256(b"payload")


def test_an_image_that_was_compressed_after_it_was_described_is_described_anew(tmp_path: Path) -> None:
    write(tmp_path, {"a.img": b"plain"})
    (tmp_path / "a.img").rename(tmp_path / "a.img.gz")
    (tmp_path / "a.img.gz").write_bytes(b"packed")
    _, (image,) = describe_images(tmp_path, a_request())
    assert (image.name, image.sha256, image.size) == ("a.img.gz", sha256(b"packed"), 6)


def test_exit_zero_without_profiles_json_is_a_failure(tmp_path: Path) -> None:
    assert failure(tmp_path).detail == "Error: No JSON file found"


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"'])
def test_a_profiles_json_that_is_none_is_a_failure(tmp_path: Path, text: str) -> None:
    (tmp_path / "profiles.json").write_text(text)
    assert failure(tmp_path).reason is FailureReason.INCOMPLETE_OUTPUT


def test_another_profile_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    with pytest.raises(BuildFailed, match="Profile not found in JSON file"):
        describe_images(tmp_path, a_request(profile="other"))


def test_another_version_than_asked_for_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    with pytest.raises(BuildFailed, match=r"Received incorrect version 24\.10\.5 \(requested 24\.10\.4\)"):
        describe_images(tmp_path, a_request(version="24.10.4"))


def test_a_branch_with_numbers_of_its_own_may_tell_any_version(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    description, images = describe_images(tmp_path, a_request(version="24.10.4"), own_numbering=True)
    assert (description["version_number"], len(images)) == ("24.10.5", 1)


def test_a_profiles_json_is_read_up_to_a_mebibyte(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    path = tmp_path / "profiles.json"
    path.write_bytes(path.read_bytes().ljust(MAX_BYTES))
    assert describe_images(tmp_path, a_request())[1]
    path.write_bytes(path.read_bytes() + b" ")
    assert (failure(tmp_path).reason, failure(tmp_path).detail) == (
        FailureReason.INCOMPLETE_OUTPUT,
        "Error: JSON file too big",
    )


def test_no_image_a_missing_one_and_a_changed_one_are_failures(tmp_path: Path) -> None:
    write(tmp_path, {})
    assert failure(tmp_path).reason is FailureReason.NO_IMAGES
    write(tmp_path, {"a.bin": b"one"})
    (tmp_path / "a.bin").write_bytes(b"uno")
    assert "is not what profiles.json says" in failure(tmp_path).detail
    (tmp_path / "a.bin").unlink()
    assert "listed but missing" in failure(tmp_path).detail


@pytest.mark.parametrize("name", ["", "../a.bin", "sub/a.bin", "/etc/hostname"])
def test_a_listed_name_never_leads_elsewhere(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "images"
    directory.mkdir()
    (tmp_path / "a.bin").write_bytes(b"one")
    write(directory, {}, images=[{"name": name, "type": "x"}])
    assert failure(directory).reason is FailureReason.INCOMPLETE_OUTPUT


def test_a_file_that_is_listed_often_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    entry = {"name": "a.bin", "type": "sysupgrade"}
    write(tmp_path, {"a.bin": b"one"}, images=[entry] * 100)
    pieces: list[None] = []
    _, images = describe_images(tmp_path, a_request(), require_time=lambda: pieces.append(None))
    assert len(images) == 1 and len(pieces) == 1


def test_reading_images_ends_when_the_build_is_stopped(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"x" * (3 << 20)})
    left = iter(range(2))

    def require_time() -> None:
        if next(left, None) is None:
            raise BuildInterrupted("stopped")

    with pytest.raises(BuildInterrupted):
        describe_images(tmp_path, a_request(), require_time=require_time)


def test_another_version_is_the_worlds(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    with pytest.raises(BuildFailed) as caught:
        describe_images(tmp_path, a_request(version="24.10.4"))
    assert caught.value.side == "infrastructure"


def test_what_the_imagebuilder_writes_of_it_gives_way_unless_it_is_an_image(tmp_path: Path) -> None:
    write(tmp_path, {"y.bom.cdx.json": b"one"})
    for name in ("x.bom.cdx.json", "x.cdx.json", "x.manifest"):
        (tmp_path / name).write_bytes(b"x")
    files = wrote_sbom(tmp_path)
    kept = {"y.bom.cdx.json", "x.cdx.json", "x.manifest", "profiles.json", files.cyclonedx, files.spdx}
    assert {path.name for path in tmp_path.iterdir()} == kept


def wrote_sbom(directory: Path) -> SbomFiles:
    description, images = describe_images(directory, a_request())
    inventory = take_inventory(
        a_request(), "4be1a1f3c0d2" + "0" * 52, description=description, manifest={}, found=FoundPackages()
    )
    return write_sbom(directory, inventory, description=description, images=images)


def test_what_is_in_the_images_lies_beside_them_under_their_name(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"}, image_prefix="openwrt-24.10.5-pico")
    files = wrote_sbom(tmp_path)
    assert files == SbomFiles("openwrt-24.10.5-pico.cdx.json", "openwrt-24.10.5-pico.spdx.json")
    assert json.loads((tmp_path / files.cyclonedx).read_bytes())["bomFormat"] == "CycloneDX"
    assert json.loads((tmp_path / files.spdx).read_bytes())["spdxVersion"] == "SPDX-2.3"


@pytest.mark.parametrize("prefix", ["../up", "", "x" * 250, ".hidden"])
def test_a_prefix_that_is_no_plain_name_is_not_used(tmp_path: Path, prefix: str) -> None:
    write(tmp_path, {"a.bin": b"one"}, image_prefix=prefix)
    assert wrote_sbom(tmp_path).cyclonedx == "4be1a1f3c0d2-acme_widget-5.cdx.json"


def test_an_image_is_not_overwritten_by_what_describes_it(tmp_path: Path) -> None:
    write(tmp_path, {"openwrt.cdx.json": b"one"})
    with pytest.raises(BuildFailed, match="has the name of what describes the images"):
        wrote_sbom(tmp_path)
    assert (tmp_path / "openwrt.cdx.json").read_bytes() == b"one"


def test_a_link_that_a_build_left_is_not_written_through(tmp_path: Path) -> None:
    write(tmp_path, {"a.bin": b"one"})
    (tmp_path / "openwrt.spdx.json").symlink_to(tmp_path / "a.bin")
    wrote_sbom(tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"one"
    assert not (tmp_path / "openwrt.spdx.json").is_symlink()


class StillSigning:
    """Signs by name only; each fault that it is told of is met."""

    key_id = "0123456789abcdef"

    def __init__(self, fault: Exception | None = None, at: str = "") -> None:
        self.fault = fault
        self.at = at
        self.signed: list[str] = []

    def require(self) -> None:
        if self.fault and not self.at:
            raise self.fault

    def is_revoked(self, key_id: str) -> bool:
        return False

    def sign_image(self, image: Image, path: Path) -> Image:
        if self.fault and self.at in ("", image.name):
            raise self.fault
        self.signed.append(path.name)
        return replace(image, sha256=image.name * 2)

    def sign_file(self, path: Path) -> None:
        if self.fault and not self.at:
            raise self.fault
        self.signed.append(path.name)

    def offers(self) -> dict[str, bytes]:
        return {}

    def expires_at(self) -> None:
        return None

    def check(self) -> CheckResult:
        return ok("")


def two_images(directory: Path, *names: str) -> tuple[Image, ...]:
    """Images in a directory with their `profiles.json`, which lists the first."""
    for name in names:
        (directory / name).write_bytes(name.encode())
    entry = {"name": names[0], "sha256": "old", "filesystem": "squashfs"}
    document = {"version_number": "1", "profiles": {"acme_widget-5": {"images": [entry], "titles": []}}}
    (directory / "profiles.json").write_bytes(msgspec.json.encode(document))
    return tuple(Image(name, "sysupgrade", "0" * 64, "1" * 64, 5) for name in names)


def test_signed_images_are_what_profiles_json_and_the_sums_say(tmp_path: Path) -> None:
    signing = StillSigning()
    signatures = Signatures(signing, required=True)
    images, signed_by = signatures.sign_images(
        tmp_path, "acme_widget-5", two_images(tmp_path, "a.bin", "b.bin"), lambda: None
    )
    assert (signed_by, [image.sha256 for image in images]) == (signing.key_id, ["a.bina.bin", "b.binb.bin"])
    document = msgspec.json.decode((tmp_path / "profiles.json").read_bytes())
    (entry,) = document["profiles"]["acme_widget-5"]["images"]
    assert entry == {
        "name": "a.bin", "sha256": "a.bina.bin", "sha256_unsigned": "1" * 64, "size": 5,
        "filesystem": "squashfs",
    }  # fmt: skip
    (tmp_path / "sha256sums").write_text("what the ImageBuilder said before")
    signatures.write_sums(tmp_path, images)
    lines = (tmp_path / "sha256sums").read_text().splitlines()
    digest = hashlib.sha256((tmp_path / "profiles.json").read_bytes()).hexdigest()
    assert lines == ["a.bina.bin *a.bin", "b.binb.bin *b.bin", f"{digest} *profiles.json"]
    assert signing.signed == ["a.bin", "b.bin", "sha256sums"] and not signatures.warnings


@pytest.mark.parametrize(
    "fault",
    [
        SigningUnavailable("/etc/asu/key is away"),
        BuildFailed(FailureReason.INCOMPLETE_OUTPUT, "b.bin is odd"),
    ],
)
def test_what_cannot_be_signed_is_a_warning_unless_it_must_be(tmp_path: Path, fault: AsuError) -> None:
    images = two_images(tmp_path, "a.bin", "b.bin")
    required = Signatures(StillSigning(fault, "b.bin"), required=True)
    with pytest.raises(type(fault)):
        required.sign_images(tmp_path, "acme_widget-5", images, lambda: None)
    signatures = Signatures(StillSigning(fault, "b.bin"), required=False)
    found, signed_by = signatures.sign_images(tmp_path, "acme_widget-5", images, lambda: None)
    assert signed_by == "" and [image.sha256 for image in found] == ["a.bina.bin", "0" * 64]
    assert signatures.warnings == [f"Not all images are signed. {fault.public}"]
    assert "/etc/asu" not in signatures.warnings[0]
    away = Signatures(StillSigning(SigningUnavailable("away")), required=True)
    with pytest.raises(SigningUnavailable):
        away.require()
    with pytest.raises(SigningUnavailable):
        away.write_sums(tmp_path, images)
    Signatures(StillSigning(SigningUnavailable("away")), required=False).require()


def test_a_build_that_ran_out_of_time_is_no_matter_of_signatures(tmp_path: Path) -> None:
    def require_time() -> None:
        raise BuildFailed(FailureReason.DEADLINE, "too late")

    with pytest.raises(BuildFailed, match="too late"):
        Signatures(StillSigning(), required=False).sign_images(
            tmp_path, "acme_widget-5", two_images(tmp_path, "a.bin"), require_time
        )


@pytest.mark.parametrize("name", ["sha256sums", "sha256sums.sig", "a.bin.sig"])
@pytest.mark.parametrize("signing", [None, StillSigning()])
def test_no_image_bears_the_name_of_a_file_of_ours(
    tmp_path: Path, name: str, signing: StillSigning | None
) -> None:
    with pytest.raises(BuildFailed, match=re.escape(name)):
        Signatures(signing, required=False).sign_images(
            tmp_path, "acme_widget-5", two_images(tmp_path, "a.bin", name), lambda: None
        )
