"""Turns one request into published images: the recipe."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

from asu_builder.core.handover import Finishing, Unfinished, raise_when_over
from asu_builder.core.imagebuilder import ImageBuilder
from asu_builder.core.images import describe_images
from asu_builder.core.metrics import StepTimer
from asu_builder.core.one_pass import OnePass
from asu_builder.core.preflight import learn_carried
from asu_builder.domain.errors import BuildFailed, FailureReason
from asu_builder.domain.job import BuildResult, HandedOver, Job, Stage
from asu_builder.domain.make import Announced, ContainerSpec, ImageBuilderInfo, OutputCallback
from asu_builder.domain.package_index import FoundPackages
from asu_builder.domain.packages import Baseline, PackageSelection, warn_of_odd_packages, with_ucert
from asu_builder.domain.preflight import manifest_of
from asu_builder.domain.provenance import Built
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import PackageChanges, PreflightRecords, Runtime, Store

_PERHAPS_THE_SELECTION = (FailureReason.IMPOSSIBLE_SELECTION, FailureReason.MAKE_FAILED)


class _Made(NamedTuple):
    """What is known of images when they are made."""

    manifest: Mapping[str, str]
    found: FoundPackages
    indexes: str


class Pipeline:
    """Builds with one runtime into one store; one call per job, from any thread."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        *,
        release: Callable[[str], Release],
        package_changes: PackageChanges,
        baseline: Callable[[BuildRequest], Baseline | None],
        announced: Callable[[BuildRequest], Announced] = lambda _: Announced(),
        released_revision: Callable[[BuildRequest], str] = lambda _: "",
        repository_status: Callable[[str], int] = lambda _: 0,
        records: PreflightRecords | None = None,
        indexes: Callable[[BuildRequest], str] = lambda _: "",
        finishing: Finishing | None = None,
        installed_key: tuple[str, str] | None = None,
        found_packages: Callable[[BuildRequest, Mapping[str, str]], FoundPackages] = lambda *_: (
            FoundPackages()
        ),
        one_pass: OnePass | None = None,
        upstream_url: str,
        job_timeout: timedelta,
    ) -> None:
        """`records` keeps what ImageBuilders bring along; `indexes` names a request's package indexes.

        `found_packages` tells what they say of the packages of a manifest; `installed_key` is the name and
        the text of the public key that images trust. `one_pass` tells where `make image` alone will do;
        without it `make manifest` comes before each. Without `finishing` nothing is signed.
        """
        self._finishing = finishing or Finishing(store, job_timeout=job_timeout)
        self._installed_key = installed_key
        self._release = release
        self._package_changes = package_changes
        self._baseline = baseline
        self._announced = announced
        self._released_revision = released_revision
        self._repository_status = repository_status
        self._records = records
        self._indexes = indexes
        self._found_packages = found_packages
        self._one_pass = one_pass
        self._runtime = runtime
        self._store = store
        self._upstream_url = upstream_url
        self._job_timeout = job_timeout
        # Packed text, because the service would else grow by what every ImageBuilder offers.
        self._known_info: dict[str, bytes] = {}

    def build(
        self,
        job: Job,
        *,
        labels: dict[str, str],
        advance: Callable[[Stage], None],
        stop: Event,
        on_output: OutputCallback | None = None,
    ) -> BuildResult | HandedOver:
        """The published result of a job, or that it waits for a signature.

        `on_output` is told what its commands print.

        Raises `BuildFailed`, `BuildInterrupted` when `stop` was set, `LeaseLost` from `advance`,
        or `Unavailable` for what the world did.
        """
        request, since, steps = job.whole_request, time.monotonic(), StepTimer()
        self._finishing.require()
        release = self._release(request.version)
        spec = ContainerSpec(release, request.target, self._job_timeout, labels=labels)
        with self._store.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            advance(Stage.CONTAINER_SETUP)
            if request.diff_packages:
                self._baseline(request)  # asked early, so that upstream's answer is there when it is needed
            with self._runtime.open(spec, stop=stop) as container:
                imagebuilder = ImageBuilder(
                    container,
                    request,
                    scratch,
                    known_info=self._known_info,
                    on_output=on_output,
                    announced=self._announced,
                    status=self._repository_status,
                    installed_key=self._installed_key,
                    enter=steps.enter,
                )
                with imagebuilder.blamed():
                    imagebuilder.set_up(release, upstream_url=self._upstream_url)
                    advance(Stage.VALIDATE_REVISION)
                    info = imagebuilder.inspect(released=self._released_revision(request))
                    selection = self._select(job, imagebuilder, info)
                    advance(Stage.VALIDATE_MANIFEST)
                    made = self._make(job, imagebuilder, info, selection, release, images, advance)
                imagebuilder.warnings += container.warnings
            require_time = partial(raise_when_over, stop, since, self._job_timeout)
            with imagebuilder.blamed():
                description, verified = describe_images(
                    images, request, require_time=require_time, own_numbering=release.own_numbering
                )
                imagebuilder.require_filesystem(verified)
            carried = imagebuilder.identity is not None
            unfinished = Unfinished(
                Built(request, made.manifest, made.found, container.origin, carried, selection.packages),
                description,
                verified,
                build_cmd=imagebuilder.build_cmd,
                stdout=imagebuilder.stdout,
                stderr=imagebuilder.stderr,
                warnings=tuple(imagebuilder.warnings),
                package_changes=selection.record,
                indexes=made.indexes,
                traffic=container.traffic,
                seconds=steps.durations(pulled=container.origin.pull_seconds),
            )
            return self._finishing.finish(job, images, unfinished, advance=advance, require_time=require_time)

    def _select(self, job: Job, imagebuilder: ImageBuilder, info: ImageBuilderInfo) -> PackageSelection:
        """What make is told of packages."""
        request = imagebuilder.request
        selection = self._package_changes.apply(
            request,
            default_packages=imagebuilder.defaults,
            baseline=self._baseline(request) if request.diff_packages else None,
            digest=job.terms.rules,
        )
        if self._installed_key:
            selection = with_ucert(selection)
        odd = (*info.odd_packages, *info.profiles[request.profile].odd_packages)
        if request.diff_packages and odd:
            selection = warn_of_odd_packages(selection, odd)
        return selection

    def _make(
        self,
        job: Job,
        imagebuilder: ImageBuilder,
        info: ImageBuilderInfo,
        selection: PackageSelection,
        release: Release,
        images: Path,
        advance: Callable[[Stage], None],
    ) -> _Made:
        """Makes the images: at once where their packages are known beforehand, else after `make manifest`."""
        request = imagebuilder.request
        expected, one_pass = None, self._one_pass
        if one_pass:
            identity = imagebuilder.identity or info.revision
            defaults = imagebuilder.defaults
            expected = one_pass.expect(request, release, selection, defaults=defaults, identity=identity)
        resolve = partial(self._resolve, imagebuilder, selection, release=release, revision=info.revision)
        build = partial(imagebuilder.build, selection.packages, extra_name=job.request_hash[:12], into=images)
        if one_pass is None or expected is None:
            manifest = resolve()
            indexes = self._indexes(request)
            found = self._found_packages(request, manifest)
            advance(Stage.BUILDING_IMAGE)
            build()
            return _Made(manifest, found, indexes)
        indexes = self._indexes(request)
        advance(Stage.BUILDING_IMAGE)
        try:
            build()
        except BuildFailed as failure:
            if failure.reason in _PERHAPS_THE_SELECTION:
                # It is told in the words of the goal that installs packages and does nothing else.
                with imagebuilder.aside():
                    resolve()
            raise
        installed = imagebuilder.read_manifest(images)
        if installed:
            one_pass.compare(job.id, expected, installed)
            manifest = manifest_of(installed, expected.foretold)
            imagebuilder.require_packages(selection, manifest)
            self._learn(imagebuilder, release, info.revision, manifest)
        else:
            with imagebuilder.aside():
                manifest = resolve()
        return _Made(manifest, self._found_packages(request, manifest), indexes)

    def _resolve(
        self, imagebuilder: ImageBuilder, selection: PackageSelection, *, release: Release, revision: str
    ) -> dict[str, str]:
        """Has the packages resolved, and learns of the ImageBuilder what it has shown by then."""
        try:
            manifest = imagebuilder.resolve(selection)
        except BuildFailed:
            # The index of what it brings along is made before any is selected.
            self._learn(imagebuilder, release, revision, {})
            raise
        self._learn(imagebuilder, release, revision, manifest)
        return manifest

    def _learn(
        self, imagebuilder: ImageBuilder, release: Release, revision: str, manifest: Mapping[str, str]
    ) -> None:
        if self._records is not None:
            learn_carried(
                self._records,
                imagebuilder.container,
                imagebuilder.request,
                release,
                identity=imagebuilder.identity or revision,
                revision=revision,
                manifest=manifest,
            )
