"""The pipeline with real ImageBuilders of the sample distribution, in the local runtime without a sandbox."""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from asu_builder.core import imagebuilder, images, pipeline
from asu_builder.core.images import describe_images
from asu_builder.database.connection import Database
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.domain.errors import BuildFailed, BuildInterrupted, FailureReason, LeaseLost, Side
from asu_builder.domain.job import Job, JobState, Stage
from asu_builder.domain.make import Step
from asu_builder.domain.package_index import FoundPackages, PackageManager
from asu_builder.domain.packages import Baseline
from asu_builder.domain.request import BuildRequest, request_hash
from asu_builder.ports import PreflightRecords
from asu_builder.upstream.lenient import Notes
from asu_builder.upstream.package_index import read_index
from asu_sample.distribution import Distribution, snapshot_builder, write_distribution
from asu_sample.miniature.images import SIGNATURE
from asu_sample.offers import FEEDS, feed_contents
from asu_sample.releases import EPOCH, RELEASES, configuration
from asu_sample.server import DownloadServer
from e2e.images import kinds_of_trailers
from factories import NOON, a_request, sooner_than
from odd_server import odd_server
from pipeline_rig import Bench
from podman_service import APK_VERSION, OPKG_VERSION
from sbom_rig import faults, some_packages

FLAVOURS = (APK_VERSION, OPKG_VERSION)


@pytest.fixture
def bench(tmp_path: Path, sample_world: Distribution) -> Bench:
    return Bench(tmp_path, sample_world.template)


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Distribution, DownloadServer]]:
    """A distribution whose ImageBuilders load their packages from a server."""
    root = tmp_path_factory.mktemp("networked")
    (root / "world" / "downloads").mkdir(parents=True)
    with DownloadServer(root / "world" / "downloads") as server:
        yield write_distribution(root / "world", repositories_url=server.url), server


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_request_becomes_published_images(bench: Bench, version: str) -> None:
    result = bench.build(version, packages=("tmux",))
    name = request_hash(a_request(version=version, packages=("tmux",)))
    assert {image.type for image in result.images} >= {"sysupgrade", "factory"}
    for image in result.images:
        path = bench.store.locate(name, image.name)
        assert path is not None
        assert path.stat().st_size == image.size
    assert "tmux" in result.manifest
    assert result.build_cmd[:2] == ("make", "image")
    assert list(result.seconds) == list(Step)
    assert all(result.seconds[step] > 0 for step in ("set_up", "install", "collect"))
    assert result.description["version_number"] == version
    assert bench.stages == [
        Stage.CONTAINER_SETUP,
        Stage.VALIDATE_REVISION,
        Stage.VALIDATE_MANIFEST,
        Stage.BUILDING_IMAGE,
        Stage.BUILDING_IMAGE,
    ]
    assert bench.is_clean()


@pytest.mark.long
@pytest.mark.parametrize("version", FLAVOURS)
def test_two_builds_of_one_request_say_in_equal_bytes_what_is_in_their_images(
    tmp_path: Path, sample_world: Distribution, version: str
) -> None:
    texts = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        bench = Bench(tmp_path / name, sample_world.template)
        result = bench.build(version, packages=("tmux",))
        assert result.sbom is not None
        assert not {result.sbom.cyclonedx, result.sbom.spdx} & {image.name for image in result.images}
        request = request_hash(a_request(version=version, packages=("tmux",)))
        paths = [bench.store.locate(request, file) for file in (result.sbom.cyclonedx, result.sbom.spdx)]
        texts.append([path.read_bytes() for path in paths if path])
        # No index was known.
        told = {entry["name"]: entry["version"] for entry in json.loads(texts[-1][0])["components"]}
        assert told == result.manifest
    assert texts[0] == texts[1] and not faults(*texts[0])


