"""This installation without a server: settings, database, store, and builds in this process."""

import getpass
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from msgspec.structs import asdict

from asu_builder import ports
from asu_builder.app import make_operator
from asu_builder.app.adapters import Adapters, open_adapters
from asu_builder.app.terminal import Terminal
from asu_builder.cli.exit_codes import ExitCode, code_of_error
from asu_builder.client.downloads import Source, Stretch
from asu_builder.client.events import Ended, Event, LogLine, LogLines, progress_of
from asu_builder.client.server import Reply
from asu_builder.core.catalog import Catalog
from asu_builder.core.operator import Operator
from asu_builder.core.preflight import OtherNames, Preview
from asu_builder.core.search import Search
from asu_builder.core.submit import Ask, BuildView
from asu_builder.core.worker import Workers
from asu_builder.domain.access import Caller, Right, Token
from asu_builder.domain.errors import AsuError, BuildNotFound, EngineUnavailable, RequestRejected, Unavailable
from asu_builder.domain.job import FINAL_STATES
from asu_builder.domain.request import FOUND_AT_MOST, whole_hash
from asu_builder.http.api.body import parse_request
from asu_builder.http.api.live import render_text
from asu_builder.http.api.wire import render_build
from asu_builder.ports import PackageChanges
from asu_builder.settings import Settings, SettingsProblem, load_settings


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def who() -> str:
    """Who is at the command line, for the record of acts."""
    return f"cli:{getpass.getuser()}"


@contextmanager
def told() -> Iterator[None]:
    """Ends the program with a sentence where something meant goes wrong, and the number for it."""
    try:
        yield
    except SettingsProblem as problem:
        complain(problem)
        sys.exit(ExitCode.USAGE)
    except AsuError as problem:
        complain(problem)
        sys.exit(code_of_error(problem))
    except KeyboardInterrupt:
        sys.exit(ExitCode.CANCELLED)


def complain(problem: Exception | str) -> None:
    """Says what went wrong."""
    click.echo(f"asu-builder: {problem}", err=True)


@contextmanager
def installation() -> Iterator[tuple[Settings, Adapters]]:
    """The installation that the settings name; a service may run beside."""
    with told():
        settings = load_settings()
        if not settings.database_path.exists():
            # A mistyped place, or another directory: an empty installation there would help nobody.
            place = settings.database_path
            raise Unavailable(f"There is no database {place}. Name it by database_path, as for the service.")
        world = open_adapters(settings, now)
        # Nothing is built here, and a service that starts meanwhile is to find its former jobs by it.
        world.name.release()
        try:
            yield settings, world
        finally:
            try:
                world.statistics.flush()
            finally:
                world.close()


@contextmanager
def operator() -> Iterator[Operator]:
    """The operator's hand; workers of a running service see what it does within moments."""
    with installation() as (settings, world):
        yield make_operator(settings, world, wake=lambda: None)


_PAUSE_SECONDS = 0.2


class LocalOffers:
    """Speaks as `client.offers.ServerOffers` does."""

    def __init__(self, catalog: Catalog, package_changes: PackageChanges, other_names: OtherNames) -> None:
        self._catalog = catalog
        self._preview = Preview(catalog, package_changes, other_names=other_names)
        self._search = Search(catalog)

    def pause_after(self, error: AsuError) -> float:
        """Soon: what upstream was asked for is here within moments."""
        return _PAUSE_SECONDS

    def branches(self) -> list[dict[str, Any]]:
        """Every branch with `name`, `versions` (newest first), `targets`, and whether that is `complete`."""
        return [
            {
                "name": offer.branch.name,
                "versions": list(offer.versions),
                "targets": dict(offer.targets),
                "complete": offer.complete,
            }
            for offer in self._catalog.offers()
        ]

    def latest(self) -> list[str]:
        """The latest releases, the upcoming one first if there is any."""
        return self._catalog.latest()

    def devices(self, version: str, text: str, limit: int) -> dict[str, Any]:
        """Devices by words of their names."""
        found = self._search.devices(version, text, limit)
        devices = [
            {
                **asdict(device.title),
                "title": str(device.title),
                "target": device.target,
                "profile": device.profile,
            }
            for device in found.devices
        ]
        return {"version": version, "devices": devices, "more": found.more, "guessed": found.guessed}

    def device(self, version: str, target: str, profile: str) -> dict[str, Any]:
        """One device by its profile or a name that it reports."""
        return {"version": version, **asdict(self._search.device(version, target, profile))}

    def packages(self, version: str, target: str, text: str, limit: int) -> dict[str, Any]:
        """Packages by words of their names."""
        found = self._search.packages(version, target, text, limit)
        packages = [{"name": name, "version": release} for name, release in found.packages]
        return {"version": version, "target": target, "packages": packages, "more": found.more}

    def unknown_packages(self, body: bytes) -> dict[str, list[str]]:
        """Names in a request that no index has, each with those it may mean."""
        unknown = self._preview.look(parse_request(body)[0]).unknown
        if unknown is None:
            raise Unavailable("The package indexes are not known yet.", retry_after=1)
        return {entry.name: list(entry.suggestions) for entry in unknown}


_LOOK_SECONDS = 0.2
_PIECE = 256 << 10


