"""The adapters and the runtime, opened by the settings."""

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from asu_builder.app.keys import has_keys, open_attestation, open_secrets, open_signing
from asu_builder.app.runtimes import NO_RUNTIME, choose_runtime
from asu_builder.core.live import Ends, Notifier
from asu_builder.database.build_log import SqlBuildLog
from asu_builder.database.connection import Database, WorkerName
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.moving import require_here
from asu_builder.database.nodes import FileLead, SqlNodes, machine_of
from asu_builder.database.operator import SqlOperations
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import Revocations, SqlRetention
from asu_builder.database.secrets import Secrets
from asu_builder.database.statistics import SqlStatistics
from asu_builder.domain.errors import some
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import EventKind
from asu_builder.domain.preflight import PreflightMode
from asu_builder.http.shared_answers import copy_of
from asu_builder.loading import Late
from asu_builder.package_rules import LocalPackageChanges, RemotePackageChanges
from asu_builder.ports import Lead, RateWindows, Runtime, Store
from asu_builder.rate_limits import LookUpsLimit, MemoryWindows, NewBuildsLimit
from asu_builder.resolver import LateResolver
from asu_builder.settings import Settings, SettingsProblem
from asu_builder.shared.redis import SharedRedis
from asu_builder.shared.windows import SharedWindows
from asu_builder.store.local import LocalStore
from asu_builder.store.scratch import ScratchSpace
from asu_builder.upstream.offer import HttpUpstream

if TYPE_CHECKING:
    from asu_builder.database.listening import Listener
    from asu_builder.proxy.channels import BuildProxy
    from asu_builder.shared.copies import RedisCopies
    from asu_builder.signing.attestation import Attestation
    from asu_builder.signing.signer import Signing
    from asu_builder.store.bucket import Bucket


class Role(Enum):
    """What a process does of what the service does; the value is the command that starts it."""

    BOTH = "serve"
    """Answers and builds, the only process there need be."""
    API = "serve --no-workers"
    """Answers, and needs no container engine."""
    WORKER = "worker"
    """Builds, and answers only those who monitor it."""

    @property
    def answers(self) -> bool:
        """Whether clients may ask it for builds."""
        return self is not Role.WORKER

    @property
    def builds(self) -> bool:
        """Whether it has workers."""
        return self is not Role.API


class Adapters(Struct, frozen=True):
    """Everything that is really reached."""

    role: Role
    signs: bool
    """Whether it signs what processes without the keys have built."""
    database: SqlDatabase
    name: WorkerName
    machine: str
    """Of two processes with one name it tells whether both are on one machine."""
    nodes: SqlNodes
    lead: Lead
    runtime: Late[Runtime]
    proxy: "Late[BuildProxy] | None"
    """The way out of builds, where they have no network."""
    warnings: tuple[str, ...]
    queue: SqlJobQueue
    log: SqlBuildLog
    retention: SqlRetention
    operations: SqlOperations
    preflight_records: SqlPreflightRecords
    revocations: "Revocations | Listener"
    notifier: Notifier
    listener: "Listener | None"
    """What hears other hosts, where a server keeps what is kept."""
    ends: Ends | None
    """Where it does."""
    refused: Notifier
    """What other processes have refused before a build."""
    store: Store
    statistics: SqlStatistics
    upstream: HttpUpstream
    package_changes: LocalPackageChanges | RemotePackageChanges
    resolver: LateResolver
    signing: "Signing | None"
    secrets: Secrets
    attestation: "Attestation | None"
    redis: SharedRedis | None
    copies: "RedisCopies | None"
    limit: NewBuildsLimit
    fetch_limit: LookUpsLimit

    @property
    def key_id(self) -> str:
        """The key that signs images; "" where none does. Raises `SigningUnavailable`."""
        return self.signing.key_id if self.signing else ""

    @property
    def refresh_rules(self) -> Callable[[], object] | None:
        """What to call now and then where the rules come from a service."""
        changes = self.package_changes
        return changes.refresh if isinstance(changes, RemotePackageChanges) else None

    def notify(self, request_hash: str) -> None:
        """There is something new of this build: for who watches it in this process, and in others."""
        self.notifier.notify(request_hash)
        if self.listener is not None:
            self.listener.tell_news(request_hash)

    def checks(self) -> dict[str, Callable[[], CheckResult]]:
        """Each part of the service, and how it is found out whether it works."""
        checks: dict[str, Callable[[], CheckResult]] = {
            "database": self.database.check,
            "engine": lambda: self.runtime().check(),
            "registry": lambda: self.runtime().check_registry(),
            "store": self.store.check,
            "upstream": self.upstream.check,
            "rules": self.package_changes.check,
            "workers": self.check_workers,
            "preflight": self.check_preflight,
        }
        if not self.role.builds:
            del checks["engine"], checks["registry"]
        if self.signing:
            checks["signing"] = self.signing.check
        if self.redis:
            checks["redis"] = self.redis.check
        if self.secrets.encrypts:
            checks["secrets"] = lambda: self.secrets.check(self.database)
        if self.attestation:
            checks["provenance"] = self.attestation.check
        return checks

    def check_workers(self) -> CheckResult:
        """Whether workers may take jobs."""
        pause = self.operations.paused()
        if pause is None:
            return CheckResult("ok", "Workers take jobs.")
        since = pause.since.isoformat(timespec="seconds")
        return CheckResult("warning", f"The workers are paused since {since} by {pause.operator}; jobs wait.")

    def check_preflight(self) -> CheckResult:
        """Whether no build has contradicted what was foretold for it."""
        targets = self.preflight_records.targets().values()
        advising = [f"{it.version} {it.target}" for it in targets if it.mode is PreflightMode.ADVISE]
        if not advising:
            return CheckResult("ok", "No build has contradicted what was foretold for it.")
        return CheckResult(
            "warning",
            "A build has contradicted what was foretold for it, so nothing is refused before a build for "
            f"{some(advising)}. `asu-builder preflight` shows why.",
        )

    def windows(self, name: str) -> RateWindows:
        """What counts one limit: for all nodes where they share a Redis, else for this process."""
        return make_windows(self.redis, name)

    def close(self) -> None:
        """Lets go of everything."""
        for part in (self.redis, self.runtime.value, self.proxy.value if self.proxy else None):
            if part is not None:
                part.close()
        self.upstream.close()
        self.resolver.close()
        self.package_changes.close()
        self.lead.release()
        self.database.close()
        self.name.release()


