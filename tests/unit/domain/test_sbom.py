import json
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.domain.package_index import FoundPackage, FoundPackages, IndexedPackage, PackageManager
from asu_builder.domain.sbom import (
    Inventory,
    cpe_with_version,
    render_cyclonedx,
    render_spdx,
    take_inventory,
    upstream_version,
)
from factories import a_request
from sbom_rig import faults, faults_of, some_inventory

HASH = "4be1a1f3c0d2" + "0" * 52
DIGEST = "ab" * 32
BUSYBOX = IndexedPackage(
    "busybox",
    "1.36.1-r2",
    architecture="mips_24kc",
    licence="GPL-2.0",
    cpe="cpe:/a:busybox:busybox",
    origin="feeds/base/utils/busybox",
    hash=DIGEST,
)
DESCRIPTION: Mapping[str, object] = {
    "version_number": "24.10.5",
    "version_code": "r28959-29397011cc",
    "source_date_epoch": 1760000000,
    "arch_packages": "mips_24kc",
}


def an_inventory(
    manager: PackageManager | None = PackageManager.OPKG,
    *found: FoundPackage,
    manifest: Mapping[str, str] | None = None,
    description: Mapping[str, object] = DESCRIPTION,
) -> Inventory:
    return take_inventory(
        a_request(),
        HASH,
        description=description,
        manifest={"busybox": "1.36.1-r2"} if manifest is None else manifest,
        found=FoundPackages(manager, {entry.package.name: entry for entry in found}),
    )


