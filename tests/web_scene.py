"""The real web application over a queue of plain values and a store on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from asu_builder.core.catalog import Catalog
from asu_builder.core.comparison import Comparisons
from asu_builder.core.health import Health
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.live import Ends, LiveBuilds, Notifier, Recorder
from asu_builder.core.metrics import Durations, EventCounts
from asu_builder.core.operator import Operator, QueueOverview
from asu_builder.core.search import Preview
from asu_builder.core.statistics import Charts
from asu_builder.core.submit import Cancellation
from asu_builder.core.worker import Workers
from asu_builder.database.connection import Database
from asu_builder.database.nodes import SqlNodes
from asu_builder.database.operator import SqlOperations
from asu_builder.database.preflight import SqlPreflightRecords
from asu_builder.database.queue import SqlJobQueue
from asu_builder.database.retention import SqlRetention
from asu_builder.domain.access import Token
from asu_builder.domain.health import CheckResult
from asu_builder.domain.release import Branches, Release, TargetProfiles, VersionList
from asu_builder.domain.search import Device, Title
from asu_builder.http.api.configuration import describe_settings
from asu_builder.http.api.live import WatchLimits
from asu_builder.http.api.monitoring import MetricsCollector
from asu_builder.http.app import create_app
from asu_builder.http.callers import Admit, Callers
from asu_builder.http.fast_path import FastPath
from asu_builder.http.parts import Parts
from asu_builder.http.threads import AdmitFetch
from asu_builder.package_rules import LocalPackageChanges
from asu_builder.ports import ImageSigning, Statistics, Upstream
from asu_builder.settings import LoadedSettings, Settings
from asu_builder.store.local import LocalStore
from database_clock import CLOCK
from factories import NOON
from fake_builds import FakeBuilds, FakeStatistics
from fake_copies import FakeCopies
from fake_log import FakeBuildLog
from still_preflight import Told, still_preflight

_OK = CheckResult("ok", "Fine.")
_SETTINGS = Settings(upstream_url="https://downloads.example.org", contact="asu@example.org")


class EmptyUpstream:
    """A download server that answers and has nothing."""

    def check(self) -> CheckResult:
        return CheckResult("ok", "It answers.")

    def versions(self) -> VersionList:
        return VersionList((), ())

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        return None

    def devices(self, release: Release) -> Sequence[Device] | None:
        return None

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        return None

    def described_profile(self, release: Release, target: str, profile: str) -> bytes | None:
        return None

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        return None

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        return None


class DescribingUpstream(EmptyUpstream):
    """A download server with some versions, all alike."""

    def __init__(self, listed: Sequence[Device] = ()) -> None:
        self.listed = listed or (
            Device(Title(vendor="Acme", model="Widget 5"), "pico/nine", "acme_widget-5"),
            Device(Title("acme_old"), "pico/nine", "acme_old"),
        )
        self.asked = 0

    def versions(self) -> VersionList:
        return VersionList(tuple(f"24.10.{number}" for number in range(8)), ())

    def targets(self, release: Release, *, wait: bool = True) -> Mapping[str, str] | None:
        return {"pico/nine": "pico_9kc"}

    def devices(self, release: Release) -> Sequence[Device] | None:
        self.asked += 1
        return self.listed

    def target_profiles(self, release: Release, target: str) -> TargetProfiles | None:
        return TargetProfiles(
            "r1-a",
            "pico_9kc",
            {"acme_widget-5": ("acme,widget-5", "widget5"), "acme_old": ()},
            ("base-files", "ppp"),
            {"acme_widget-5": ("kmod-usb", "-ppp")},
            titles={"acme_widget-5": (Title(vendor="Acme", model="Widget 5"),)},
        )

    def architecture_packages(self, release: Release, architecture: str) -> Mapping[str, str] | None:
        return {"luci": "1", "vim": "1", "luci-app-vpn": "1", "kmod-flux": "1"}

    def target_packages(self, release: Release, target: str) -> Mapping[str, str] | None:
        return {"kmod-flux": "2"}


@dataclass
class Scene:
    """What a web test moves, and what it watches."""

    root: Path
    builds: FakeBuilds = field(default_factory=FakeBuilds)
    statistics: FakeStatistics = field(default_factory=FakeStatistics)
    counted: Statistics | None = None
    checked: dict[str, CheckResult] = field(
        default_factory=lambda: {"database": _OK, "engine": _OK, "store": _OK}
    )
    life: list[str] = field(default_factory=list)
    upstream: Upstream = field(default_factory=EmptyUpstream)
    tokens: tuple[Token, ...] = ()
    limit_previews: Admit = field(default=lambda _: None)
    limit_fetches: AdmitFetch = field(default=lambda _, __: None)
    loaded: LoadedSettings = field(default_factory=lambda: LoadedSettings(Settings(), {}))
    queue: SqlJobQueue = field(init=False)
    database: Database = field(init=False)
    log: FakeBuildLog = field(default_factory=FakeBuildLog)
    watch_limits: WatchLimits = field(default_factory=WatchLimits)
    settings: Settings = _SETTINGS
    notifier: Notifier = field(default_factory=Notifier)
    seconds: float = 1000.0
    revoked: int = 0
    generation: Callable[[], int | None] | None = None
    ended: Notifier = field(default_factory=Notifier)
    resolver: Told = field(default_factory=Told)
    signing: ImageSigning | None = None
    health: Health = field(init=False)
    counts: EventCounts = field(default_factory=EventCounts)
    durations: Durations = field(default_factory=Durations)
    housekeeping: Housekeeping = field(init=False)

    def app(self, *, cors: bool = True) -> FastPath:
        """A fresh application over these parts."""
        checks = {part: (lambda part=part: self.checked[part]) for part in self.checked}
        health = Health(checks)
        health.check_all()
        self.health = health
        operator = self.operator()
        metrics, changes = self.metrics(), LocalPackageChanges()
        catalog = Catalog(self.upstream, Branches(), changes)
        preview = Preview(catalog, still_preflight(catalog, changes, self.resolver))
        return create_app(
            Parts(
                builds=self.builds,
                live=LiveBuilds(self.builds, self.log, self.notifier),
                health=health,
                store=self.store(),
                statistics=self.statistics,
                catalog=catalog,
                preview=preview,
                comparisons=lambda: Comparisons(self.builds, preview),
                operator=operator,
                queue_overview=QueueOverview(SqlOperations(self.database), self.queue, now=lambda: NOON),
                configuration=lambda: describe_settings(self.loaded),
                metrics=lambda: metrics,
                callers=Callers(self.tokens, ()),
                limit_previews=self.limit_previews,
                limit_fetches=self.limit_fetches,
                charts=lambda: Charts(self.counted or self.statistics, now=lambda: NOON),
                settings=self.settings if cors else replace(self.settings, cors=False),
                start=lambda: self.life.append("start"),
                stop=lambda: self.life.append("stop"),
                version="1.2.3",
                watch_limits=self.watch_limits,
                clock=lambda: self.seconds,
                revoked=lambda: self.revoked,
                ends=Ends(self.generation, self.ended.listen) if self.generation else None,
            )
        )

    def operator(self) -> Operator:
        """The operator's hand over a queue of its own."""
        self.database = Database(self.root / "a.db", clock=CLOCK)
        self.queue = SqlJobQueue(self.database)
        operations = SqlOperations(self.database)
        return Operator(
            operations,
            self.queue,
            retention=SqlRetention(self.database),
            store=self.store(),
            statistics=self.statistics,
            preflight_records=SqlPreflightRecords(self.database),
            nodes=SqlNodes(self.database),
            cancellation=Cancellation(
                self.queue,
                operations,
                statistics=self.statistics,
                settings=Settings(),
            ),
        )

    def metrics(self) -> MetricsCollector:
        """Numbers of workers that never start and of the operator's queue."""
        workers = Workers(
            self.queue,
            None,  # type: ignore[arg-type] # they build nothing
            health=self.health,
            statistics=self.statistics,
            recorder=Recorder(self.log, now=lambda: NOON, notify=self.notifier.notify),
            durations=self.durations,
            settings=Settings(),
            name="host",
            now=lambda: NOON,
        )
        self.housekeeping = Housekeeping(
            self.queue,
            SqlRetention(self.database),
            self.store(),
            None,  # type: ignore[arg-type] # it sweeps nothing
            statistics=self.statistics,
            settings=Settings(),
        )
        return MetricsCollector(
            SqlOperations(self.database),
            workers,
            self.housekeeping,
            health=self.health,
            store=self.store(),
            statistics=self.statistics,
            counts=self.counts,
            preflight_records=SqlPreflightRecords(self.database),
            version="1.2.3",
            now=lambda: NOON,
            signing=self.signing,
            copies=FakeCopies(CLOCK),
            warm=lambda: 2,
        )

    def store(self) -> LocalStore:
        """The store behind the application."""
        return LocalStore(self.root, installation="ours", floor=0)

    def publish(self, request_hash: str, name: str, content: bytes) -> None:
        """Puts an image into the store."""
        (self.root / request_hash).mkdir(parents=True, exist_ok=True)
        (self.root / request_hash / name).write_bytes(content)
