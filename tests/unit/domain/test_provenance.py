"""What a statement says of where images came from, and what it never says."""

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from asu_builder.domain.job import Image
from asu_builder.domain.make import Origin
from asu_builder.domain.package_index import (
    FoundPackage,
    FoundPackages,
    IndexedPackage,
    PackageIndex,
    PackageManager,
)
from asu_builder.domain.provenance import (
    BadStatement,
    Builder,
    Built,
    parse_statement,
    render_statement,
)
from asu_builder.domain.sbom import take_inventory
from factories import NOON, a_request

DIGEST, OTHER, INDEX = "ab" * 32, "cd" * 32, "ef" * 32
HASH = "4be1a1f3c0d2" + "0" * 52
BUILDER = Builder("https://asu.example.org", "1.2.3")
PODMAN = Origin("container", "ghcr.io/openwrt/imagebuilder:pico-nine-v24.10.5", "12" * 32)
IMAGE = Image("a.bin", "sysupgrade", DIGEST, OTHER, 5)
SECRETS = ("wlan-password", "PEM of a key", "user", "token-in-address")


def a_built(manager: PackageManager = PackageManager.OPKG, **changes: Any) -> Built:
    index = PackageIndex("base", "https://downloads.example.org/base/Packages", INDEX, manager, bytes)
    carried = PackageIndex("imagebuilder", "", OTHER, manager, bytes)
    package = IndexedPackage("vim", "9.1-r1", architecture="mips_24kc", hash=DIGEST)
    values: dict[str, Any] = {
        "request": a_request(packages=("vim", "gone"), defaults="uci set wlan-password"),
        "manifest": {"vim": "9.1-r1", "gone": "1"},
        "found": FoundPackages(manager, {"vim": FoundPackage(package, "base")}, (index, carried)),
        "origin": PODMAN,
        "carried": True,
        "packages": ("-ppp", "vim", "gone"),
    }
    return Built(**values | changes)


def rendered(built: Built, *, later: timedelta = timedelta(0)) -> bytes:
    inventory = take_inventory(
        built.request,
        HASH,
        description={"version_code": "r1-aa"},
        manifest=built.manifest,
        found=built.found,
    )
    digests = {"sha256sums": OTHER, "a.bin": DIGEST}
    return render_statement(
        built,
        inventory,
        digests,
        (IMAGE,),
        builder=BUILDER,
        started_at=NOON + later,
        finished_at=NOON + later + timedelta(seconds=9),
    )


def statement_of(built: Built) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(rendered(built))
    return document


def dependencies_of(built: Built) -> dict[str, dict[str, Any]]:
    found = statement_of(built)["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {entry["name"]: entry for entry in found}


def test_a_statement_names_files_builder_and_all_that_went_in() -> None:
    statement = statement_of(a_built())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {"name": "a.bin", "digest": {"sha256": DIGEST}, "annotations": {"sha256_unsigned": OTHER}},
        {"name": "sha256sums", "digest": {"sha256": OTHER}},
    ]
    assert statement["predicate"]["runDetails"] == {
        "builder": {"id": "https://asu.example.org", "version": {"asu-builder": "1.2.3"}},
        "metadata": {
            "startedOn": f"{NOON:%Y-%m-%dT%H:%M:%SZ}",
            "finishedOn": f"{NOON + timedelta(seconds=9):%Y-%m-%dT%H:%M:%SZ}",
        },
    }
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"] == {"isolation": "container", "packages": ["-ppp", "vim", "gone"]}
    assert list(dependencies_of(a_built()).values()) == [
        {
            "name": "container image",
            "uri": "docker://ghcr.io/openwrt/imagebuilder:pico-nine-v24.10.5",
            "digest": {"sha256": "12" * 32},
        },
        {
            "name": "package index base",
            "uri": "https://downloads.example.org/base/Packages",
            "digest": {"sha256": INDEX},
        },
        {"name": "package index imagebuilder", "digest": {"sha256": OTHER}},
        {"name": "gone", "uri": "pkg:opkg/openwrt/gone@1?distro=openwrt-24.10.5"},
        {
            "name": "vim",
            "uri": "pkg:opkg/openwrt/vim@9.1-r1?arch=mips_24kc&distro=openwrt-24.10.5",
            "digest": {"sha256": DIGEST},
            "annotations": {"index": "base"},
        },
    ]


