"""The service's side of its proxy: starts it with the first build, and again when it has ended."""

import json
import logging
import os
import queue
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from asu_builder.domain.addresses import parse_address
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.job import Traffic
from asu_builder.settings import Settings

_log = logging.getLogger(__name__)

_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from asu_builder.package_cache.build_files import serve; serve()"
)
_NAME = "asu-builder proxy"
"""What tells the process from others in a list of processes."""
_PATIENCE = 30.0
_MOST_NOTES = 100
_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


class ProxyLost(Unavailable):
    """The proxy ended or does not answer: what was asked of it is to be tried again."""

    public_sentence = "A part of this server stopped while this was built; it is tried again."


class Totals(Struct, frozen=True):
    """What all builds of this process had, and how often the proxy was started."""

    traffic: Traffic = Traffic()
    starts: int = 0


class Channel:
    """One build's socket, and what is said about it. Used by the thread of the build."""

    def __init__(
        self, process: "_Process", key: str, socket: Path, *, count: Callable[[Traffic], None]
    ) -> None:
        """`count` is told what the build had, when it ends."""
        self.socket = socket
        """Where it lies, for the engine that mounts it."""
        self._process = process
        self._key = key
        self._count = count

    def allow(self, urls: Iterable[str]) -> None:
        """Lets the build fetch what is at or below these addresses. Raises `ProxyLost`."""
        self._process.ask("allow", self._key, urls=list(urls))

    def notes(self) -> list[str]:
        """Sentences for the build's log that are new since the last call."""
        return self._process.take_notes(self._key)

    def distrust(self) -> None:
        """Has nothing kept of what the build has read: its package manager has refused some of it.

        Raises `ProxyLost`.
        """
        self._process.ask("distrust", self._key)

    def require(self) -> None:
        """Passes where the proxy that has this socket still lives. Raises `ProxyLost`."""
        if self._process.is_lost:
            raise _lost()

    def close(self) -> Traffic:
        """Ends all that the build still has there; what it had in all, nothing where that is lost."""
        try:
            had = self._process.ask("close", self._key)
        except ProxyLost:
            self.socket.unlink(missing_ok=True)
            return Traffic()
        finally:
            self._process.take_notes(self._key)
        traffic = Traffic(had["requests"], had["bytes"], had["refused"], had["cached"])
        self._count(traffic)
        if traffic != Traffic():
            _log.info(
                "The build had %d files with %d bytes from its proxy, %d of them stored; %d were refused.",
                traffic.requests,
                traffic.bytes,
                traffic.cached,
                traffic.refused,
            )
        return traffic


