"""What changes from one build to another, or from one version of OpenWrt to another."""

from collections.abc import Mapping

from msgspec import Struct

from asu_builder.core.search import Preview, PreviewedSelection
from asu_builder.core.submit import Builds
from asu_builder.domain.comparison import Comparison, compare
from asu_builder.domain.errors import Conflict
from asu_builder.domain.job import BuildResult
from asu_builder.domain.preflight import Feasibility
from asu_builder.domain.request import BuildRequest


class ComparedBuild(Struct, frozen=True):
    """A finished build as one side of a comparison."""

    request_hash: str
    request: BuildRequest
    result: BuildResult

    @property
    def image_sizes(self) -> Mapping[str, int]:
        """Bytes of the images, by their type and file system."""
        return {
            " ".join(filter(None, (image.type, image.filesystem))): image.size for image in self.result.images
        }


class ComparedBuilds(Struct, frozen=True):
    """Two finished builds and what differs between them."""

    before: ComparedBuild
    after: ComparedBuild
    changes: Comparison


class ComparedVersions(Struct, frozen=True):
    """One selection in two versions; `changes` is None unless both can be foretold."""

    from_version: str
    before: PreviewedSelection
    after: PreviewedSelection
    changes: Comparison | None


class Comparisons:
    """Compares what was built, and what would be built."""

    def __init__(self, builds: Builds, preview: Preview) -> None:
        self._builds = builds
        self._preview = preview

    def builds(self, before: str, after: str) -> ComparedBuilds:
        """Two builds by their hashes. Raises `BuildNotFound`, or `Conflict` where one has no result."""
        old, new = self._build(before), self._build(after)
        return ComparedBuilds(old, new, compare(old.result.manifest, new.result.manifest))

    def versions(self, request: BuildRequest, from_version: str) -> ComparedVersions:
        """A selection in another version and in its own. Raises what `Catalog.resolve` raises."""
        before = self._preview.look(self._preview.in_version(request, from_version))
        after = self._preview.look(request)
        changes = None
        if before.foretold.verdict is Feasibility.FINE and after.foretold.verdict is Feasibility.FINE:
            changes = compare(before.foretold.packages, after.foretold.packages)
        return ComparedVersions(from_version, before, after, changes)

    def _build(self, request_hash: str) -> ComparedBuild:
        job = self._builds.look(request_hash).job
        if not isinstance(job.outcome, BuildResult):
            raise Conflict(f"The build {request_hash[:12]} has no result: it is {job.state}.")
        return ComparedBuild(request_hash, job.request, job.outcome)