def first(inventory: Inventory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first package of both documents, the image left out."""
    cyclonedx, spdx = json.loads(render_cyclonedx(inventory)), json.loads(render_spdx(inventory))
    return cyclonedx["components"][0], spdx["packages"][1]


def test_a_package_of_opkg_is_told_with_all_that_its_index_says() -> None:
    inventory = an_inventory(PackageManager.OPKG, FoundPackage(BUSYBOX, "base"))
    component, package = first(inventory)
    purl = "pkg:opkg/openwrt/busybox@1.36.1-r2?arch=mips_24kc&distro=openwrt-24.10.5"
    assert component == {
        "type": "application",
        "bom-ref": "package:busybox",
        "name": "busybox",
        "version": "1.36.1-r2",
        "hashes": [{"alg": "SHA-256", "content": DIGEST}],
        "licenses": [{"license": {"id": "GPL-2.0-only"}}],
        "cpe": "cpe:/a:busybox:busybox:1.36.1",
        "purl": purl,
        "properties": [
            {"name": "asu-builder:index", "value": "base"},
            {"name": "asu-builder:origin", "value": "feeds/base/utils/busybox"},
        ],
    }
    assert package["checksums"] == [{"algorithm": "SHA256", "checksumValue": DIGEST}]
    assert (package["versionInfo"], package["licenseDeclared"]) == ("1.36.1-r2", "GPL-2.0-only")
    assert package["sourceInfo"] == "origin: feeds/base/utils/busybox; index: base"
    assert [reference["referenceLocator"] for reference in package["externalRefs"]] == [
        purl,
        component["cpe"],
    ]
    assert not faults_of(inventory)


def test_the_digest_of_apk_is_not_called_that_of_the_file() -> None:
    component, package = first(an_inventory(PackageManager.APK, FoundPackage(BUSYBOX, "base")))
    assert "hashes" not in component and "checksums" not in package
    assert {"name": "asu-builder:apk-metadata-digest", "value": DIGEST} in component["properties"]
    assert "not of its file" in package["comment"] and DIGEST in package["comment"]
    assert component["purl"].startswith("pkg:apk/openwrt/busybox@1.36.1-r2?")


def test_a_package_of_which_no_index_is_known_is_there_nevertheless() -> None:
    inventory = an_inventory(None, manifest={"vim": "9.1-r1", "busybox": "1.36.1-r2"})
    component, package = first(inventory)
    assert component == {
        "type": "application",
        "bom-ref": "package:busybox",
        "name": "busybox",
        "version": "1.36.1-r2",
        "purl": "pkg:generic/busybox@1.36.1-r2?arch=mips_24kc",
    }
    assert package["licenseDeclared"] == "NOASSERTION"
    assert len(inventory.components) == 2 and not faults_of(inventory)


def test_a_package_of_the_callers_own_repository_is_not_said_to_be_openwrts() -> None:
    component, _ = first(an_inventory(PackageManager.APK, FoundPackage(BUSYBOX, "mine", is_foreign=True)))
    assert component["purl"] == "pkg:generic/busybox@1.36.1-r2?arch=mips_24kc"


def test_the_image_is_named_with_the_date_of_its_sources_and_no_other() -> None:
    document = json.loads(render_cyclonedx(an_inventory()))
    assert document["metadata"]["timestamp"] == "2025-10-09T08:53:20Z"
    assert document["metadata"]["component"]["name"] == "openwrt-24.10.5-pico-nine-acme_widget-5"
    properties = {entry["name"]: entry["value"] for entry in document["metadata"]["component"]["properties"]}
    assert properties["asu-builder:request-hash"] == HASH
    undated = an_inventory(description={})
    assert "timestamp" not in json.loads(render_cyclonedx(undated))["metadata"]
    assert json.loads(render_spdx(undated))["creationInfo"]["created"] == "1970-01-01T00:00:00Z"


def test_equal_builds_have_equal_documents_and_others_another_number() -> None:
    one, same = (
        an_inventory(manifest={"busybox": "1", "vim": "2"}),
        an_inventory(manifest={"vim": "2", "busybox": "1"}),
    )
    assert (render_cyclonedx(one), render_spdx(one)) == (render_cyclonedx(same), render_spdx(same))
    other = an_inventory(manifest={"busybox": "1", "vim": "3"})
    numbers = {json.loads(render_cyclonedx(each))["serialNumber"] for each in (one, other)}
    assert len(numbers) == 2
    assert json.loads(render_spdx(one))["documentNamespace"] in numbers


def test_each_package_has_a_line() -> None:
    lines = render_cyclonedx(an_inventory(manifest={"busybox": "1", "vim": "2"})).splitlines()
    assert [b'"vim"' in line for line in lines].count(True) == 1
    assert json.loads(next(line for line in lines if b'"name":"vim"' in line))["version"] == "2"


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("busybox", "1.36.1-r2", "1.36.1"),
        ("dropbear", "2024.86-2", "2024.86"),
        ("netifd", "2024.12.22~0f32416a-r1", "2024.12.22"),
        ("kernel", "6.6.119~9aa856cf-r1", "6.6.119"),
        ("kmod-ath11k", "6.6.66.6.11.2-r1", "6.6.66"),
        ("kmod-odd", "none", ""),
        ("464xlat", "13", "13"),
    ],
)
def test_the_version_of_what_was_packaged(name: str, version: str, told: str) -> None:
    assert upstream_version(name, version) == told


@pytest.mark.parametrize(
    ("cpe", "version", "told"),
    [
        ("cpe:/a:haxx:curl", "8.1", "cpe:/a:haxx:curl:8.1"),
        ("cpe:/a:haxx:curl::beta", "8.1", "cpe:/a:haxx:curl:8.1:beta"),
        ("cpe:/a:haxx:curl:7", "8.1", "cpe:/a:haxx:curl:7"),
        ("cpe:/a:haxx:curl", "1:2+B", "cpe:/a:haxx:curl:1%3a2%2bb"),
        ("cpe:/a:haxx:curl", "", "cpe:/a:haxx:curl"),
        ("cpe:2.3:a:haxx:curl", "8.1", "cpe:2.3:a:haxx:curl:8.1:*:*:*:*:*:*:*"),
        ("cpe:2.3:a:haxx:curl:*:*:*:*:*:*:*:*", "1+2", r"cpe:2.3:a:haxx:curl:1\+2:*:*:*:*:*:*:*"),
        (r"cpe:2.3:a:a\:b:c:1:*:*:*:*:*:*:*", "2", r"cpe:2.3:a:a\:b:c:1:*:*:*:*:*:*:*"),
        ("cpe:/a:haxx", "1", ""),
        ("cpe:/a:ha xx:curl", "1", ""),
        ("cpe:/a:a:b:c:d:e:f:g", "1", ""),
        ("cpe:2.3:a:a:b:c:d:e:f:g:h:i:j:k", "1", ""),
        ("", "1", ""),
    ],
)
def test_a_cpe_gets_the_version_and_what_is_none_is_left_out(cpe: str, version: str, told: str) -> None:
    assert cpe_with_version(cpe, version) == told


def test_what_cannot_be_a_version_is_left_out_and_the_package_is_not() -> None:
    component, package = first(an_inventory(manifest={"busybox": "x" * 2000}))
    assert "version" not in component and "versionInfo" not in package
    assert component["purl"] == "pkg:opkg/openwrt/busybox?arch=mips_24kc&distro=openwrt-24.10.5"


def test_names_that_spdx_cannot_spell_stay_apart() -> None:
    manifest = dict.fromkeys(("a+b", "a_b", "a.b", "a-b", "a.2b.b"), "1")
    document = json.loads(render_spdx(an_inventory(manifest=manifest)))
    assert len({package["SPDXID"] for package in document["packages"]}) == 6


@pytest.mark.parametrize("seed", range(12))
def test_the_strict_validators_accept_hostile_builds(seed: int) -> None:
    assert faults_of(some_inventory(seed)) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_strict_validators_accept_some_hundred_hostile_builds() -> None:
    wrong = {seed: said for seed in range(300) if (said := faults_of(some_inventory(seed, packages=150)))}
    assert wrong == {}


def test_the_validators_find_what_is_wrong() -> None:
    inventory = some_inventory(1)
    cyclonedx, spdx = render_cyclonedx(inventory), render_spdx(inventory)
    assert faults(cyclonedx.replace(b'"application"', b'"elephant"'), spdx)
    assert faults(cyclonedx, spdx.replace(b"SPDXRef-Package-", b"SPDXRef-Package_"))


def test_the_size_of_a_usual_build() -> None:
    inventory = some_inventory(3, packages=150)
    # An image has some million bytes.
    assert len(render_cyclonedx(inventory)) < 80_000
    assert len(render_spdx(replace(inventory))) < 120_000