def test_a_manifest_of_very_many_packages_is_not_written_as_an_sbom(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_PACKAGES", 3)
    result = bench.build()
    assert result.sbom is None
    assert "The manifest is too long to write an SBOM from it." in result.warnings


@pytest.mark.parametrize(
    ("target", "profile"),
    [("pico/nine", "acme_widget-5"), ("pico/nine", "acme_sdcard"), ("x86/64", "generic")],
)
@pytest.mark.parametrize("version", FLAVOURS)
def test_what_is_signed_has_two_digests(bench: Bench, version: str, target: str, profile: str) -> None:
    """Facts §9: on apk releases `sha256` equals `sha256_unsigned`; on opkg releases they differ exactly for
    images with metadata."""
    result = bench.build(version, target=target, profile=profile)
    name = request_hash(a_request(version=version, target=target, profile=profile))
    release = next(release for release in RELEASES if release.version == version)
    described = configuration(release, target, epoch=EPOCH).profile(profile)
    assert described is not None
    # What is compressed afterwards has its trailers inside.
    with_metadata = tuple(
        f"{recipe.filesystem}-{recipe.name}"
        for recipe in described.images
        if recipe.metadata and not recipe.gzip_later
    )
    for image in result.images:
        path = bench.store.locate(name, image.name)
        assert path is not None
        is_signed = version == OPKG_VERSION and image.name.endswith(with_metadata)
        assert (image.sha256 != image.sha256_unsigned) == is_signed, image.name
        assert (SIGNATURE in kinds_of_trailers(path.read_bytes())) == is_signed, image.name
    assert profile == "acme_sdcard" or with_metadata


@pytest.mark.parametrize("ending", ["stop", "deadline"])
def test_reading_the_images_ends_with_the_stop_and_the_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: seconds[0]))

    def describe_late(*arguments: Any, **options: Any) -> Any:
        if ending == "stop":
            bench.stop.set()
        else:
            seconds[0] += 121
        return describe_images(*arguments, **options)

    monkeypatch.setattr(pipeline, "describe_images", describe_late)
    if ending == "stop":
        with pytest.raises(BuildInterrupted):
            bench.build()
    else:
        assert bench.failure().reason is FailureReason.DEADLINE
    assert bench.is_clean()
    assert not list(bench.store_path.glob("?" * 64))


def test_make_info_is_remembered_as_long_as_the_imagebuilder_is_the_same(bench: Bench) -> None:
    bench.build(packages=("tmux",))
    bench.build(packages=("vim",))
    bench.build(OPKG_VERSION)
    assert [command for command in bench.witness.commands if command == "make info"] == ["make info"] * 2


@pytest.mark.parametrize(
    ("reason", "changes", "words"),
    [
        (
            FailureReason.IMPOSSIBLE_SELECTION,
            {"packages": ("nosuch", "nothere")},
            "missing (nosuch, nothere)",
        ),
        (
            FailureReason.IMPOSSIBLE_SELECTION,
            {"packages": ("sample-conflict-a", "sample-conflict-b")},
            "conflicts (",
        ),
        (
            FailureReason.IMPOSSIBLE_SELECTION,
            {"packages": ("sample-clash-a", "sample-clash-b")},
            "conflicts (",
        ),
        (
            FailureReason.IMPOSSIBLE_SELECTION,
            {"packages": ("sample-broken-dep",)},
            "missing (this-package-does-not-exist)",
        ),
        (
            FailureReason.MAKE_FAILED,
            {"packages": ("sample-postinst-fail",)},
            "install script of sample-postinst-fail",
        ),
        (FailureReason.TOO_BIG, {"packages": ("sample-big",)}, "exceed device storage"),
        (FailureReason.TOO_BIG, {"packages": ("sample-big",), "profile": "acme_small"}, "do not fit into"),
        (
            FailureReason.TOO_BIG,
            {"packages": ("sample-big",), "profile": "acme_safe"},
            "exceed device storage",
        ),
        (
            FailureReason.TOO_BIG,
            {"packages": ("sample-big",), "profile": "acme_combined-v1.5"},
            "exceed device",
        ),
        (FailureReason.UNKNOWN_PROFILE, {"profile": "acme_none"}, "does not know the profile acme_none"),
        (FailureReason.REVISION_MISMATCH, {"version_code": "r1-abc"}, "Received incorrect version r"),
        (
            FailureReason.VERSION_MISMATCH,
            {"packages_versions": {"tmux": "0"}},
            "tmux version not as requested: 0 vs.",
        ),
        (FailureReason.IMAGEBUILDER_MISSING, {"target": "no/such"}, "Image not found"),
        (FailureReason.MAKE_FAILED, {"profile": "acme_tiny"}, "Error while building firmware"),
    ],
)
@pytest.mark.parametrize("version", FLAVOURS)
def test_each_way_to_fail_has_its_reason_and_says_what_to_do(
    bench: Bench, version: str, reason: FailureReason, changes: dict[str, Any], words: str
) -> None:
    failure = bench.failure(version, **changes)
    assert failure.reason is reason
    assert failure.detail.startswith("Error: ")
    assert words in failure.detail
    assert bench.is_clean()
    assert sorted(path.name for path in bench.store_path.iterdir()) == [".lock", ".staging"]


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_failure_brings_the_output_and_the_command(bench: Bench, version: str) -> None:
    failure = bench.failure(version, packages=("nosuch",))
    assert "nosuch" in failure.stderr
    assert failure.stderr.rstrip().endswith("Error 2")
    assert failure.build_cmd[:2] == ("make", "manifest")


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_repository_that_does_not_answer_is_the_worlds_fault(
    tmp_path: Path, networked: tuple[Distribution, DownloadServer], version: str
) -> None:
    distribution, server = networked
    bench = Bench(tmp_path, distribution.template)
    assert "tmux" in bench.build(version, packages=("tmux",)).manifest
    server.broken = True
    try:
        failure = bench.failure(version, packages=("tmux",))
    finally:
        server.broken = False
    assert failure.reason is FailureReason.UPSTREAM_UNREACHABLE
    assert failure.detail.startswith("Error: A package repository could not be reached")
    assert server.url in failure.detail


