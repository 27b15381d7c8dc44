"""Real builds in real containers: from the request to the files inside the downloaded image."""

import hashlib
import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from asu_builder.engines.podman.runtime import PodmanRuntime
from asu_builder.engines.podman.service import PodmanOptions
from asu_builder.settings import Settings
from asu_sample.miniature.images import METADATA, SIGNATURE
from e2e.images import Unpacked, ext4_names, kinds_of_trailers, unsquash
from e2e.service import Answer, Client, Service
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_REGISTRY
from runtime_rig import a_spec
from sbom_rig import faults

# Its containers share two cores with three other workers' tests.
pytestmark = pytest.mark.timeout(600)

FLAVOURS = pytest.mark.parametrize("version", [APK_VERSION, OPKG_VERSION])
WANTED = ["base-files", "libc", "dropbear", "kmod-acme-usb", "vim"]
LARGE = {"target": "x86/64", "profile": "generic"}
SCRIPT = "#!/bin/sh\n# it's \"quoted\", $HOME, `date` and äöü\nuci set system.@system[0].hostname='$(id)'\n"


def a_body(**changes: object) -> dict[str, object]:
    """What a client posts."""
    return {
        "version": APK_VERSION,
        "target": "pico/nine",
        "profile": "acme_widget-5",
        "client": "owut/2026.1",
        **changes,
    }


def a_full_body(version: str) -> dict[str, object]:
    """One that adds, removes and brings a script."""
    packages = ["tmux", "sample-service", "-ppp", "-ppp-mod-pppoe"]
    return a_body(version=version, packages=packages, defaults=SCRIPT)


@pytest.fixture(scope="module", autouse=True)
def asked_ahead(podman_builder: Service) -> None:
    """Most of what this module builds is asked for at once, so that no test waits for long."""
    bodies = [a_body(**LARGE, packages=["vim"], rootfs_size_mb=48), a_body(**LARGE, packages=["vim"])]
    bodies += [a_body(**LARGE, packages=["sample-huge"]), a_body(packages=["nano"])]
    bodies += [a_body(**LARGE, packages=["sample-huge"], rootfs_size_mb=64), a_body(packages=["luci"])]
    for version in (APK_VERSION, OPKG_VERSION):
        bodies += [a_full_body(version), a_body(version=version)]
        bodies += [a_body(version=version, packages=[name]) for name in ("htop", "curl")]
        bodies += [a_body(version=version, packages=WANTED, diff_packages=True)]
    with podman_builder.client() as client:
        assert {client.post(body).status for body in bodies} <= {200, 202, 500}


def builds(client: Client, *bodies: dict[str, object]) -> list[Answer]:
    """Asks for several builds, which may run at the same time; how each ended."""
    hashes = [client.post(body).json["request_hash"] for body in bodies]
    return [client.wait(request_hash) for request_hash in hashes]


def download(client: Client, build: Any, kind: str) -> bytes:
    """An image of a finished build, checked as a careful client would."""
    (image,) = [image for image in build["images"] if image["type"] == kind]
    answer = client.get(f"/store/{build['bin_dir']}/{image['name']}")
    assert answer.status == 200
    assert answer.headers["content-length"] == str(len(answer.body)) == str(image["size"])
    assert hashlib.sha256(answer.body).hexdigest() == image["sha256"]
    return answer.body


def finished(answer: Answer) -> Any:
    """The document of a build that must have succeeded."""
    assert answer.status == 200, answer.json
    return answer.json


def unpacked(client: Client, build: Any, into: Path) -> Unpacked:
    """The root file system of the sysupgrade image."""
    return unsquash(download(client, build, "sysupgrade"), into)


