"""The pipeline with real ImageBuilders of the sample distribution, in the local runtime without a sandbox."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asu_builder.adapters.local_runtime import LocalOptions, LocalRuntime
from asu_builder.adapters.package_changes import LocalPackageChanges
from asu_builder.adapters.stores import LocalStore
from asu_builder.domain.branches import Branches
from asu_builder.domain.changes import Baseline
from asu_builder.domain.errors import BuildFailed, BuildInterrupted, FailureReason, LeaseLost
from asu_builder.domain.job import BuildResult, Job, JobState, Stage
from asu_builder.domain.request import request_hash
from asu_builder.ports import CommandResult, Container, ContainerSpec, Heard
from asu_builder.sample.distribution import Distribution, snapshot_builder, write_distribution
from asu_builder.sample.server import DownloadServer
from asu_builder.services.pipeline import Pipeline
from factories import NOON, a_request
from podman_service import APK_VERSION, OPKG_VERSION

FLAVOURS = (APK_VERSION, OPKG_VERSION)


class Witness:
    """A runtime that also notes every command."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime
        self.commands: list[str] = []

    @contextmanager
    def open(self, spec: ContainerSpec, *, stop: threading.Event) -> Iterator[Container]:
        with self._runtime.open(spec, stop=stop) as container:
            run = container.run

            def noted(
                arguments: Sequence[str],
                *,
                output: Path,
                environment: Mapping[str, str] | None = None,
                heard: Heard | None = None,
            ) -> CommandResult:
                self.commands.append(" ".join(arguments[:2]))
                return run(arguments, output=output, environment=environment, heard=heard)

            container.run = noted  # type: ignore[method-assign]
            yield container


class Bench:
    """A pipeline, its store, and what it said on the way."""

    def __init__(
        self, root: Path, imagebuilder_path: str, *, upstream_url: str = "http://127.0.0.1:9"
    ) -> None:
        runtime = LocalRuntime(LocalOptions(imagebuilder_path, root / "builds", sandboxed=False))
        self.witness = Witness(runtime)
        self.store = LocalStore(root / "store", installation="test")
        self.root = root
        self.stages: list[Stage] = []
        self.baseline: Baseline | None = None
        self.stop = threading.Event()
        self.pipeline = Pipeline(
            self.witness,  # type: ignore[arg-type]
            self.store,
            release=Branches().release,
            package_changes=LocalPackageChanges(),
            baseline=lambda request: self.baseline,
            upstream_url=upstream_url,
            job_timeout=timedelta(minutes=2),
        )

    def build(self, version: str = APK_VERSION, **changes: Any) -> BuildResult:
        request = a_request(version=version, **changes)
        job = Job(1, request_hash(request), request, JobState.BUILDING, NOON)
        return self.pipeline.build(job, labels={}, advance=self.stages.append, stop=self.stop)

    def failure(self, version: str = APK_VERSION, **changes: Any) -> BuildFailed:
        with pytest.raises(BuildFailed) as caught:
            self.build(version, **changes)
        return caught.value

    def is_clean(self) -> bool:
        """Whether nothing but published builds is left on the disk."""
        left = [path.name for path in self.store_path.iterdir() if len(path.name) != 64]
        ours = all(name == ".lock" or name.startswith(".store-of-") for name in left)
        return ours and not list((self.root / "builds").glob("asu-*"))

    @property
    def store_path(self) -> Path:
        return self.root / "store"


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
    assert result.description["version_number"] == version
    assert bench.stages == [
        Stage.CONTAINER_SETUP,
        Stage.VALIDATE_REVISION,
        Stage.VALIDATE_MANIFEST,
        Stage.BUILDING_IMAGE,
        Stage.BUILDING_IMAGE,
    ]
    assert bench.is_clean()


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
    assert [path.name for path in bench.store_path.iterdir()] == [".lock"]


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
    assert failure.detail.startswith(f"Error: A package repository could not be reached: {server.url}")


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


def test_a_stop_ends_the_build_within_two_seconds(bench: Bench) -> None:
    stopped_at: list[float] = []

    def stop() -> None:
        stopped_at.append(time.monotonic())
        bench.stop.set()

    timer = threading.Timer(1.5, stop)
    timer.start()
    with pytest.raises(BuildInterrupted):
        bench.build(packages=("sample-slow-60",))
    assert time.monotonic() - stopped_at[0] < 2
    assert bench.is_clean()