@pytest.mark.parametrize("version", FLAVOURS)
def test_repositories_are_appended_or_take_the_place_of_the_own_ones(
    tmp_path: Path, networked: tuple[Distribution, DownloadServer], version: str
) -> None:
    distribution, server = networked
    bench = Bench(tmp_path, distribution.template)
    feed = f"{server.url}/{distribution.version_path(version)}/packages/pico_9kc/base"
    address = f"{feed}/packages.adb" if version == APK_VERSION else feed
    changes: dict[str, Any] = {"packages": ("tmux",), "repositories": {"mine": address}}
    assert "tmux" in bench.build(version, repositories_mode="append", **changes).manifest
    failure = bench.failure(version, repositories_mode="replace", **changes)
    assert failure.reason is FailureReason.IMPOSSIBLE_SELECTION
    assert "tmux" in failure.detail


@pytest.mark.parametrize("version", FLAVOURS)
@pytest.mark.parametrize(
    ("status", "reason", "side"),
    [
        (404, FailureReason.BAD_REPOSITORY, Side.USER),
        (503, FailureReason.UPSTREAM_UNREACHABLE, Side.INFRASTRUCTURE),
    ],
)
def test_an_own_repository_is_judged_by_what_its_server_answers(
    bench: Bench,
    sample_world: Distribution,
    version: str,
    status: int,
    reason: FailureReason,
    side: Side,
) -> None:
    with odd_server(sample_world.downloads) as server:
        server.odd = {"/mine/packages.adb": status, "/mine/Packages.gz": status}
        address = f"{server.url}/mine" + ("/packages.adb" if version == APK_VERSION else "")
        failure = bench.failure(version, repositories={"mine": address}, repositories_mode="append")
    assert (failure.reason, failure.side, failure.field) == (reason, side, "repositories")
    assert address in failure.detail
    assert str(status) in failure.detail


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_build_that_went_without_a_feed_is_no_success(
    tmp_path: Path, sample_world: Distribution, version: str
) -> None:
    """The feed is not needed: make succeeds without it, and might have taken a newer package from it."""
    builder = tmp_path / "builder"
    shutil.copytree(sample_world.imagebuilder(version, "pico/nine"), builder, symlinks=True)
    with odd_server(sample_world.downloads) as server:
        feed = f"{server.url}/{sample_world.version_path(version)}/packages/pico_9kc/base"
        apk = version == APK_VERSION
        with (builder / ("repositories" if apk else "repositories.conf")).open("a") as file:
            file.write(f"{feed}/packages.adb\n" if apk else f"src/gz another {feed}\n")
        bench = Bench(tmp_path, str(builder))
        server.odd = {"/packages.adb": 404, "/Packages.gz": 404}
        failure = bench.failure(version)
        assert (failure.reason, failure.side) == (FailureReason.UPSTREAM_UNREACHABLE, Side.INFRASTRUCTURE)
        assert feed in failure.detail
        assert bench.is_clean()
        server.odd = {}
        assert bench.build(version).warnings == ()


def test_repositories_may_be_called_like_the_feeds_of_the_imagebuilder(
    bench: Bench, sample_world: Distribution
) -> None:
    """opkg takes the first of a name and leaves out the others, in silence where make succeeds."""
    builder = sample_world.imagebuilder(OPKG_VERSION, "pico/nine")
    lines = (builder / "repositories.conf").read_text().splitlines()
    names = [line.split()[1] for line in lines if line.startswith("src/gz ")]
    feeds = (sample_world.downloads / "releases" / OPKG_VERSION / "packages/pico_9kc").glob("*/Packages.gz")
    with odd_server(sample_world.downloads) as server:
        addresses = [f"{server.url}/{index.parent.relative_to(sample_world.downloads)}" for index in feeds]
        repositories = dict(zip(names, addresses, strict=False))
        assert len(repositories) >= 3
        bench.build(OPKG_VERSION, repositories=repositories, repositories_mode="append")
        asked = {f"{server.url}{path}" for path in server.requests}
    assert asked >= {f"{url}/Packages.gz" for url in repositories.values()}