def test_what_apk_knows_of_a_package_is_no_digest_of_its_file() -> None:
    vim = dependencies_of(a_built(PackageManager.APK))["vim"]
    assert "digest" not in vim
    assert vim["annotations"] == {"apk_metadata_digest": DIGEST, "index": "base"}


def test_a_package_that_no_index_holds_any_more_has_no_digest() -> None:
    entries = dependencies_of(a_built(found=FoundPackages()))
    assert entries["vim"] == {"name": "vim", "uri": "pkg:generic/vim@9.1-r1"}
    assert list(entries) == ["container image", "gone", "vim"]


@pytest.mark.parametrize(
    ("origin", "carried", "names"),
    [
        (PODMAN, True, ["container image"]),
        (PODMAN, False, ["container image", "ImageBuilder"]),
        (Origin("sandbox"), True, ["ImageBuilder"]),
    ],
)
def test_an_imagebuilder_that_no_container_image_carries_is_named_without_a_digest(
    origin: Origin, carried: bool, names: list[str]
) -> None:
    built = a_built(origin=origin, carried=carried, found=FoundPackages(), manifest={})
    entries = dependencies_of(built)
    assert list(entries) == names
    if "ImageBuilder" in entries:
        assert entries["ImageBuilder"] == {
            "name": "ImageBuilder",
            "uri": "pkg:generic/openwrt-imagebuilder@24.10.5?target=pico%2Fnine",
            "annotations": {"revision": "r1-aa"},
        }
    nameless = dependencies_of(a_built(origin=replace(PODMAN, digest="")))
    assert "digest" not in nameless["container image"]


def test_what_only_the_caller_may_know_is_not_told() -> None:
    key = "PEM of a key"
    request = a_request(
        packages=("vim",),
        defaults="uci set wlan-password",
        repositories={"mine": "https://user:token-in-address@packages.example.org/a@b/c"},
        repositories_mode="append",
        repository_keys=(key,),
    )
    text = rendered(a_built(request=request))
    assert not any(secret.encode() in text for secret in SECRETS) and HASH.encode() not in text
    told = json.loads(text)["predicate"]["buildDefinition"]["externalParameters"]["request"]
    assert told == {
        "version": "24.10.5",
        "target": "pico/nine",
        "profile": "acme_widget-5",
        "packages": ["vim"],
        "diff_packages": False,
        "defaults": {"sha256": hashlib.sha256(b"uci set wlan-password").hexdigest()},
        "repositories": {"mine": "https://packages.example.org/a@b/c"},
        "repositories_mode": "append",
        "repository_keys": [{"sha256": hashlib.sha256(key.encode()).hexdigest()}],
    }


def test_equal_builds_differ_in_their_times_only() -> None:
    one, other = rendered(a_built()), rendered(a_built(), later=timedelta(hours=3))
    assert one == rendered(a_built()) and one != other
    documents = [json.loads(text) for text in (one, other)]
    for document in documents:
        del document["predicate"]["runDetails"]["metadata"]
    assert documents[0] == documents[1]


def test_what_was_written_is_read_again() -> None:
    read = parse_statement(rendered(a_built()))
    assert read.digests == {"a.bin": DIGEST, "sha256sums": OTHER}
    assert (read.builder, read.program) == ("https://asu.example.org", "asu-builder 1.2.3")
    assert read.request["profile"] == "acme_widget-5"
    assert read.finished_at.endswith("Z")


def _changed(**changes: Any) -> bytes:
    return json.dumps(statement_of(a_built()) | changes).encode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no in-toto statement"),
        (b"[]", "no in-toto statement"),
        (b"[" * 100_000, "no in-toto statement"),
        (b'{"_type":"\xff"}', "no in-toto statement"),
        (_changed(predicate={}), "no in-toto statement"),
        (_changed(predicateType="https://slsa.dev/provenance/v0.2"), "of another kind"),
        (_changed(subject=[]), "names no file"),
        (_changed(subject=[{"name": "a", "digest": {"sha512": "0"}}]), "has no SHA-256"),
        (
            _changed(
                subject=[
                    {"name": "a", "digest": {"sha256": "0"}},
                    {"name": "a", "digest": {"sha256": "1"}},
                ]
            ),
            "names a file twice",
        ),
        (_changed(subject=[{"name": "a", "digest": None}]), "no in-toto statement"),
    ],
)
def test_what_is_no_such_statement_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(BadStatement, match=said):
        parse_statement(text)