@FLAVOURS
def test_a_build_goes_from_queued_to_done_with_everything_that_clients_read(
    containers: Client, version: str
) -> None:
    body = a_body(version=version, packages=["vim", "tmux"])
    first = containers.post(body)

    assert first.status == 202
    queued = first.json
    assert (queued["status"], queued["detail"]) == (202, "queued")
    assert str(queued["queue_position"]) == first.headers["x-queue-position"]
    assert "imagebuilder_status" not in queued
    assert first.headers["x-imagebuilder-status"] == "queued"
    assert first.headers["access-control-allow-origin"] == "*"

    stages, last = _watch(containers, queued["request_hash"])
    assert stages[-1] == "done"
    assert set(stages) - {"queued"} <= {
        *("init", "container_setup", "validate_revision", "validate_manifest", "building_image", "done"),
    }
    head = containers.head(f"/api/v1/build/{queued['request_hash']}")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["x-imagebuilder-status"] == "done"
    _require_full_document(finished(last), version)

    again = containers.post(body)
    assert (again.status, again.json["request_hash"]) == (200, queued["request_hash"])


@FLAVOURS
def test_a_build_says_what_is_in_its_images(containers: Client, version: str) -> None:
    build = finished(builds(containers, a_body(version=version, packages=["htop"]))[0])
    assert not {*build["sbom"].values()} & {image["name"] for image in build["images"]}
    answers = [
        containers.get(f"/store/{build['bin_dir']}/{build['sbom'][name]}") for name in ("cyclonedx", "spdx")
    ]
    assert [answer.status for answer in answers] == [200, 200]
    assert not faults(*(answer.body for answer in answers))
    components = {entry["name"]: entry for entry in json.loads(answers[0].body)["components"]}
    assert {name: entry["version"] for name, entry in components.items()} == build["manifest"]
    # The index was read: of opkg it names the digest of the file, of apk another one.
    htop = components["htop"]
    assert "arch=pico_9kc" in htop["purl"]
    assert ("hashes" in htop) == (version == OPKG_VERSION)
    assert ("apk-metadata-digest" in json.dumps(htop)) == (version == APK_VERSION)
    # What only the ImageBuilder carries is described by its own index.
    assert {"name": "asu-builder:index", "value": "imagebuilder"} in components["libc"]["properties"]


def _watch(client: Client, request_hash: str) -> tuple[list[str], Answer]:
    stages = []

    def note(answer: Answer) -> bool:
        stages.append(answer.headers["x-imagebuilder-status"])
        if answer.status == 202 and answer.json["detail"] == "started":
            assert "queue_position" not in answer.json
            assert answer.json["imagebuilder_status"] == stages[-1]
        return answer.status != 202

    last = client.wait_until(request_hash, note)
    return stages, last


def _require_full_document(done: Any, version: str) -> None:
    assert (done["status"], done["detail"], done["imagebuilder_status"]) == (200, "done", "done")
    assert done["bin_dir"] == done["request_hash"]
    assert (done["id"], done["target"], done["version_number"]) == ("acme_widget-5", "pico/nine", version)
    assert done["arch_packages"] == "pico_9kc"
    assert done["metadata_version"] == 1
    assert done["version_code"].startswith("r28")
    assert done["titles"] == [{"vendor": "Acme", "model": "Widget 5", "variant": "v1"}]
    assert "acme,widget-5" in done["supported_devices"]
    assert isinstance(done["default_packages"], list) and isinstance(done["device_packages"], list)
    assert done["build_at"].startswith("2026-01-0") and done["build_at"].endswith("Z")
    assert isinstance(done["source_date_epoch"], int)
    assert {"vim", "tmux", "libc", "base-files"} <= done["manifest"].keys()
    assert done["build_cmd"][:3] == ["make", "image", "PROFILE=acme_widget-5"]
    assert done["build_cmd_packages"] == ["vim", "tmux"]
    assert "Building images" in done["stdout"] and isinstance(done["stderr"], str)
    assert done["enqueued_at"].endswith("Z")
    assert done["request"]["packages"] == ["vim", "tmux"]
    assert {"defaults", "rootfs_size_mb", "version_code"} <= done["request"].keys()
    assert "profiles" not in done
    for image in done["images"]:
        assert {"name", "type", "sha256", "sha256_unsigned"} <= image.keys()
        assert done["request_hash"][:12] in image["name"]


