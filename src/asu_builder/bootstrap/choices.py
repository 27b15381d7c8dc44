"""What each part is told of the settings."""

from asu_builder import __version__
from asu_builder.domain.job import Retention
from asu_builder.services.builds import Policy
from asu_builder.services.worker import WorkerOptions
from asu_builder.settings import Settings
from asu_builder.web.metadata import Announcement


def worker_options(settings: Settings, name: str) -> WorkerOptions:
    """Who the workers are, and how long they keep what they made."""
    retention = Retention(
        build=settings.build_ttl,
        unversioned=settings.build_ttl_unversioned,
        with_defaults=settings.build_defaults_ttl,
        failure=settings.failure_ttl,
    )
    return WorkerOptions(name, settings.worker_concurrent, settings.worker_poll, retention)


def policy(settings: Settings) -> Policy:
    """What requests may ask for."""
    return Policy(
        allow_defaults=settings.allow_defaults,
        max_defaults_length=settings.max_defaults_length,
        max_custom_rootfs_size_mb=settings.max_custom_rootfs_size_mb,
        repository_allow_list=settings.repository_allow_list,
        max_pending_jobs=settings.max_pending_jobs,
    )


def announcement(settings: Settings) -> Announcement:
    """What the overview says about this server."""
    return Announcement(
        version=__version__,
        upstream_url=settings.public_upstream_url or settings.upstream_url,
        contact=settings.contact,
        allow_defaults=settings.allow_defaults,
        repository_allow_list=settings.repository_allow_list,
        max_custom_rootfs_size_mb=settings.max_custom_rootfs_size_mb,
        max_defaults_length=settings.max_defaults_length,
    )
