"""assemble(settings) → Application: the only module that knows every adapter."""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from asu_builder import __version__
from asu_builder.app.adapters import Adapters, Role, open_adapters
from asu_builder.app.background import (
    Lifecycle,
    Rounds,
    background_work,
    make_housekeeping,
    make_presence,
)
from asu_builder.core.catalog import Catalog
from asu_builder.core.current_packages import CurrentPackages
from asu_builder.core.forecast import Forecast
from asu_builder.core.health import Health
from asu_builder.core.housekeeping import Housekeeping
from asu_builder.core.live import LiveBuilds, Recorder
from asu_builder.core.metrics import Durations, EventCounts
from asu_builder.core.one_pass import OnePass
from asu_builder.core.operator import Operator, QueueOverview
from asu_builder.core.preflight import Preflight, PreflightProof
from asu_builder.core.presence import NO_JOB
from asu_builder.core.readiness import Readiness
from asu_builder.core.refusals import Refusals
from asu_builder.core.search import Preview
from asu_builder.core.submit import AccessTracker, Builds, Cancellation
from asu_builder.core.worker import Workers
from asu_builder.domain.access import Right, Token, new_token
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import BuildResult, Job, Outcome
from asu_builder.domain.nodes import takes_of
from asu_builder.domain.preflight import PreflightMode
from asu_builder.domain.release import Branches
from asu_builder.http.app import MonitoringApp, create_app
from asu_builder.http.callers import Callers
from asu_builder.http.door import Door
from asu_builder.http.parts import Parts
from asu_builder.http.server import DrainingServer, server_config
from asu_builder.http.shared_answers import SharedAnswers
from asu_builder.loading import Late
from asu_builder.ports import Runtime
from asu_builder.rate_limits import PreviewsLimit
from asu_builder.settings import LoadedSettings, Settings, SettingsProblem

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from asu_builder.core.comparison import Comparisons
    from asu_builder.core.handover import Finishing
    from asu_builder.core.pipeline import Pipeline
    from asu_builder.core.statistics import Charts
    from asu_builder.http.api.monitoring import MetricsCollector
    from asu_builder.http.api.operator import ConfigurationDocument

_POLL = timedelta(seconds=1)
"""How soon a job is taken up that a lost worker of another process has left."""
_MARK = "-terminal"
_OF_THIS_MOMENT = "Requests about the packages of this moment"
_LONGEST_NAME = 64
_START_SECONDS = 0.01
_LONGEST_DIRECTORY = 60
"""Characters; the address of a socket file has at most 107."""
_REST = timedelta(seconds=0.1)
"""Between each thousand results when all are looked at: a tenth of one processor at most."""


class Application(Struct, frozen=True):
    """The assembled service; `app` starts and stops it by its lifespan. `warnings` are the operator's."""

    app: "ASGIApp"
    warnings: tuple[str, ...]
    drain: Callable[[], None]
    """Takes no more jobs; returns when none is being built or the grace is over."""
    end_streams: Callable[[], None]
    """Ends the answers that would last, on the event loop."""
    door: Door
    """What the server lets in."""
    begin: Callable[[], None]
    """Starts workers and background work, where `app` does not."""
    workers: Workers
    health: Health
    catalog: Catalog


