"""Turns one request into published images; reads like a recipe.

Conditions live in the step that owns them.
"""

from collections.abc import Callable
from datetime import timedelta
from threading import Event

from asu_builder.domain.job import BuildResult, Job, Stage
from asu_builder.domain.make import ImageBuilderInfo
from asu_builder.domain.packages import choose_packages
from asu_builder.domain.release import Release
from asu_builder.ports import ContainerSpec, Runtime, Store
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
        upstream_url: str,
        job_timeout: timedelta,
    ) -> None:
        self._release = release
        self._runtime = runtime
        self._store = store
        self._upstream_url = upstream_url
        self._job_timeout = job_timeout
        self._known_info: dict[str, ImageBuilderInfo] = {}

    def build(
        self, job: Job, *, labels: dict[str, str], advance: Callable[[Stage], None], stop: Event
    ) -> BuildResult:
        """The published result of a job.

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
            with self._runtime.open(spec, stop=stop) as container:
                imagebuilder = ImageBuilder(container, scratch, known_info=self._known_info)
                imagebuilder.set_up(request, release, upstream_url=self._upstream_url)
                advance(Stage.VALIDATE_REVISION)
                info = imagebuilder.info()
                imagebuilder.require_revision(request, info)
                selection = choose_packages(request, info)
                advance(Stage.VALIDATE_MANIFEST)
                manifest = imagebuilder.resolve(request, selection)
                advance(Stage.BUILDING_IMAGE)
                imagebuilder.build(request, selection, extra_name=job.request_hash[:12], into=images)
                warnings = tuple(container.warnings)
            with imagebuilder.blamed():
                description, verified = describe_images(images, request)
            advance(Stage.BUILDING_IMAGE)  # proves that the lease is still ours, right before publishing
            self._store.publish(job.request_hash, images)
        return BuildResult(
            description=description,
            images=verified,
            manifest=manifest,
            build_cmd=imagebuilder.build_cmd,
            packages=selection,
            stdout=imagebuilder.stdout,
            stderr=imagebuilder.stderr,
            warnings=warnings,
        )
