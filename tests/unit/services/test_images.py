import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.services.images import describe_images
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