def assemble(
    settings: Settings,
    *,
    role: Role = Role.BOTH,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    watch: Callable[[Runtime], Runtime] = lambda runtime: runtime,
    origins: Mapping[str, str] | None = None,
    rounds: Rounds | None = None,
    own_tokens: Sequence[Token] = (),
    only_answers: bool = False,
) -> Application:
    """Everything wired together, nothing started. Raises `SettingsProblem` or `Unavailable`.

    `role` says what this process is for; `watch` may wrap the runtime; `origins` says where settings were
    chosen, `rounds` how often background work comes; `own_tokens` are known beside those of the settings.
    With `only_answers` the lifespan of `app` starts neither workers nor background work.
    """
    settings = _fit_for(role, settings)
    counts = EventCounts()
    adapters = open_adapters(settings, now, role=role, note=counts.note, watch=watch)
    catalog = Catalog(adapters.upstream, Branches(settings.branches), adapters.package_changes)
    health = Health(adapters.checks(), has_room=lambda: adapters.store.room() > 0)
    recorder = Recorder(adapters.log, now=now, notify=adapters.notify)
    preflight = _preflight(settings, adapters, catalog)
    current = _current_packages(adapters, catalog, preflight)
    one_pass = OnePass(preflight, current.indexes_of, adapters.preflight_records.carried, counts.preflight)
    proof = _proof(settings, adapters, catalog, preflight, counts, one_pass)
    pipeline = partial(_pipeline, settings, adapters, catalog, current, one_pass)
    workers = _workers(settings, adapters, pipeline, health, recorder, now=now, on_outcome=proof.note)
    housekeeping = make_housekeeping(settings, adapters, rest=_REST)
    interest = AccessTracker(adapters.queue)
    cancellation = _cancellation(settings, adapters, workers)
    hindrance = _hindrance(adapters, health)
    refusals = _refusals(settings, adapters, preflight, proof, workers, hindrance=hindrance, now=now)
    builds = _builds(settings, adapters, catalog, current, refusals, cancellation, interest, hindrance, now)
    preview = Preview(catalog, preflight, other_names=adapters.upstream.other_names)
    presence = make_presence(adapters, workers, health, begins=not only_answers)
    readiness = _readiness(settings, adapters, catalog, now)
    looked_after = adapters, health, housekeeping, catalog, current, interest, proof, presence
    work = background_work(*looked_after, rounds, readiness)
    lifecycle = Lifecycle(adapters, workers, housekeeping, recorder, interest, work, presence, readiness)
    parts = Parts(
        builds=builds,
        live=LiveBuilds(builds, adapters.log, adapters.notifier),
        health=health,
        store=adapters.store,
        statistics=adapters.statistics,
        catalog=catalog,
        charts=Late(partial(_charts, adapters, now)),
        preview=preview,
        comparisons=Late(partial(_comparisons, builds, preview)),
        operator=_operator(adapters, cancellation, refusals),
        queue_overview=QueueOverview(adapters.operations, adapters.queue, now=now),
        configuration=lambda: _describe_settings(LoadedSettings(settings, origins or {})),
        metrics=Late(partial(_metrics, adapters, workers, housekeeping, health, readiness, counts, now)),
        callers=Callers((*settings.tokens, *own_tokens), settings.trusted_proxies),
        limit_previews=PreviewsLimit(windows=adapters.windows("previews")).admit,
        limit_fetches=adapters.fetch_limit.admit,
        settings=settings,
        revoked=adapters.revocations.current,
        ends=adapters.ends,
        shared_answers=_shared_answers(settings, adapters, builds),
        signing=adapters.signing,
        attestation=adapters.attestation,
        start=(lambda: None) if only_answers else lifecycle.start,
        stop=lifecycle.stop,
        version=__version__,
    )
    app = create_app(parts) if role.answers else MonitoringApp(parts)
    return Application(
        app,
        adapters.warnings,
        partial(workers.drain, settings.shutdown_grace),
        app.end_streams,
        app.door(settings),
        begin=lifecycle.start,
        workers=workers,
        health=health,
        catalog=catalog,
    )


def _fit_for(role: Role, settings: Settings) -> Settings:
    if not role.builds:
        return replace(settings, worker_concurrent=0)
    if not role.answers and not settings.worker_concurrent:
        raise SettingsProblem("worker_concurrent: expected a number of at least 1 for a worker, got 0")
    return settings


def _preflight(settings: Settings, adapters: Adapters, catalog: Catalog) -> Preflight:
    return Preflight(
        catalog,
        adapters.package_changes,
        adapters.upstream,
        adapters.resolver,
        carried_by=adapters.preflight_records.carried,
        installs_key=settings.install_signing_key,
    )


def _current_packages(adapters: Adapters, catalog: Catalog, preflight: Preflight) -> CurrentPackages:
    looks = PreviewsLimit(of=_OF_THIS_MOMENT, windows=adapters.windows("packages"))
    return CurrentPackages(catalog, preflight, limit=looks.admit)


def _proof(
    settings: Settings,
    adapters: Adapters,
    catalog: Catalog,
    preflight: Preflight,
    counts: EventCounts,
    one_pass: OnePass,
) -> PreflightProof:
    return PreflightProof(
        lambda: preflight,
        catalog.resolve,
        adapters.preflight_records,
        mode=PreflightMode(settings.preflight),
        counts=counts.preflight,
        is_compared=one_pass.has_compared,
    )