def open_database(settings: Settings, now: Callable[[], datetime]) -> SqlDatabase:
    """The database that the settings name; `now` is the host's clock, which a server does not ask.

    Raises `SettingsProblem`, or `Unavailable` also for one whose state was moved to another.
    """
    database: SqlDatabase
    if settings.on_server:
        try:
            from asu_builder.database.postgresql import ServerDatabase  # with psycopg
        except ImportError as error:
            raise SettingsProblem(
                f"database_url: PostgreSQL needs what is not installed ({error}). "
                "pip install 'asu-builder[cluster]'"
            ) from error
        settings.database_path.parent.mkdir(parents=True, exist_ok=True)
        database = ServerDatabase(settings.database_url)
    else:
        database = Database(settings.database_path, clock=now)
    require_here(database)
    return database


def _listener(
    database: SqlDatabase, notifier: Notifier, ended: Notifier, refused: Notifier
) -> "Listener | None":
    if isinstance(database, Database):
        return None
    from asu_builder.database.listening import Listener
    from asu_builder.database.postgresql import ServerDatabase

    assert isinstance(database, ServerDatabase)
    return Listener(database, on_news=notifier.notify, on_end=ended.notify, on_refused=refused.notify)


def open_adapters(
    settings: Settings,
    now: Callable[[], datetime],
    *,
    role: Role = Role.BOTH,
    note: Callable[[EventKind, str, str], None] = lambda kind, reason, side: None,
    watch: Callable[[Runtime], Runtime] = lambda runtime: runtime,
) -> Adapters:
    """Opens every adapter; `note` is told each event of the statistics, `watch` may wrap the runtime.

    Raises `SettingsProblem` or `Unavailable`.
    """
    secrets = open_secrets(settings)
    database = open_database(settings, now)
    if missing := secrets.missing(database):
        database.close()
        raise SettingsProblem(
            f"secrets_key: {missing}. Put the file with that key back; if it is lost, "
            "`asu-builder keys rotate-secrets --discard` gives these requests up"
        )
    name = WorkerName(settings.worker_id, settings.database_path.parent)
    installation = database.installation()
    chosen = choose_runtime(settings, installation=installation) if role.builds else NO_RUNTIME
    warnings = chosen.warnings
    if role.builds and not has_keys(settings):
        warnings += (
            "This process builds and has only the public half of a key: what it builds waits for another "
            "process on this database, which has every key, to be signed.",
        )
    notifier, ended, refused = Notifier(), Notifier(), Notifier()
    redis, copies = (
        _open_redis(settings, database, installation, ended) if settings.redis_url else (None, None)
    )
    retention = SqlRetention(database)
    listener = _listener(database, notifier, ended, refused)
    revocations = listener or Revocations(settings.database_path)
    return Adapters(
        role=role,
        signs=has_keys(settings) and bool(settings.signing_key or settings.provenance_key),
        database=database,
        name=name,
        machine=machine_of(settings.database_path.parent) if settings.on_server else "",
        nodes=SqlNodes(database),
        lead=listener or FileLead(settings.database_path),
        notifier=notifier,
        listener=listener,
        ends=Ends(listener.generation, ended.listen) if listener else None,
        refused=refused,
        runtime=Late(lambda: watch(chosen.make())),
        proxy=chosen.proxy,
        warnings=warnings,
        queue=SqlJobQueue(database, secrets),
        log=SqlBuildLog(database),
        retention=retention,
        operations=SqlOperations(database, on_revoked=revocations.note),
        preflight_records=SqlPreflightRecords(database),
        revocations=revocations,
        store=open_store(settings, retention, installation=installation),
        statistics=SqlStatistics(database, now=now, note=note),
        upstream=HttpUpstream(
            settings.upstream_url,
            database,
            now=now,
            redirect_hosts=settings.upstream_redirect_hosts,
            copies=copies,
        ),
        package_changes=open_package_changes(
            settings, kept=settings.database_path.parent / "rules" / name.name
        ),
        resolver=LateResolver(),
        signing=open_signing(settings, now),
        secrets=secrets,
        attestation=open_attestation(settings),
        redis=redis,
        copies=copies,
        limit=NewBuildsLimit(settings.new_builds_limit, windows=make_windows(redis, "builds")),
        fetch_limit=LookUpsLimit(settings.look_ups_limit, windows=make_windows(redis, "look-ups")),
    )


