"""The calls that concern one container, each with its deadline and its own client.

A client per call costs a millisecond and lets the guard's thread and the worker's thread use the
same container without sharing a `requests.Session`.
"""

import base64
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from threading import Condition
from time import monotonic, sleep
from typing import Any

from asu_builder.domain.errors import AsuError, EngineUnavailable
from asu_builder.engines.guard import Limits, disk_exhausted
from asu_builder.engines.podman.service import Engine, one_line
from asu_builder.engines.podman.streams import ConnectionSentinel, Stream, libpod_url

log = logging.getLogger(__name__)

_EXIT_CODE_WITHIN = timedelta(seconds=5)
_LOOK_SECONDS = 0.02
_SPECIAL_FILE = 0x8F280000
"""Go's `fs.ModeType`: a plain file has none of these bits."""


class ContainerGone(EngineUnavailable):
    """Somebody has removed the container under a build."""

    def __init__(self) -> None:
        super().__init__("The container was removed by somebody else while it was in use.")


class ContainerCalls:
    """Podman's API, seen from one container."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._timeouts = engine.timeouts
        self.name = name
        self._unanswered = False
        self._streams: dict[Stream, float] = {}
        """Those under way, and when they began."""
        self._quiet = Condition()

    @contextmanager
    def stream(self, method: str, *parts: str, is_long: bool = False, **query: object) -> Iterator[Stream]:
        """A streaming call that `kill` can end; it is not begun yet.

        With `is_long` the answer may begin as late as the guard allows.
        """
        with self._engine.client() as client:
            url = libpod_url(client.api.path_prefix, *parts, **query)
        call = self._timeouts.call
        within = None if is_long else call
        stream = Stream(self._engine.socket(), method, url, call=call, headers_within=within)
        with stream:
            with self._quiet:
                self._streams[stream] = monotonic()
            try:
                yield stream
            finally:
                with self._quiet:
                    self._streams.pop(stream, None)
                    self._quiet.notify_all()

    def archive(self, path: str) -> Any:
        """The stream of a path's tar archive."""
        return self.stream("GET", "containers", self.name, "archive", path=path)

    def sentinel(self) -> ConnectionSentinel:
        """Notices when the service dies from here on; to be closed."""
        with self._engine.client() as client:
            url = libpod_url(
                client.api.path_prefix, "containers", self.name, "wait", condition="stopped", interval="2s"
            )
        return ConnectionSentinel(self._engine.socket(), url, call=self._timeouts.call)

    def inspect(self, *, size: bool = False, timeout: timedelta | None = None) -> Mapping[str, Any]:
        """What Podman knows about the container; `size` walks what it has written.

        Raises `ContainerGone`.
        """
        with self._engine.client(timeout=timeout) as client:
            response = client.api.get(f"/containers/{self.name}/json", params={"size": size})
            if _says_gone(response):
                raise ContainerGone
            response.raise_for_status()
            attributes: Mapping[str, Any] = response.json()
            return attributes

    @property
    def busy_seconds(self) -> float:
        """How long a command has run by now, or files have been on their way; 0 when nothing is."""
        with self._quiet:
            return monotonic() - min(self._streams.values(), default=monotonic())

    def host_disk_free(self) -> int:
        """Bytes that the engine's storage has left; a lot when it does not say."""
        with self._engine.client() as client:
            response = client.api.get("/info")
            response.raise_for_status()
            store = response.json().get("store") or {}
        allocated = int(store.get("graphRootAllocated") or 1 << 62)
        return allocated - int(store.get("graphRootUsed") or 0)

    def disk_use(self) -> int:
        """Bytes written on top of the image."""
        return int(self.inspect(size=True, timeout=self._timeouts.question).get("SizeRw") or 0)

    def require_answer(self) -> None:
        """Passes when Podman answers about the container at once, in whatever state it is."""
        self.inspect(timeout=self._timeouts.question)

    def is_plain_file(self, path: str) -> bool:
        """Whether there is a plain file at an absolute path."""
        with self._engine.client() as client:
            response = client.api.head(f"/containers/{self.name}/archive", params={"path": path})
            if response.status_code == 404:
                self.inspect()  # 404 is also the answer when the container itself is gone
                return False
            response.raise_for_status()
            header = response.headers.get("X-Docker-Container-Path-Stat", "")
        try:
            mode = json.loads(base64.b64decode(header))["mode"]
        except (ValueError, KeyError, TypeError) as error:
            raise EngineUnavailable(f"Podman did not say what {path} is.") from error
        return not mode & _SPECIAL_FILE

    def put(self, path: str, content: bytes) -> None:
        """Unpacks a tar below an absolute path; what is new belongs to the container's user."""
        with self._engine.client() as client:
            client.api.put(
                f"/containers/{self.name}/archive", params={"path": path}, data=content
            ).raise_for_status()

    def put_stream(self, path: str, tar: Iterable[bytes]) -> None:
        """The same of a tar that is too large for the memory."""
        with self.stream("PUT", "containers", self.name, "archive", is_long=True, path=path) as stream:
            if stream.begin(tar=tar) >= 400:
                raise EngineUnavailable(f"Podman could not take a file: {one_line(stream.refusal())}.")

    def commit(self, reference: str, changes: Sequence[str]) -> None:
        """Makes an image of what the container has written, with `changes` in the words of a Dockerfile."""
        repository, _, tag = reference.rpartition(":")
        named = {"container": self.name, "repo": repository, "tag": tag, "changes": list(changes)}
        # Nothing runs in it that had to be paused.
        with self.stream("POST", "commit", is_long=True, **named, pause="false") as stream:
            if stream.begin() >= 400:
                raise EngineUnavailable(f"Podman could not make an image: {one_line(stream.refusal())}.")
            while stream.read_some():
                pass

    def create_exec(self, arguments: Sequence[str], workdir: str) -> str:
        """An exec session that is not started; its id."""
        session = {
            "AttachStdout": True,
            "AttachStderr": True,
            "Cmd": list(arguments),
            "WorkingDir": workdir,
        }
        with self._engine.client() as client:
            response = client.api.post(f"/containers/{self.name}/exec", data=json.dumps(session))
            response.raise_for_status()
            return str(response.json()["Id"])

    def exit_code(self, session: str, sentinel: ConnectionSentinel) -> int:
        """How an exec ended; its stream ends a moment before the session knows.

        Nothing is believed of a service that is not the one that `sentinel` has seen.
        """
        ends = monotonic() + _EXIT_CODE_WITHIN.total_seconds()
        while monotonic() < ends:
            with self._engine.client() as client:
                response = client.api.get(f"/exec/{session}/json")
                if _says_gone(response):
                    raise ContainerGone
                response.raise_for_status()
                state = response.json()
            if sentinel.has_lost_sight():
                break
            if not state["Running"]:
                return int(state["ExitCode"])
            sleep(0.05)
        raise connection_lost()

    def kill(self) -> None:
        """Ends every process of the container, and then every stream that still waits."""
        try:
            self._kill()
        except AsuError as error:
            self._unanswered = True
            log.warning("could not kill container %s: %s", self.name, error)
        grace = timedelta(0) if self._unanswered else self._timeouts.kill
        with self._quiet:
            self._quiet.wait_for(lambda: not self._streams, timeout=grace.total_seconds())
            for stream in self._streams:
                stream.abort()

    def end(self) -> None:
        """Ends every process of the container, and waits a moment until none is left.

        A failure is logged: removing, which comes next, kills too. An engine that has not answered
        before is not asked.
        """
        if self._unanswered:
            return
        try:
            self._kill()  # whatever is answered, for example that it does not run: its state tells
            until = monotonic() + self._timeouts.question.total_seconds()
            # Its process 1 is reaped last, after all others of its process namespace.
            while (self.inspect(timeout=self._timeouts.question).get("State") or {}).get("Running"):
                if monotonic() > until:
                    log.warning("container %s was killed and runs on", self.name)
                    return
                sleep(_LOOK_SECONDS)
        except ContainerGone:
            return
        except AsuError as error:
            self._unanswered = True
            log.warning("could not end container %s: %s", self.name, error)

    def _kill(self) -> None:
        with self._engine.client(timeout=self._timeouts.question) as client:
            client.api.post(f"/containers/{self.name}/kill", params={"signal": "SIGKILL"})

    def remove(self, *, hurry: bool = False) -> None:
        """Takes the container away; a failure is logged, `sweep` comes later.

        With `hurry`, or when killing it got no answer, the engine is not given much time.
        """
        try:
            self.delete(timeout=self._timeouts.question if hurry or self._unanswered else None)
        except AsuError as error:
            log.warning("could not remove container %s: %s", self.name, error)

    def delete(self, *, timeout: timedelta | None = None) -> bool:
        """Takes the container away with its volumes; False, and logged, when Podman refuses."""
        with self._engine.client(timeout=timeout) as client:
            query = {"force": True, "v": True, "timeout": 0, "ignore": True}
            response = client.api.delete(f"/containers/{self.name}", params=query)
        gone = response.status_code in (200, 204, 404)
        if not gone:
            log.warning("could not remove container %s: %s", self.name, one_line(response.text))
        return gone


