"""States beside the images of a build where they came from."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from asu_builder.domain.errors import BuildFailed, FailureReason, SigningUnavailable
from asu_builder.domain.job import Image, SbomFiles
from asu_builder.domain.package_index import PackageIndex
from asu_builder.domain.provenance import SUFFIX, Builder, Built, render_statement
from asu_builder.domain.sbom import Inventory
from asu_builder.ports import StatementSigning

_OF_SBOM = ".cdx.json"


class ProvenanceWriter:
    """Writes and signs the statements of all builds; without `required` what fails is a warning."""

    def __init__(
        self,
        signing: StatementSigning,
        *,
        required: bool,
        builder: Builder,
        upstream_url: str,
        announced_url: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Indexes below `upstream_url` are named below `announced_url`, where everybody finds them."""
        self._signing = signing
        self.required = required
        self._builder = builder
        self._upstream_url = upstream_url
        self._announced_url = announced_url
        self._now = now

    def require(self) -> None:
        """Raises `SigningUnavailable` where a build would be in vain."""
        if self.required:
            self._signing.require()

    def clear_place(self, directory: Path, sbom: SbomFiles, images: Sequence[Image]) -> Path:
        """Where the statement of a build goes; what the build left there gives way.

        Raises `BuildFailed` where an image has that name.
        """
        path = directory / f"{sbom.cyclonedx.removesuffix(_OF_SBOM)}{SUFFIX}"
        if any(image.name == path.name for image in images):
            raise BuildFailed(
                FailureReason.INCOMPLETE_OUTPUT,
                f"Error: Image {path.name} has the name of what tells where the images came from",
            )
        path.unlink(missing_ok=True)
        return path

    def write(
        self,
        path: Path,
        built: Built,
        inventory: Inventory,
        digests: Mapping[str, str],
        images: Sequence[Image],
        *,
        started_at: datetime | None,
    ) -> str:
        """Writes the statement about files with these digests; returns "", or why there is none."""
        upstream_url = built.upstream_url or self._upstream_url
        indexes = tuple(self._public(index, upstream_url) for index in built.found.indexes)
        builder = replace(self._builder, version=built.program or self._builder.version)
        statement = render_statement(
            replace(built, found=replace(built.found, indexes=indexes)),
            inventory,
            digests,
            images,
            builder=builder,
            started_at=started_at,
            finished_at=self._now(),
        )
        try:
            path.write_bytes(self._signing.sign_statement(statement))
        except SigningUnavailable as problem:
            if self.required:
                raise
            return f"It is not stated where the images came from. {problem.public}"
        return ""

    def _public(self, index: PackageIndex, upstream_url: str) -> PackageIndex:
        below = index.address.removeprefix(upstream_url)
        return index if below == index.address else replace(index, address=f"{self._announced_url}{below}")
