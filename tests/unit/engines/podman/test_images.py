"""Which image a release needs, and what a registry's refusal means."""

import pytest

from asu_builder.domain.errors import BuildFailed, EngineUnavailable, FailureReason, RegistryUnavailable
from asu_builder.engines.podman.images import image_reference, pull_failed
from asu_builder.settings import Settings
from runtime_rig import a_spec


def reference(version: str, template: str = Settings().imagebuilder_image) -> str:
    spec = a_spec(version, target="ath79/generic")
    return image_reference(Settings(imagebuilder_image=template), spec.release, spec.target)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("24.10.5", "ghcr.io/openwrt/imagebuilder:ath79-generic-v24.10.5"),
        ("24.10.0-rc2", "ghcr.io/openwrt/imagebuilder:ath79-generic-v24.10.0-rc2"),
        ("24.10-SNAPSHOT", "ghcr.io/openwrt/imagebuilder:ath79-generic-openwrt-24.10"),
        ("SNAPSHOT", "ghcr.io/openwrt/imagebuilder:ath79-generic-master"),
    ],
)
def test_releases_find_the_images_that_openwrt_publishes(version: str, expected: str) -> None:
    assert reference(version) == expected


def test_an_operator_may_name_images_otherwise() -> None:
    assert reference("24.10.5", "own.example/{target}/{subtarget}:{version}") == (
        "own.example/ath79/generic:24.10.5"
    )


@pytest.mark.parametrize(
    "text",
    [
        "initializing source docker://r/ib:x: reading manifest x in r/ib: manifest unknown: manifest unknown",
        "reading manifest x in ghcr.io/o/ib: denied: requested access to the resource is denied",
        "reading manifest x in r/ib: name unknown: repository name not known to registry",
        "reading manifest x in quay.io/o/ib: unauthorized: access to the resource is not authorized",
    ],
)
def test_a_registry_that_knows_no_such_tag_means_a_missing_imagebuilder(text: str) -> None:
    failure = pull_failed("r/ib:x", text)
    assert isinstance(failure, BuildFailed)
    assert failure.reason == FailureReason.IMAGEBUILDER_MISSING
    assert failure.detail.startswith("Error: Image not found: ib:x. ")


@pytest.mark.parametrize(
    "text",
    [
        "pinging container registry r: dial tcp 127.0.0.1:1: connect: connection refused",
        "pinging container registry r: dial tcp: lookup r on 10.0.0.1:53: no such host",
        "toomanyrequests: You have reached your pull rate limit",
        "received unexpected HTTP status: 502 Bad Gateway",
        "copying system image from manifest list: writing blob: unexpected EOF",
        "Podman reported no image",
    ],
)
def test_anything_else_is_the_registry_s_fault(text: str) -> None:
    failure = pull_failed("r/ib:x", text)
    assert isinstance(failure, RegistryUnavailable)
    assert text in str(failure)


def test_a_full_disk_is_told_to_the_operator() -> None:
    failure = pull_failed("r/ib:x", "writing blob: storing blob: write /var/tmp/x: no space left on device")
    assert isinstance(failure, EngineUnavailable)
    assert "disk is full" in str(failure)