@pytest.mark.parametrize("version", ["SNAPSHOT", "24.10-SNAPSHOT"])
def test_a_container_that_holds_no_imagebuilder_sets_itself_up(
    tmp_path: Path, sample_world: Distribution, version: str
) -> None:
    with DownloadServer(sample_world.downloads) as server:
        snapshot_builder(tmp_path / "ib", version=version)
        bench = Bench(tmp_path, str(tmp_path / "ib"), upstream_url=server.url)
        result = bench.build(version, packages=("tmux",))
        assert result.description["version_number"] == version
        bench.build(version)
        assert bench.witness.commands.count("make info") == 2
        server.broken = True
        failure = bench.failure(version)
    assert failure.reason is FailureReason.SETUP_FAILED
    assert failure.detail.startswith("Error: Could not set up ImageBuilder (returncode=")


@pytest.fixture
def records(tmp_path: Path) -> Iterator[PreflightRecords]:
    """What builds teach, in a database of its own."""
    database = Database(tmp_path / "asu.db")
    yield SqlPreflightRecords(database)
    database.close()


@pytest.mark.parametrize("version", FLAVOURS)
def test_a_build_teaches_once_what_its_imagebuilder_brings_along(
    tmp_path: Path, sample_world: Distribution, records: PreflightRecords, version: str
) -> None:
    bench = Bench(tmp_path, sample_world.template, records=records)
    place = f"releases/{version}", "pico/nine"
    bench.failure(version, repositories={"mine": "http://127.0.0.1:9/x"})
    assert records.carried(*place) is None, "learnt from a container with packages of others"
    assert bench.failure(version, packages=("no-such",)).reason is FailureReason.IMPOSSIBLE_SELECTION
    learnt = records.carried(*place)
    assert learnt is not None
    is_apk = version == APK_VERSION
    source = Path(sample_world.template.format(version=version, target="pico", subtarget="nine"))
    assert learnt.manager == (PackageManager.APK if is_apk else PackageManager.OPKG)
    own = {package.name for package in read_index(learnt.manager, learnt.index, Notes()).packages}
    assert own == {"base-files", "kernel", "libc"}
    listed = (source / ("repositories" if is_apk else "repositories.conf")).read_text()
    assert learnt.repositories and all(url in listed for url in learnt.repositories)
    assert learnt.identity and learnt.pins == {}
    manifest = bench.build(version).manifest
    pinned = records.carried(*place)
    assert pinned is not None
    assert pinned.pins == {name: manifest[name] for name in ("base-files", "kernel", "libc")}
    bench.build(version, packages=("tmux",))
    assert records.carried(*place) is pinned


def test_an_imagebuilder_with_odd_files_teaches_nothing_and_builds(
    tmp_path: Path, sample_world: Distribution, records: PreflightRecords
) -> None:
    builder = tmp_path / "ib"
    shutil.copytree(
        sample_world.template.format(version=APK_VERSION, target="pico", subtarget="nine"), builder
    )
    bench = Bench(tmp_path, str(builder), records=records)
    listed = (builder / "repositories").read_text()
    for odd in (listed + "#" * (5 << 20), listed + "#" * (257 << 10)):
        (builder / "repositories").write_text(odd)
        assert bench.build().images
        assert records.carried(f"releases/{APK_VERSION}", "pico/nine") is None


def test_what_sets_itself_up_teaches_by_its_revision(
    tmp_path: Path, sample_world: Distribution, records: PreflightRecords
) -> None:
    with DownloadServer(sample_world.downloads) as server:
        snapshot_builder(tmp_path / "ib", version=APK_VERSION)
        bench = Bench(tmp_path, str(tmp_path / "ib"), upstream_url=server.url, records=records)
        bench.build(APK_VERSION)
    learnt = records.carried(f"releases/{APK_VERSION}", "pico/nine")
    assert learnt is not None
    assert learnt.identity == learnt.revision and learnt.revision.startswith("r")


def test_defaults_that_are_new_with_this_version_are_told_when_the_list_lacks_them(bench: Bench) -> None:
    bench.baseline = Baseline("24.10.5", ("base-files", "dropbear"))
    result = bench.build(packages=("base-files", "dropbear", "libc"), diff_packages=True)
    missing = set(result.package_changes.missing_defaults)
    assert "dnsmasq" in missing
    assert not {"base-files", "dropbear"} & missing
    assert "dnsmasq" not in result.manifest, "told, not put back: no rule calls it mandatory"