def _builds(
    settings: Settings,
    adapters: Adapters,
    catalog: Catalog,
    current: CurrentPackages,
    refusals: Refusals | None,
    cancellation: Cancellation,
    interest: AccessTracker,
    hindrance: Callable[[], str],
    now: Callable[[], datetime],
) -> Builds:
    return Builds(
        adapters.queue,
        catalog,
        package_changes=adapters.package_changes,
        store=adapters.store,
        statistics=adapters.statistics,
        interest=interest,
        forecast=Forecast(adapters.queue, workers=settings.worker_concurrent, now=now),
        cancellation=cancellation,
        settings=settings,
        limit=adapters.limit.admit,
        take_back=adapters.limit.take_back,
        waiting_for=hindrance,
        refusals=refusals,
        current=current,
        accepts_result=_accepts_result(settings, adapters),
        installed_key=lambda: adapters.key_id if settings.install_signing_key else "",
    )


def _shared_answers(settings: Settings, adapters: Adapters, builds: Builds) -> SharedAnswers | None:
    """Those of other nodes, where reading one costs less than to ask for what it is made of."""
    if not (adapters.copies and adapters.listener):
        return None
    required = settings.signing_required
    return SharedAnswers(adapters.copies, builds, lambda: f"{__version__} {required} {adapters.key_id}")


def _accepts_result(settings: Settings, adapters: Adapters) -> Callable[[BuildResult], bool]:
    """Whether a kept result is answered: not where a key that must sign has not, or is revoked."""
    signing, required = adapters.signing, settings.signing_required
    must_state = required and adapters.attestation is not None

    def accepts(result: BuildResult) -> bool:
        if must_state and not result.provenance:
            return False
        if signing is None:
            return True
        if required and result.signed_by != signing.key_id:
            return False
        return not result.signed_by or not signing.is_revoked(result.signed_by)

    return accepts


def _cancellation(settings: Settings, adapters: Adapters, workers: Workers) -> Cancellation:
    return Cancellation(
        adapters.queue,
        adapters.operations,
        statistics=adapters.statistics,
        settings=settings,
        stop_lost_builds=workers.stop_lost_builds,
    )


def _hindrance(adapters: Adapters, health: Health) -> Callable[[], str]:
    """What tells why no build can run; "" where one can."""
    return lambda: "paused" if adapters.operations.were_paused() else health.hindrance()


def _refusals(
    settings: Settings,
    adapters: Adapters,
    preflight: Preflight,
    proof: PreflightProof,
    workers: Workers,
    *,
    hindrance: Callable[[], str],
    now: Callable[[], datetime],
) -> Refusals | None:
    if settings.preflight != "enforce":
        return None

    def is_idle() -> bool:
        # A process without workers knows only that no job waits for those of others.
        is_free = not workers.concurrent or workers.running < workers.concurrent
        return is_free and not hindrance() and not adapters.queue.pending()

    refusals = Refusals(
        preflight,
        is_enforced=proof.is_enforced,
        sample=proof.sample,
        is_idle=is_idle,
        limit=PreviewsLimit(windows=adapters.windows("judged")).admit,
        statistics=adapters.statistics,
        ttl=settings.failure_ttl,
        now=now,
        announce=adapters.listener.tell_refused if adapters.listener else lambda _: None,
    )
    adapters.refused.listen(refusals.adopt)
    if adapters.ends:
        adapters.ends.listen(refusals.forget)
    return refusals


def _operator(adapters: Adapters, cancellation: Cancellation, refusals: Refusals | None) -> Operator:
    def forget_refusal(request_hash: str) -> bool:
        if refusals is None or not refusals.forget(request_hash):
            return False
        if adapters.listener:
            adapters.listener.tell_end(request_hash)
        return True

    return Operator(
        adapters.operations,
        adapters.queue,
        retention=adapters.retention,
        store=adapters.store,
        statistics=adapters.statistics,
        preflight_records=adapters.preflight_records,
        nodes=adapters.nodes,
        cancellation=cancellation,
        forget_refusal=forget_refusal,
    )


def _comparisons(builds: Builds, preview: Preview) -> "Comparisons":
    from asu_builder.core.comparison import Comparisons

    return Comparisons(builds, preview)


def _charts(adapters: Adapters, now: Callable[[], datetime]) -> "Charts":
    from asu_builder.core.statistics import Charts

    return Charts(adapters.statistics, now=now)


