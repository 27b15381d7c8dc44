"""A build's `profiles.json` is hostile input."""

import json
from typing import Any

import msgspec
import pytest

from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.profiles_json import MAX_BYTES, filesystems_of, parse_built

PROFILE = "acme_widget-5"


def a_document(profile: dict[str, Any] | None = None, **top: Any) -> bytes:
    """A document of one profile."""
    image = {"name": "a.bin", "type": "sysupgrade", "filesystem": "squashfs", "sha256": "a" * 64}
    described = {"images": [image], "titles": [{"model": "Widget"}], **(profile or {})}
    return json.dumps({"version_number": "24.10.5", "profiles": {PROFILE: described}, **top}).encode()


def test_a_real_document_passes_and_a_new_small_key_too() -> None:
    built = parse_built(a_document(git_commit="abc", newer={"a": [1, "x"]}), PROFILE)
    assert (built.version, built.images[0].filesystem) == ("24.10.5", "squashfs")
    assert built.description["newer"] == {"a": [1, "x"]} and built.description["titles"]


@pytest.mark.parametrize(
    "content",
    [
        a_document({"images": [{"name": f"{number}.bin"} for number in range(129)]}),
        a_document({"images": "none"}),
        a_document({"images": [{"name": 5}]}),
        a_document({"images": [{"name": "a.bin", "type": "x\u0007"}]}),
        a_document({"images": [{"name": "a.bin", "type": "x" * 300}]}),
        a_document({"images": [{"name": "a\nb.bin"}]}),
        a_document({"images": [{"name": "a\ud800.bin"}]}),
        a_document({"titles": "none"}),
        a_document({"titles": [{"model": "x\u0000"}]}),
        a_document({"titles": [{"model": "\udfff"}]}),
        a_document({"supported_devices": ["x" * 300]}),
        a_document(default_packages=["x"] * 2001),
        a_document(default_packages=["y" * 200] * 2000),
        a_document(version_code=5),
        a_document(metadata_version=1 << 64),
        a_document(metadata_version=-(1 << 63) - 1),
        a_document(source_date_epoch=10**400),
        a_document({"file_size_limits": {"image": 1 << 80}}),
        a_document().replace(b"24.10.5", b"1e999").replace(b'"1e999"', b"1e999"),
        b"[" * 100_000,
        b'{"profiles":' * 100_000,
        b"[]",
        b"",
        b"\xff",
    ],
)
def test_what_is_unfit_is_refused(content: bytes) -> None:
    with pytest.raises(BuildFailed) as caught:
        parse_built(content, PROFILE)
    expected = (FailureReason.UNTRUSTED_OUTPUT, FailureReason.INCOMPLETE_OUTPUT)
    assert caught.value.reason in expected


def test_junk_under_unknown_keys_is_left_out() -> None:
    junk: dict[str, Any] = {f"junk{number}": "x" * 5000 for number in range(100)}
    odd: dict[str, Any] = {"odd": {"a": "\u0000"}, "a b": 1}
    built = parse_built(a_document(None, **junk, **odd), PROFILE)
    assert set(built.description) == {"version_number", "titles"}
    assert len(a_document(**junk)) < MAX_BYTES


NUMBERS = {
    "unsigned": str(1 << 64),
    "signed": str(-(1 << 63) - 1),
    "long": "1" + "0" * 400,
    "longer": "1" + "0" * 5000,
    "float": "1e999",
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize(
    "profile", [{"new": "@"}, {"new": {"a": ["@"]}}, {"titles": ["@"]}, {"file_size_limits": {"image": "@"}}]
)
def test_a_number_that_no_answer_could_carry_is_left_out_or_refused(
    profile: dict[str, Any], number: str
) -> None:
    content = a_document(profile).replace(b'"@"', number.encode())
    try:
        built = parse_built(content, PROFILE)
    except BuildFailed as failed:
        assert failed.reason in (FailureReason.UNTRUSTED_OUTPUT, FailureReason.INCOMPLETE_OUTPUT)
    else:
        assert "new" not in built.description
        assert msgspec.json.decode(msgspec.json.encode(built.description)) == built.description


def test_the_file_systems_of_upstreams_images() -> None:
    profile = b'{"images":[{"filesystem":"ext4"},{"name":"x"},{"filesystem":"squashfs"}],"titles":[]}'
    assert filesystems_of(profile) == {"ext4", "squashfs"}
    assert filesystems_of(b"nonsense") == frozenset()