class BuildProxy:
    """Opens channels for builds; every thread may use it."""

    def __init__(self, settings: Settings, *, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is where the operator's own outgoing proxy is named."""
        self._settings = settings
        self._environment = os.environ if environment is None else environment
        self.directory = settings.sockets_directory
        self._lock = Lock()
        self._process: _Process | None = None
        self._totals = Totals()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now; None for none."""
        process = self._process
        return None if process is None or process.is_lost else process.pid

    @property
    def totals(self) -> Totals:
        """What all builds of this process had."""
        return self._totals

    def open(self) -> Channel:
        """A socket for one build, at which nothing is allowed yet. Raises `ProxyLost`."""
        key = secrets.token_hex(16)
        process = self._running()
        process.ask("open", key)
        return Channel(process, key, self.directory / f"{key}.sock", count=self._count)

    def _count(self, traffic: Traffic) -> None:
        with self._lock:
            total = self._totals.traffic
            added = Traffic(
                total.requests + traffic.requests,
                total.bytes + traffic.bytes,
                total.refused + traffic.refused,
                total.cached + traffic.cached,
            )
            self._totals = replace(self._totals, traffic=added)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._process is not None:
                self._process.end()

    def _running(self) -> "_Process":
        with self._lock:
            if self._process is None or self._process.is_lost:
                if self._process is not None:
                    self._process.end()
                    _log.warning("The proxy of builds has ended and is started again.")
                try:
                    self.directory.mkdir(parents=True, exist_ok=True)
                    self._process = _Process(self._orders(), self._variables())
                except OSError as error:
                    raise ProxyLost(f"The proxy of builds cannot be started: {error.strerror}.") from error
                self._totals = replace(self._totals, starts=self._totals.starts + 1)
            return self._process

    def _orders(self) -> Mapping[str, object]:
        """What it is told at its start."""
        settings = self._settings
        named = map(parse_address, (settings.upstream_url, *settings.repository_allow_list))
        places = (parse_address(f"https://{host}") for host in settings.upstream_redirect_hosts)
        plain = (parse_address(f"http://{host}") for host in settings.upstream_redirect_hosts)
        return {
            "directory": str(self.directory.absolute()),
            "packages": str(settings.packages_directory),
            "most_bytes": settings.package_cache_size,
            "floor": settings.disk_floor,
            "private": [(address.host, address.port) for address in named if address],
            "redirects": [(address.host, address.port) for address in (*places, *plain) if address],
        }

    def _variables(self) -> dict[str, str]:
        found = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
        for name in _VARIABLES:
            for spelt in (name, name.upper()):
                if spelt in self._environment:
                    found[spelt] = self._environment[spelt]
        return found


class _Process:
    """A running proxy. Answers are read by a thread, because notes come at any time."""

    def __init__(self, orders: Mapping[str, object], environment: Mapping[str, str]) -> None:
        # `-I` leaves out the paths of the environment: they are passed as they are here.
        self._process = subprocess.Popen(
            [sys.executable, "-IBc", _START, _NAME, *(path for path in sys.path if path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.is_lost = False
        self._lock = Lock()
        self._sending = Lock()
        self._number = 0
        self._waiting: dict[int, queue.SimpleQueue[Mapping[str, Any] | None]] = {}
        self._notes: dict[str, list[str]] = {}
        self._send(orders)
        self._reader = Thread(target=self._read, name="proxy", daemon=True)
        self._reader.start()

    def ask(self, do: str, key: str, **more: object) -> Mapping[str, Any]:
        """Its answer to an order. Raises `ProxyLost`."""
        answers: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        with self._lock:
            if self.is_lost:
                raise _lost()
            self._number += 1
            number = self._number
            self._waiting[number] = answers
        try:
            self._send({"id": number, "do": do, "job": key, **more})
            answer = answers.get(timeout=_PATIENCE)
        except queue.Empty:
            # Whatever it waits for, no build is helped by it.
            self._process.kill()
            raise _lost() from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if answer is None:
            raise _lost()
        if "wrong" in answer:
            raise ProxyLost(f"The proxy of builds could not {do} a socket: {answer['wrong']}.")
        return answer

    def take_notes(self, key: str) -> list[str]:
        """What it noted of a job since the last call."""
        with self._lock:
            return self._notes.pop(key, [])

    def end(self) -> None:
        """Closes its input, by which it ends, and ends it if it does not."""
        assert self._process.stdin and self._process.stdout
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin
        try:
            with self._sending:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
        except (OSError, ValueError):
            raise _lost() from None

    def _read(self) -> None:
        assert self._process.stdout
        with suppress(OSError, ValueError):
            for line in self._process.stdout:
                message = json.loads(line)
                with self._lock:
                    if "note" in message:
                        notes = self._notes.setdefault(message["job"], [])
                        if len(notes) < _MOST_NOTES:
                            notes.append(str(message["note"]))
                        continue
                    answers = self._waiting.get(message["id"])
                if answers is not None:
                    answers.put(message)
        with self._lock:
            self.is_lost = True
            for answers in self._waiting.values():
                answers.put(None)


def _lost() -> ProxyLost:
    return ProxyLost("The proxy of builds ended while it was needed; trying again.")