def test_without_a_baseline_nothing_is_guessed_and_the_answer_says_so(bench: Bench) -> None:
    result = bench.build(packages=("base-files", "libc"), diff_packages=True)
    assert result.package_changes.missing_defaults == ()
    assert any("24.10" not in warning and "default" in warning for warning in result.package_changes.warnings)


def test_a_lost_lease_ends_the_build_unpublished(bench: Bench) -> None:
    request = a_request(version=APK_VERSION)
    job = Job(1, request_hash(request), request, JobState.BUILDING, NOON)
    seen: list[Stage] = []

    def advance(stage: Stage) -> None:
        seen.append(stage)
        if seen.count(Stage.BUILDING_IMAGE) == 2:
            raise LeaseLost("somebody else builds it")

    with pytest.raises(LeaseLost):
        bench.pipeline.build(job, labels={}, advance=advance, stop=bench.stop)
    assert not bench.store.holds(job.request_hash)
    assert bench.is_clean()


def test_a_stop_ends_the_build_before_its_command_does(bench: Bench) -> None:
    timer = threading.Timer(1.5, bench.stop.set)
    timer.start()
    with sooner_than(60), pytest.raises(BuildInterrupted):
        bench.build(packages=("sample-slow-60",))
    assert bench.is_clean()


@pytest.mark.parametrize("version", FLAVOURS)
@pytest.mark.parametrize("name", ["f2fs", "btrfs.zst", "UBIFS"])
def test_a_file_system_that_nobody_knows_is_compared_with_what_was_built(
    bench: Bench, version: str, name: str
) -> None:
    failure = bench.failure(version, filesystem=name)
    assert (failure.reason, failure.side) == (FailureReason.NO_IMAGES, Side.USER)
    assert failure.detail.startswith(
        f"Error: No image with the file system {name} was built for acme_widget-5"
    )
    assert "squashfs" in failure.problem.filesystems and failure.field == "filesystem"


def _choices(version: str) -> list[str]:
    """Packages that the sample offers and that build quickly."""
    release = next(release for release in RELEASES if release.version == version)
    contents = (content for feed in FEEDS for content in feed_contents(release, "pico/nine", feed))
    names = {content.package.name for content in contents}
    return sorted(name for name in names if not name.startswith("sample-"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_strict_validators_accept_the_documents_of_200_random_selections(
    sample_world: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifests are real, and the images those of the first build of each release, which saves minutes.

    Indexes say of the packages what a careless one might. Every tenth is built twice, to equal documents.
    """

    def found(request: BuildRequest, manifest: Mapping[str, str]) -> FoundPackages:
        manager = PackageManager.APK if request.version == APK_VERSION else PackageManager.OPKG
        return some_packages(manifest, manager, Random(request_hash(request)))

    bench = Bench(tmp_path, sample_world.template, found_packages=found)
    build = imagebuilder.ImageBuilder.build

    def build_once(
        self: imagebuilder.ImageBuilder, selection: Sequence[str], *, extra_name: str, into: Path
    ) -> None:
        built = tmp_path / f"built-{self.request.version}"
        if not built.exists():
            build(self, selection, extra_name=extra_name, into=into)
            shutil.copytree(into, built)
        else:
            shutil.copytree(built, into, dirs_exist_ok=True)

    monkeypatch.setattr(imagebuilder.ImageBuilder, "build", build_once)
    dice, sizes, number = Random(18), set(), 0
    while number < 200:
        version = FLAVOURS[number % 2]
        packages = tuple(dice.sample(_choices(version), dice.randrange(0, 6)))
        documents = []
        for _ in range(2 if number % 10 == 0 else 1):
            try:
                result = bench.build(version, packages=packages)
            except BuildFailed as failed:
                assert failed.reason is FailureReason.IMPOSSIBLE_SELECTION  # two that conflict
                break
            assert result.sbom is not None
            name = request_hash(a_request(version=version, packages=packages))
            paths = (bench.store.locate(name, file) for file in (result.sbom.cyclonedx, result.sbom.spdx))
            documents.append([path.read_bytes() for path in paths if path])
            bench.store.remove(name)
        if not documents:
            continue
        number += 1
        assert documents[0] == documents[-1]
        assert not faults(*documents[0]), packages
        sizes.add(len(result.manifest))
    assert len(sizes) > 5, "selections differ"
