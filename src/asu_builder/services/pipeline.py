"""Turns one request into published images; reads like a recipe.

Conditions live in the step that owns them.
"""

from collections.abc import Callable
from datetime import timedelta
from threading import Event

from asu_builder.domain.changes import Baseline, PackageSelection
from asu_builder.domain.job import BuildResult, Job, Stage
from asu_builder.domain.make import ImageBuilderInfo
from asu_builder.domain.release import Release
from asu_builder.domain.request import BuildRequest
from asu_builder.ports import ContainerSpec, Heard, PackageChanges, Runtime, Store
from asu_builder.services.imagebuilder import ImageBuilder
from asu_builder.services.images import describe_images


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
        upstream_url: str,
        job_timeout: timedelta,
    ) -> None:
        self._release = release
        self._package_changes = package_changes
        self._baseline = baseline
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
        heard: Heard | None = None,
    ) -> BuildResult:
        """The published result of a job; `heard` is told what its commands print.

        Raises `BuildFailed`, `BuildInterrupted` when `stop` was set, `LeaseLost` from `advance`,
        or `Unavailable` for what the world did.
        """
        request = job.request
        release = self._release(request.version)
        spec = ContainerSpec(release, request.target, self._job_timeout, labels=labels)
        with self._store.scratch() as scratch:
            images = scratch / "images"
            images.mkdir()
            advance(Stage.CONTAINER_SETUP)
            self._baseline_of(request)  # asked early, so that upstream's answer is there when it is needed
            with self._runtime.open(spec, stop=stop) as container:
                imagebuilder = ImageBuilder(container, scratch, known_info=self._known_info, heard=heard)
                imagebuilder.set_up(request, release, upstream_url=self._upstream_url)
                advance(Stage.VALIDATE_REVISION)
                info = imagebuilder.info()
                imagebuilder.require_revision(request, info)
                selection = self._select(request, info)
                advance(Stage.VALIDATE_MANIFEST)
                manifest = imagebuilder.resolve(request, selection)
                advance(Stage.BUILDING_IMAGE)
                imagebuilder.build(request, selection.packages, extra_name=job.request_hash[:12], into=images)
                warnings = tuple(container.warnings)
            with imagebuilder.blamed():
                description, verified = describe_images(images, request)
            advance(Stage.BUILDING_IMAGE)  # proves that the lease is still ours, right before publishing
            stored_bytes = self._store.publish(job.request_hash, images)
        return BuildResult(
            description=description,
            images=verified,
            manifest=manifest,
            build_cmd=imagebuilder.build_cmd,
            packages=selection.packages,
            stdout=imagebuilder.stdout,
            stderr=imagebuilder.stderr,
            warnings=warnings,
            package_changes=selection.record,
            stored_bytes=stored_bytes,
        )

    def _select(self, request: BuildRequest, info: ImageBuilderInfo) -> PackageSelection:
        defaults = (*info.default_packages, *info.profiles[request.profile].packages)
        return self._package_changes.apply(
            request, default_packages=defaults, baseline=self._baseline_of(request)
        )

    def _baseline_of(self, request: BuildRequest) -> Baseline | None:
        return self._baseline(request) if request.diff_packages else None
