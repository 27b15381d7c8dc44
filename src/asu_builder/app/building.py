"""What the first build needs, and a start does without."""

from collections.abc import Callable, Mapping
from datetime import datetime

from asu_builder import __version__
from asu_builder.app.adapters import Adapters
from asu_builder.app.keys import has_keys
from asu_builder.core.catalog import Catalog
from asu_builder.core.current_packages import CurrentPackages
from asu_builder.core.handover import Finishing
from asu_builder.core.one_pass import OnePass
from asu_builder.core.pipeline import Pipeline
from asu_builder.core.provenance import ProvenanceWriter
from asu_builder.domain.package_index import FoundPackages
from asu_builder.domain.provenance import Builder
from asu_builder.domain.request import BuildRequest
from asu_builder.settings import Settings
from asu_builder.upstream.index_files import find_packages
from asu_builder.upstream.server import RepositoryStatus


def make_pipeline(
    settings: Settings,
    adapters: Adapters,
    catalog: Catalog,
    current: CurrentPackages,
    one_pass: OnePass,
    finishing: Finishing,
) -> Pipeline:
    """The recipe of builds over these adapters."""

    def found_packages(request: BuildRequest, manifest: Mapping[str, str]) -> FoundPackages:
        known = current.indexes_of(request)
        return find_packages(known, manifest) if known else FoundPackages()

    return Pipeline(
        adapters.runtime(),
        adapters.store,
        release=catalog.branches.release,
        package_changes=adapters.package_changes,
        baseline=catalog.baseline,
        announced=catalog.announced,
        released_revision=catalog.released_revision,
        repository_status=RepositoryStatus(settings.upstream_url).ask,
        records=adapters.preflight_records,
        indexes=current.digest_of,
        finishing=finishing,
        installed_key=_installed_key(settings, adapters),
        found_packages=found_packages,
        one_pass=None if settings.eager_manifest or settings.preflight == "off" else one_pass,
        upstream_url=settings.upstream_url,
        job_timeout=settings.job_timeout,
    )


def make_finishing(settings: Settings, adapters: Adapters, now: Callable[[], datetime]) -> Finishing:
    """What signs and publishes, or hands over to who does, with the keys of this process."""
    provenance = None
    if adapters.attestation:
        provenance = ProvenanceWriter(
            adapters.attestation,
            required=settings.signing_required,
            builder=Builder(settings.provenance_builder, __version__),
            upstream_url=settings.upstream_url,
            announced_url=settings.announced_upstream_url,
            now=now,
        )
    return Finishing(
        adapters.store,
        signing=adapters.signing,
        signing_required=settings.signing_required,
        provenance=provenance,
        has_keys=has_keys(settings),
        program=__version__,
        upstream_url=settings.upstream_url,
        job_timeout=settings.job_timeout,
    )


def _installed_key(settings: Settings, adapters: Adapters) -> tuple[str, str] | None:
    if not (settings.install_signing_key and adapters.signing):
        return None
    return adapters.signing.key_id, adapters.signing.public_text()