@FLAVOURS
def test_the_image_holds_what_was_asked_for_and_nothing_that_was_removed(
    containers: Client, version: str, tmp_path: Path
) -> None:
    build = finished(containers.build(a_full_body(version)))
    image = unpacked(containers, build, tmp_path)

    assert image.has_package("tmux")
    assert image.has_package("sample-service")
    assert image.has_package("kmod-acme-usb"), "the profile's own package"
    assert not image.has_package("ppp")
    assert not image.has_package("ppp-mod-pppoe")
    assert not image.has_package("vim")
    assert image.defaults == SCRIPT
    assert image.starts("sample-service")
    assert "ppp" not in build["manifest"]
    assert f"FILES={'/builder'}/asu-files" in build["build_cmd"]


@FLAVOURS
def test_every_listed_file_can_be_downloaded_and_is_what_it_is_said_to_be(
    containers: Client, version: str
) -> None:
    build = finished(containers.build(a_body(version=version, packages=["htop"])))

    kinds = [image["type"] for image in build["images"]]
    assert sorted(kinds) == ["factory", "preloader.bin", "sysupgrade"]
    sysupgrade = download(containers, build, "sysupgrade")
    for kind in kinds:
        assert download(containers, build, kind)
    signed = [SIGNATURE] if version == OPKG_VERSION else []
    assert kinds_of_trailers(sysupgrade) == [*signed, METADATA]
    (listed,) = [image for image in build["images"] if image["type"] == "sysupgrade"]
    assert (listed["sha256"] != listed["sha256_unsigned"]) == bool(signed)
    assert kinds_of_trailers(download(containers, build, "factory")) == []


def test_what_was_built_lies_beside_the_images_with_its_metadata(
    podman_builder: Service, containers: Client
) -> None:
    build = finished(containers.build(a_body(packages=["nano"])))

    published = podman_builder.store / build["bin_dir"]
    profiles = json.loads((published / "profiles.json").read_text())
    assert list(profiles["profiles"]) == ["acme_widget-5"]
    names = {path.name for path in published.iterdir()}
    assert {image["name"] for image in build["images"]} <= names
    assert "sha256sums" in names
    assert eventually(lambda: podman_builder.leftovers() == [])


@pytest.mark.parametrize("disabled", [False, True])
def test_a_disabled_service_is_in_the_image_and_does_not_start(
    podman_socket: Path, sample_images: str, tmp_path: Path, disabled: bool
) -> None:
    options = PodmanOptions(
        Settings(
            container_socket_path=str(podman_socket),
            imagebuilder_registry=SAMPLE_REGISTRY,
            build_network="none",
        )
    )
    command = ["make", "image", "PROFILE=acme_widget-5", "PACKAGES=sample-service", "BIN_DIR=/builder/out"]
    collected, output = tmp_path / "images", tmp_path / "output"
    collected.mkdir()
    output.mkdir()
    with PodmanRuntime(options).open(a_spec(), stop=Event()) as container:
        argument = ["DISABLED_SERVICES=sample-service"] if disabled else []
        result = container.run([*command, *argument], output=output)
        assert result.exit_code == 0, result.stderr.read_text()
        container.collect("/builder/out", collected)
    (file,) = collected.glob("*sysupgrade.bin")
    image = unsquash(file.read_bytes(), tmp_path / "unpacked")

    assert image.has("etc/init.d/sample-service")
    assert image.starts("sample-service") is not disabled
    assert image.starts("dropbear"), "the others still start"


