"""The adapters, opened by the settings."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from asu_builder.adapters.build_log import SqlBuildLog
from asu_builder.adapters.database import Database
from asu_builder.adapters.jobs import SqlJobQueue
from asu_builder.adapters.operations import SqlOperations
from asu_builder.adapters.package_changes import LocalPackageChanges, RemotePackageChanges
from asu_builder.adapters.rate_limits import LookUpsLimit, NewBuildsLimit
from asu_builder.adapters.retention import SqlRetention
from asu_builder.adapters.revocations import Revocations
from asu_builder.adapters.statistics import SqlStatistics
from asu_builder.adapters.stores import LocalStore
from asu_builder.adapters.upstream import HttpUpstream
from asu_builder.adapters.worker_name import WorkerName
from asu_builder.bootstrap.runtimes import choose_runtime
from asu_builder.ports import EventKind, Runtime
from asu_builder.settings import Settings


class World(Struct, frozen=True):
    """Everything that is really reached."""

    database: Database
    name: WorkerName
    runtime: Runtime
    warnings: tuple[str, ...]
    queue: SqlJobQueue
    log: SqlBuildLog
    ledger: SqlRetention
    operations: SqlOperations
    revocations: Revocations
    store: LocalStore
    statistics: SqlStatistics
    upstream: HttpUpstream
    package_changes: LocalPackageChanges | RemotePackageChanges
    limit: NewBuildsLimit
    fetch_limit: LookUpsLimit

    @property
    def refresh_rules(self) -> Callable[[], object] | None:
        """What to call now and then where the rules come from a service."""
        changes = self.package_changes
        return changes.refresh if isinstance(changes, RemotePackageChanges) else None

    def close(self) -> None:
        """Lets go of everything."""
        self.runtime.close()
        self.upstream.close()
        self.package_changes.close()
        self.database.close()
        self.name.release()


def reach(
    settings: Settings,
    now: Callable[[], datetime],
    *,
    note: Callable[[EventKind, str, str], None] = lambda kind, reason, side: None,
) -> World:
    """Opens every adapter; `note` is told each event of the statistics.

    Raises `SettingsProblem` or `Unavailable`.
    """
    database = Database(settings.database_path)
    name = WorkerName(settings.worker_id, settings.database_path.parent)
    installation = database.installation()
    runtime, warnings = choose_runtime(settings, installation=installation)
    ledger = SqlRetention(database)
    revocations = Revocations(settings.database_path)
    return World(
        database=database,
        name=name,
        runtime=runtime,
        warnings=warnings,
        queue=SqlJobQueue(database),
        log=SqlBuildLog(database),
        ledger=ledger,
        operations=SqlOperations(database, on_revoked=revocations.note),
        revocations=revocations,
        store=LocalStore(
            settings.public_path / "store",
            installation=installation,
            floor=settings.disk_floor,
            expects_results=ledger.has_results,
        ),
        statistics=SqlStatistics(database, now=now, note=note),
        upstream=HttpUpstream(
            settings.upstream_url, database, now=now, redirect_hosts=settings.upstream_redirect_hosts
        ),
        package_changes=_package_changes(settings),
        limit=NewBuildsLimit(settings.new_builds_limit),
        fetch_limit=LookUpsLimit(settings.look_ups_limit),
    )


def _package_changes(settings: Settings) -> LocalPackageChanges | RemotePackageChanges:
    path = settings.package_changes_path
    local = LocalPackageChanges(Path(path).expanduser() if path else None)
    return (
        RemotePackageChanges(settings.package_changes_url, local) if settings.package_changes_url else local
    )
