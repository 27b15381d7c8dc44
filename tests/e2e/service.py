"""The service as an operator runs it: a process of its own, reached over HTTP and signals only."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from factories import eventually

FINAL = (200, 500)
"""What a poll answers when nothing changes any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, wholly read."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers.get("content-type") == "application/json", (self.headers, self.body[:300])
        return json.loads(self.body)


class Client:
    """One keep-alive connection; not to be shared by threads."""

    def __init__(self, port: int, *, timeout: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request; a connection that the server has closed meanwhile is opened again."""
        try:
            return self._ask(method, target, body, headers or {})
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self._connection.close()
            return self._ask(method, target, body, headers or {})

    def _ask(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            self._connection.request(method, target, body=body, headers=dict(headers))
            with self._connection.getresponse() as answer:
                text = answer.read()
                lowered = {name.lower(): value for name, value in answer.getheaders()}
                return Answer(answer.status, lowered, text)
        except http.client.HTTPException:
            self._connection.close()
            raise

    def get(self, target: str) -> Answer:
        """A GET."""
        return self.ask("GET", target)

    def head(self, target: str) -> Answer:
        """A HEAD."""
        return self.ask("HEAD", target)

    def post(self, document: object) -> Answer:
        """A POST of a build request."""
        body = json.dumps(document).encode()
        return self.ask("POST", "/api/v1/build", body, {"Content-Type": "application/json"})

    def post_patiently(self, document: object) -> Answer:
        """A POST that comes back when the service asks for it: upstream was never asked for this before."""
        seen: list[Answer] = []

        def post() -> bool:
            seen[:] = [self.post(document)]
            return seen[0].status != 503

        eventually(post, seconds=20)
        return seen[0]

    def look(self, request_hash: str) -> Answer:
        """A poll."""
        return self.get(f"/api/v1/build/{request_hash}")

    def wait(self, request_hash: str, *, seconds: float = 60.0) -> Answer:
        """Polls until the build is over; fails when it is not within `seconds`."""
        return self.wait_until(request_hash, lambda answer: answer.status in FINAL, seconds=seconds)

    def wait_until(
        self, request_hash: str, holds: Callable[[Answer], bool], *, seconds: float = 60.0
    ) -> Answer:
        """Polls until an answer is as wanted, and returns it."""
        seen: list[Answer] = []

        def look() -> bool:
            seen[:] = [self.look(request_hash)]
            return holds(seen[0])

        assert eventually(look, seconds=seconds), f"still {seen[0].status}: {seen[0].body[:500]!r}"
        return seen[0]

    def build(self, document: object, *, seconds: float = 60.0) -> Answer:
        """Asks for a build and waits for its end."""
        answer = self.post_patiently(document)
        assert answer.status in (202, *FINAL), answer.body
        return self.wait(answer.json["request_hash"], seconds=seconds)

    def started(self, document: object, stage: str = "building_image") -> str:
        """Asks for a build, waits until it has reached a stage; its hash."""
        request_hash = str(self.post_patiently(document).json["request_hash"])
        self.wait_until(request_hash, lambda answer: answer.json.get("imagebuilder_status") == stage)
        return request_hash


class Service:
    """`python -m asu_builder serve` in a directory of its own, on a port of its own.

    It may be started, stopped and killed many times: database and store stay.
    """

    def __init__(self, directory: Path, settings: Mapping[str, object], *, below: Sequence[str] = ()) -> None:
        """`settings` are named as in `Settings`; `below` is a command that runs the service's command."""
        self.directory = directory
        self.store = directory / "public" / "store"
        self.database = directory / "data" / "asu-builder.db"
        self.log = directory / "service.log"
        self.port = free_port()
        self._settings: dict[str, object] = {
            "server_port": self.port,
            "database_path": self.database,
            "public_path": directory / "public",
            "worker_id": "e2e",
            # All tests come from one address.
            "new_builds_limit": "",
            "shutdown_grace": "1s",
            **settings,
        }
        self._below = list(below)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Returns when the port answers."""
        self.launch()
        assert eventually(self._answers, seconds=20), self.stderr()
        return self

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
        environment |= {f"ASU_{name.upper()}": str(value) for name, value in self._settings.items()}
        # No container engine of this machine, no settings of this user.
        environment["HOME"] = environment["XDG_RUNTIME_DIR"] = str(self.directory)
        environment.pop("CONTAINER_HOST", None)
        command = [*self._below, sys.executable, "-m", "asu_builder", "serve"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self.directory, stdout=log, stderr=log
            )

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.stderr()
        try:
            with self.client() as client:
                return client.get("/health").status in (200, 503)
        except OSError:
            return False

    def kill(self) -> None:
        """As a crash or the kernel would end it."""
        self._signal(signal.SIGKILL)
        self.wait()

    def stop(self, *, seconds: float = 15.0) -> int:
        """Asks it to stop, as systemd does; its exit status."""
        self._signal(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def wait(self, *, seconds: float = 15.0) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        status = self._process.wait(seconds)
        self._process = None
        return status

    def end(self) -> None:
        """Leaves no process behind, whatever the test has done."""
        if self._process is None:
            return
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        if self._below:
            # The service is the child of the command it runs below, and the one to be signalled.
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            os.kill(int(children[0]), number)
        else:
            self._process.send_signal(number)

    def client(self, *, timeout: float = 30.0) -> Client:
        """A new connection, opened when it is first used."""
        return Client(self.port, timeout=timeout)

    def settings(self, **changes: object) -> dict[str, object]:
        """These settings with some changed, for another process beside or after this one."""
        return {**self._settings, **changes}

    def change(self, **changes: object) -> None:
        """Settings for the next start."""
        self._settings |= changes

    def stderr(self) -> str:
        """Everything its processes have printed."""
        return self.log.read_text(errors="replace")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database file holds, read beside the service."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(query).fetchall()

    def published(self) -> list[str]:
        """Names of the published directories."""
        return sorted(path.name for path in self.store.iterdir() if not path.name.startswith("."))

    def leftovers(self) -> list[str]:
        """Scratch directories of the store and copies of ImageBuilders."""
        builds = self.database.parent / "builds"
        copies = [path.name for path in builds.glob("asu-*")] if builds.is_dir() else []
        return [*(path.name for path in self.store.glob(".scratch-*")), *copies]


def run(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with the service's settings."""
    settings = {f"ASU_{name.upper()}": str(value) for name, value in service.settings().items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    return subprocess.run(
        [sys.executable, "-m", "asu_builder", *arguments],
        env={**environment, **settings, "HOME": str(service.directory)},
        cwd=service.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def free_port() -> int:
    """A port on which nobody listens now.

    Not of the range from which the kernel gives ports to whoever connects: a service that is down
    for a moment finds its own again.
    """
    for port in random.Random().sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("a hundred ports are all in use")