class LocalBuilds:
    """Speaks as `client.builds.ServerBuilds` does; a job that waits is built by a worker of its own.

    `patience` is how many seconds the container engine may be away while a build is followed.
    """

    def __init__(self, terminal: Terminal, *, patience: float = 60.0) -> None:
        self._terminal = terminal
        self._patience = patience
        self._workers: Workers | None = None

    def submit(self, body: bytes) -> Reply:
        """The answer to a request. Raises what `Builds.submit` raises."""
        request, client = parse_request(body)
        # Whoever is at the terminal is known, so the limits for strangers are not theirs.
        caller = Caller(who(), Token(who(), ""))
        try:
            view = self._terminal.builds.submit(Ask(request, client, caller))
        except RequestRejected as error:
            if request.defaults and not self._terminal.settings.allow_defaults:
                told = f"{error}. Set ASU_ALLOW_DEFAULTS=true to allow it here."
                raise RequestRejected(told, field=error.field) from error
            raise
        return _reply(view)

    def pause_after(self, error: AsuError) -> float:
        """At once: nobody else is bothered, and what upstream was asked for is here within moments."""
        return _LOOK_SECONDS

    def whole_hash(self, given: str) -> str:
        """The one hash that begins as given. Raises `RequestRejected` or `BuildNotFound`."""
        operations = self._terminal.adapters.operations

        def begin_so(prefix: str) -> Iterator[str]:
            wanted = ports.JobFilter(request_hash=prefix, limit=FOUND_AT_MOST)
            return (job.request_hash for job in operations.jobs(wanted))

        return whole_hash(given, begin_so)

    def look(self, request_hash: str) -> Reply:
        """The answer to a poll. Raises `BuildNotFound`."""
        return _reply(self._terminal.builds.look(request_hash))

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Ends it before its time: with its secret as its caller, without as the operator.

        Raises `Conflict`, `NotAllowed` or `BuildNotFound`.
        """
        rights = frozenset() if cancel_token else frozenset({Right.OPERATE})
        caller = Caller(who(), Token(who(), "", rights))
        self._terminal.builds.cancel(request_hash, caller=caller, cancel_token=cancel_token)

    def follow(self, request_hash: str) -> Iterator[Event]:
        """What happens to it until its end, whichever process builds.

        Raises `EngineUnavailable` when nothing can be built here for too long.
        """
        shown: Event | None = None
        since = time.monotonic()
        printed = 0
        while True:
            # In this order: an outcome is kept after the last line, so what is final has all its lines.
            view = self._terminal.builds.look(request_hash)
            reply = _reply(view)
            if lines := self._terminal.adapters.log.read(view.job.id, after=printed):
                printed = lines[-1].seq
                yield LogLines(tuple(_line(line) for line in lines))
            if view.job.state in FINAL_STATES:
                yield Ended(reply.status, reply.document)
                return
            if (event := progress_of(reply.document)) != shown:
                yield event
            shown = event
            if self._terminal.health.builds_run():
                since = time.monotonic()
            elif time.monotonic() - since > self._patience:
                raise EngineUnavailable(self._trouble())
            time.sleep(_LOOK_SECONDS)

    def begin(self, request_hash: str) -> None:
        """Brings a worker for it. Raises `Unavailable` when nothing can be built here."""
        if self._workers is not None:
            return
        job = self._terminal.builds.look(request_hash).job
        if job.state in FINAL_STATES:
            return
        result = self._terminal.adapters.runtime.check()
        if result.status == "error":
            raise EngineUnavailable(result.sentence)
        if pause := self._terminal.adapters.operations.paused():
            raise Unavailable(
                f"The workers are paused since {pause.since:%Y-%m-%dT%H:%M:%SZ} by {pause.who}; "
                "`asu-builder jobs resume` lets them go on."
            )
        self._workers = self._terminal.work_on(job.id)

    def _trouble(self) -> str:
        results = self._terminal.health.report().parts
        down = [results[part].sentence for part in ("engine", "store") if results[part].status == "error"]
        return " ".join(down) or self._terminal.adapters.store.check().sentence

    def printed(self, request_hash: str) -> list[str]:
        """What it has printed so far, line by line."""
        job = self._terminal.builds.look(request_hash).job
        return render_text(self._terminal.adapters.log.read(job.id)).splitlines()

    def source(self, document: Mapping[str, Any]) -> Source:
        """Where the images of a finished build are read from; nobody takes them away meanwhile."""
        request_hash = str(document["request_hash"])
        store = self._terminal.adapters.store

        @contextmanager
        def opened(name: str, start: int) -> Iterator[Stretch]:
            with store.hold(request_hash):
                path = store.locate(request_hash, name)
                if path is None:
                    raise BuildNotFound(f"{name} is not in the store any more. Ask for it again.")
                with path.open("rb") as file:
                    file.seek(start)
                    yield Stretch(start, iter(lambda: file.read(_PIECE), b""))

        return opened

    def close(self) -> None:
        """Gives back what is still being built here, and lets go of everything."""
        try:
            if self._workers is not None:
                self._workers.stop()
        finally:
            self._terminal.close()


def _line(line: ports.LogLine) -> LogLine:
    return LogLine(line.seq, line.at.isoformat(), line.stage, line.text)


def _reply(view: BuildView) -> Reply:
    answer = render_build(view)
    return Reply(answer.status, json.loads(answer.body))