def _readiness(
    settings: Settings, adapters: Adapters, catalog: Catalog, now: Callable[[], datetime]
) -> Readiness | None:
    """What has ready what is asked for most, where the settings say so."""
    if not (adapters.role.builds and (settings.prepull or settings.warm_containers)):
        return None
    return Readiness(adapters.runtime, adapters.statistics, catalog, settings=settings, now=now)


def _metrics(
    adapters: Adapters,
    workers: Workers,
    housekeeping: Housekeeping,
    health: Health,
    readiness: Readiness | None,
    counts: EventCounts,
    now: Callable[[], datetime],
) -> "MetricsCollector":
    from asu_builder.http.api.monitoring import MetricsCollector

    return MetricsCollector(
        adapters.operations,
        workers,
        housekeeping,
        health=health,
        store=adapters.store,
        statistics=adapters.statistics,
        counts=counts,
        preflight_records=adapters.preflight_records,
        signing=adapters.signing,
        copies=adapters.copies,
        warm=(lambda: readiness.standing) if readiness else None,
        version=__version__,
        now=now,
    )


def _describe_settings(loaded: LoadedSettings) -> "ConfigurationDocument":
    from asu_builder.http.api.configuration import describe_settings  # words that a start does not need

    return describe_settings(loaded)


def _pipeline(
    settings: Settings,
    adapters: Adapters,
    catalog: Catalog,
    current: CurrentPackages,
    one_pass: OnePass,
    finishing: "Finishing",
) -> "Pipeline":
    from asu_builder.app.building import make_pipeline  # a start needs none of it

    return make_pipeline(settings, adapters, catalog, current, one_pass, finishing)


def _finishing(settings: Settings, adapters: Adapters, now: Callable[[], datetime]) -> "Finishing":
    from asu_builder.app.building import make_finishing  # a start needs none of it

    return make_finishing(settings, adapters, now)


def _workers(
    settings: Settings,
    adapters: Adapters,
    pipeline: "Callable[[Finishing], Pipeline]",
    health: Health,
    recorder: Recorder,
    *,
    now: Callable[[], datetime],
    on_outcome: Callable[[Job, Outcome], None],
) -> Workers:
    finishing = Late(partial(_finishing, settings, adapters, now))
    return Workers(
        adapters.queue,
        Late(lambda: pipeline(finishing())),
        health=health,
        statistics=adapters.statistics,
        recorder=recorder,
        durations=Durations(),
        settings=settings,
        name=adapters.name.name,
        now=now,
        on_outcome=on_outcome,
        takes=lambda: takes_of(adapters.package_changes.known()),
        finishing=finishing if adapters.signs else None,
    )


@contextlib.contextmanager
def private_service(settings: Settings) -> Iterator[tuple[Application, Path, str]]:
    """The service for one command, on a socket file in a private directory, in this process.

    Yields the application, the path of its socket, and the secret that lets its user do everything. It
    serves until the block ends; a service may run beside it, and keeps its worker's name.

    It only answers until `application.begin` is called, so that looking at a queue changes nothing in it;
    the worker takes no job until `application.workers.only` names one. Rate limits do not hold for the
    user. Raises `SettingsProblem` or `Unavailable`.
    """
    import getpass  # loads terminals

    secret, digest = new_token()
    settings = replace(
        settings,
        worker_id=settings.worker_id[: _LONGEST_NAME - len(_MARK)] + _MARK,
        worker_concurrent=1,
        worker_poll=_POLL,
        shutdown_grace=timedelta(0),
    )
    user = Token(f"cli:{getpass.getuser()}", digest, frozenset({Right.OPERATE}))
    application = assemble(settings, own_tokens=[user], only_answers=True)
    application.workers.only = NO_JOB
    temporary = None if len(tempfile.gettempdir()) < _LONGEST_DIRECTORY else "/tmp"
    with tempfile.TemporaryDirectory(prefix="asu-builder-", dir=temporary) as folder:
        path = Path(folder) / "socket"
        config = server_config(application.app, "", 0, door=application.door)
        config.uds = str(path)
        server = DrainingServer(config, drain=application.drain, end_streams=application.end_streams)
        thread = threading.Thread(target=server.run, name="private-service", daemon=True)
        thread.start()
        try:
            while not server.started:
                thread.join(_START_SECONDS)
                if not thread.is_alive():
                    raise Unavailable("The service of this command has not started; the log says why.")
            yield application, path, secret
        finally:
            server.should_exit = True
            thread.join()