def _says_gone(response: Any) -> bool:
    """Whether the container is not there: while it is being removed Podman 4.3 says so with 500."""
    return response.status_code == 404 or (
        response.status_code == 500 and "no such container" in response.text
    )


def connection_lost() -> EngineUnavailable:
    """What a command printed is not known to its end."""
    return EngineUnavailable("The connection to a running command was lost; look at Podman's log.")


_UNDISTURBED_SECONDS = 1.0
"""How long a command or the taking out of files has run before the disk is measured beside it."""
_REST = 10
"""How many times as long as a measurement takes lie between the beginnings of two.

Podman walks the whole image for it, half a second of computing for 60,000 files, and locks
the container for all others meanwhile.
"""


class ContainerWatch:
    """What a guard asks about one container: is the engine there, is the disk limit kept?"""

    def __init__(
        self,
        engine: Engine,
        calls: ContainerCalls,
        *,
        limits: Limits,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`clock` counts seconds."""
        self._engine = engine
        self._calls = calls
        self._limit = limits.disk
        self._clock = clock
        self._measure_at = -inf
        self.is_started = False
        """Set by the runtime once the container has started; before, only the engine is asked."""

    def look(self) -> AsuError | None:
        """See `guard.Watch`."""
        try:
            if not self.is_started:
                self._engine.ping(timeout=self._engine.timeouts.question)
            elif self._calls.busy_seconds < _UNDISTURBED_SECONDS or self._clock() < self._measure_at:
                self._calls.require_answer()
            elif self._measure() > self._limit:
                return disk_exhausted(self._limit)
        except ContainerGone as gone:
            return gone
        return None

    def _measure(self) -> int:
        began = self._clock()
        try:
            return self._calls.disk_use()
        except ContainerGone:
            raise
        except EngineUnavailable as error:
            # Walking many files on a busy disk takes long; an engine that is well answers this.
            self._calls.require_answer()
            log.warning("could not measure a container: %s", error)
            return 0
        finally:
            ended = self._clock()
            self._measure_at = ended + (ended - began) * (_REST - 1)
