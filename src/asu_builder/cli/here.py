"""Builds of this installation, without a server: the same services, in this process."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from asu_builder import ports
from asu_builder.bootstrap.terminal import Terminal
from asu_builder.cli.opening import who
from asu_builder.client.downloads import Source, Stretch
from asu_builder.client.events import Ended, Event, LogLine, LogLines, progress_of
from asu_builder.client.server import Reply
from asu_builder.domain.access import Asker, Right, Token
from asu_builder.domain.errors import AsuError, BuildNotFound, EngineUnavailable, RequestRejected, Unavailable
from asu_builder.domain.job import FINAL_STATES
from asu_builder.domain.short_hashes import FOUND_AT_MOST, whole_hash
from asu_builder.services.builds import Ask, BuildView
from asu_builder.services.worker import Workers
from asu_builder.web.incoming import parse_request
from asu_builder.web.live_documents import render_text
from asu_builder.web.wire import render_build

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
        asker = Asker(who(), Token(who(), ""))
        try:
            view = self._terminal.builds.submit(Ask(request, client, asker))
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
        operations = self._terminal.world.operations

        def begin_so(prefix: str) -> Iterator[str]:
            wanted = ports.JobFilter(request_hash=prefix, limit=FOUND_AT_MOST)
            return (job.request_hash for job in operations.jobs(wanted))

        return whole_hash(given, begin_so)

    def look(self, request_hash: str) -> Reply:
        """The answer to a poll. Raises `BuildNotFound`."""
        return _reply(self._terminal.builds.look(request_hash))

    def cancel(self, request_hash: str, cancel_token: str) -> None:
        """Ends it before its time: with its secret as its asker, without as the operator.

        Raises `Conflict`, `NotAllowed` or `BuildNotFound`.
        """
        rights = frozenset() if cancel_token else frozenset({Right.OPERATE})
        asker = Asker(who(), Token(who(), "", rights))
        self._terminal.builds.cancel(request_hash, asker=asker, cancel_token=cancel_token)

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
            if lines := self._terminal.world.log.read(view.job.id, after=printed):
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
        verdict = self._terminal.world.runtime.check()
        if verdict.status == "down":
            raise EngineUnavailable(verdict.sentence)
        if pause := self._terminal.world.operations.paused():
            raise Unavailable(
                f"The workers are paused since {pause.since:%Y-%m-%dT%H:%M:%SZ} by {pause.who}; "
                "`asu-builder jobs resume` lets them go on."
            )
        self._workers = self._terminal.work_on(job.id)

    def _trouble(self) -> str:
        verdicts = self._terminal.health.report().verdicts
        down = [verdicts[part].sentence for part in ("engine", "store") if verdicts[part].status == "down"]
        return " ".join(down) or self._terminal.world.store.check().sentence

    def printed(self, request_hash: str) -> list[str]:
        """What it has printed so far, line by line."""
        job = self._terminal.builds.look(request_hash).job
        return render_text(self._terminal.world.log.read(job.id)).splitlines()

    def source(self, document: Mapping[str, Any]) -> Source:
        """Where the images of a finished build are read from; nobody takes them away meanwhile."""
        request_hash = str(document["request_hash"])
        store = self._terminal.world.store

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