def test_a_larger_root_partition_is_made_as_asked(containers: Client, tmp_path: Path) -> None:
    build = finished(containers.build(a_body(**LARGE, packages=["vim"], rootfs_size_mb=48)))

    assert "ROOTFS_PARTSIZE=48" in build["build_cmd"]
    (rootfs,) = [
        image for image in build["images"] if image["type"] == "rootfs" and image["filesystem"] == "ext4"
    ]
    file = containers.get(f"/store/{build['bin_dir']}/{rootfs['name']}").body
    assert "vim" in ext4_names(file, "/usr/share/sample", tmp_path)
    assert (tmp_path / "rootfs.ext4").stat().st_size == 48 << 20


def test_a_package_too_huge_for_the_root_partition_fits_into_a_larger_one(containers: Client) -> None:
    small = containers.build(a_body(**LARGE, packages=["sample-huge"]))
    large = containers.build(a_body(**LARGE, packages=["sample-huge"], rootfs_size_mb=64))

    assert (small.status, small.json["reason"]) == (500, "too_big")
    assert large.status == 200


def test_an_unknown_board_of_a_generic_target_is_generic(containers: Client) -> None:
    answer = containers.post(a_body(target="x86/64", profile="dell,optiplex", packages=["vim"]))
    same = containers.post(a_body(**LARGE, packages=["vim"]))

    assert answer.json["request_hash"] == same.json["request_hash"]
    assert finished(containers.wait(answer.json["request_hash"]))["id"] == "generic"


@FLAVOURS
def test_with_diff_packages_every_default_that_is_not_named_is_removed(
    containers: Client, version: str, tmp_path: Path
) -> None:
    build = finished(containers.build(a_body(version=version, packages=WANTED, diff_packages=True)))
    image = unpacked(containers, build, tmp_path)

    assert "-dnsmasq" in build["build_cmd_packages"]
    assert "dnsmasq" not in build["manifest"] and not image.has_package("dnsmasq")
    assert set(WANTED) <= build["manifest"].keys() and image.has_package("dropbear")


@FLAVOURS
def test_the_versions_a_client_was_shown_are_the_ones_it_gets(containers: Client, version: str) -> None:
    shown = finished(containers.build(a_body(version=version, packages=["curl"])))["manifest"]
    versions = {name: shown[name] for name in ("curl", "base-files", "libcurl")}
    right, wrong = builds(
        containers,
        a_body(version=version, packages_versions=versions),
        a_body(version=version, packages_versions=versions | {"curl": "0.1-r1"}),
    )

    assert finished(right)["build_cmd_packages"] == list(versions)
    assert (wrong.status, wrong.json["fault"], wrong.json["reason"]) == (500, "user", "version_mismatch")
    assert wrong.json["detail"] == (
        f"Error: Impossible package selection: curl version not as requested: 0.1-r1 vs. {shown['curl']}"
    )


@FLAVOURS
def test_the_revision_a_client_asks_for_must_be_the_imagebuilders(containers: Client, version: str) -> None:
    revision = finished(containers.build(a_body(version=version)))["version_code"]
    right, wrong = builds(
        containers,
        a_body(version=version, version_code=revision),
        a_body(version=version, version_code="r1-0000000000"),
    )

    assert finished(right)["version_code"] == revision
    assert (wrong.status, wrong.json["fault"], wrong.json["reason"]) == (500, "user", "revision_mismatch")
    assert wrong.json["detail"] == (f"Error: Received incorrect version {revision} (requested r1-0000000000)")


@pytest.mark.parametrize("alias", ["widget5", "acme,widget-5", "acme,widget-5-eu", "acme_widget-5-eu"])
def test_every_name_of_a_device_means_one_job(containers: Client, alias: str) -> None:
    build = finished(containers.build(a_body(packages=["luci"])))
    answer = containers.post(a_body(packages=["luci"], profile=alias))

    assert (answer.status, answer.json["request_hash"]) == (200, build["request_hash"])
    assert answer.json["id"] == answer.json["request"]["profile"] == "acme_widget-5"
