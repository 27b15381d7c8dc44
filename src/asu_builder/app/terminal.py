"""assemble_terminal(settings) → Terminal: what a command needs to build here, beside a service or alone."""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.app import make_housekeeping, make_pipeline
from asu_builder.app.adapters import Adapters, open_adapters
from asu_builder.app.background import checks
from asu_builder.app.doors import Answering, make_builds
from asu_builder.core.catalog import Catalog
from asu_builder.core.health import Health, Periodic
from asu_builder.core.live import Recorder
from asu_builder.core.metrics import Durations
from asu_builder.core.pipeline import Pipeline
from asu_builder.core.submit import AccessTracker, Builds
from asu_builder.core.worker import Workers
from asu_builder.domain.release import Branches
from asu_builder.settings import Settings

_HEALTH_SECONDS = 10.0
_QUEUE_SECONDS = 5.0
_TIDY_SECONDS = 30.0
_POLL = timedelta(seconds=1)
"""How soon a job is taken up that a lost worker of another process has left."""
_MARK = "-terminal"
_LONGEST_NAME = 64


class Terminal(Struct, frozen=True):
    """The services of one command. Nothing runs before `work_on`; `close` ends everything."""

    settings: Settings
    adapters: Adapters
    builds: Builds
    catalog: Catalog
    health: Health
    pipeline: Pipeline
    recorder: Recorder
    background: tuple[Periodic, ...]
    interest: AccessTracker
    now: Callable[[], datetime]

    def work_on(self, job_id: int) -> Workers:
        """One worker for this job and no other, started; whoever calls stops it.

        The turns of others stay as they are: this process brings the worker along.
        """
        workers = Workers(
            self.adapters.queue,
            self.pipeline,
            health=self.health,
            statistics=self.adapters.statistics,
            recorder=self.recorder,
            durations=Durations(),
            settings=replace(self.settings, worker_concurrent=1, worker_poll=_POLL),
            name=self.adapters.name.name,
            only=job_id,
            now=self.now,
        )
        for periodic in self.background:
            periodic.start()
        workers.start()
        return workers

    def close(self) -> None:
        """Writes down what is still to be written, and lets go."""
        for periodic in self.background:
            periodic.stop()
        self.recorder.stop()
        try:
            self.interest.flush()
            self.adapters.statistics.flush()
        finally:
            self.adapters.close()


def assemble_terminal(settings: Settings, now: Callable[[], datetime]) -> Terminal:
    """Everything wired together, nothing started. Raises `SettingsProblem` or `Unavailable`.

    Its worker has a name of its own, so that a service beside keeps its name, whichever comes first.
    """
    name = settings.worker_id[: _LONGEST_NAME - len(_MARK)] + _MARK
    settings = replace(settings, worker_id=name)
    adapters = open_adapters(settings, now)
    runtime = adapters.runtime
    catalog = Catalog(adapters.upstream, Branches(settings.branches), adapters.package_changes)
    health = Health(checks(adapters, runtime), has_room=lambda: adapters.store.room() > 0)
    housekeeping = make_housekeeping(settings, adapters, runtime, wake=lambda: None)
    housekeeping.recover(worker=adapters.name.name)
    interest = AccessTracker(adapters.queue)
    answering = Answering(catalog, health, interest)
    return Terminal(
        settings=settings,
        adapters=adapters,
        builds=make_builds(settings, adapters, answering, now=now, wake=lambda: None),
        catalog=catalog,
        health=health,
        pipeline=make_pipeline(settings, runtime, adapters, catalog),
        recorder=Recorder(adapters.log, now=now, notify=lambda _: None),
        background=(
            Periodic("health", health.look, seconds=_HEALTH_SECONDS, delay=_HEALTH_SECONDS),
            Periodic("queue", housekeeping.look_after_queue, seconds=_QUEUE_SECONDS, delay=_QUEUE_SECONDS),
            # At once: what a killed command has left, nobody else may ever come to sweep.
            Periodic("housekeeping", housekeeping.tidy, seconds=_TIDY_SECONDS),
            Periodic("reconciling", housekeeping.reconcile_when_due, seconds=_TIDY_SECONDS),
            Periodic("interest", interest.flush, seconds=_QUEUE_SECONDS, delay=_QUEUE_SECONDS),
        ),
        interest=interest,
        now=now,
    )