def _open_redis(
    settings: Settings, database: SqlDatabase, installation: str, ended: Notifier
) -> tuple[SharedRedis, "RedisCopies"]:
    from importlib.util import find_spec  # only with several nodes

    from asu_builder.shared.copies import RedisCopies

    if find_spec("redis") is None:
        raise SettingsProblem("redis_url: the library is not installed; install asu-builder[cluster]")
    # The whole name seals what lies there, so those who can read names there see only half of it.
    redis = SharedRedis(settings.redis_url, prefix=f"asu-builder:{installation[: len(installation) // 2]}")
    copies = RedisCopies(redis, installation, now=database.now)
    ended.listen(lambda request_hash: copies.forget(copy_of(request_hash)))
    return redis, copies


def make_windows(redis: SharedRedis | None, name: str) -> RateWindows:
    """What counts the limit of this name, for all nodes that share `redis`."""
    return SharedWindows(redis, name, MemoryWindows()) if redis else MemoryWindows()


def open_store(settings: Settings, retention: SqlRetention, *, installation: str) -> Store:
    """Where images lie, by the settings; nothing is asked of object storage yet."""
    root = settings.public_path / "store"
    if not settings.store_url:
        return LocalStore(
            root,
            installation=installation,
            floor=settings.disk_floor,
            expects_results=retention.has_results,
            names_handed_over=retention.names_handed_over,
        )
    from asu_builder.store.objects import ObjectStore

    return ObjectStore(
        open_bucket(settings),
        ScratchSpace(root, floor=settings.disk_floor),
        installation=installation,
        named=retention.stored_files,
        expects_results=retention.has_results,
        longest_build=settings.job_timeout,
        names_handed_over=retention.names_handed_over,
    )


def open_bucket(settings: Settings) -> "Bucket":
    """The bucket of the settings, of which nothing is asked. Raises `SettingsProblem` without its library."""
    from importlib.util import find_spec

    from asu_builder.store.bucket import Bucket

    if find_spec("obstore") is None:
        raise SettingsProblem(
            "store_url: object storage needs the library obstore; install asu-builder[cluster], or let "
            "images lie in public_path"
        )
    return Bucket(settings)


def open_package_changes(
    settings: Settings, *, kept: Path | None = None
) -> LocalPackageChanges | RemotePackageChanges:
    """The package rules, from wherever the settings say; `kept` is the folder of former ones."""
    path = settings.package_changes_path
    local = LocalPackageChanges(Path(path).expanduser() if path else None, kept=kept)
    return (
        RemotePackageChanges(settings.package_changes_url, local) if settings.package_changes_url else local
    )
