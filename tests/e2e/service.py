"""The service as an operator runs it: a process of its own, reached over HTTP and signals only."""

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asu_builder.domain.access import digest_of
from e2e.forked import Forked, run_forked
from factories import eventually
from ports import free_port

FINAL = (200, 500)
"""What a poll answers when nothing changes any more."""
TESTS = str(Path(__file__).resolve().parents[1])
PATIENCE = 240.0
"""Seconds that a test waits for a build or an end, at most: many times what it takes on a slow machine."""
_STAGES = ("container_setup", "validate_revision", "validate_manifest", "building_image", "signing_images")
_FIRST_TIME = (b"is being fetched", b"are being read from the download server")
"""In the sentence of a 503 for what upstream was never asked for."""
READ_SECRET = "secret of who may read"
READ_TOKENS = json.dumps([{"name": "reader", "digest": digest_of(READ_SECRET), "rights": ["read"]}])
"""The setting `api_tokens` of a service whose health is to be read with its details."""
_LOG_END = 4000
"""Characters of the log's end that a failure shows."""


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


def _is_asked_for_the_first_time(answer: Answer) -> bool:
    return answer.status == 503 and any(words in answer.body for words in _FIRST_TIME)


def _while(refused: Callable[[Answer], bool], ask: Callable[[], Answer]) -> Answer:
    """The first answer that is no refusal; the last refusal, when there are only such."""
    seen: list[Answer] = []

    def is_answered() -> bool:
        seen[:] = [ask()]
        return not refused(seen[0])

    eventually(is_answered)
    return seen[0]


class Client:
    """One keep-alive connection; not to be shared by threads."""

    def __init__(self, port: int, *, timeout: float = PATIENCE, log: Callable[[], str] = lambda: "") -> None:
        """`log` is what the service has printed, of which a failure shows the end."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._log = log

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
        """A GET that comes back while upstream is asked for the first time, as clients do."""
        return _while(_is_asked_for_the_first_time, lambda: self.ask("GET", target))

    def health(self) -> Any:
        """The health document with the sentences for operators; the service must have `READ_TOKENS`."""
        return self.ask("GET", "/health", headers={"Authorization": f"Bearer {READ_SECRET}"}).json

    def head(self, target: str) -> Answer:
        """A HEAD."""
        return self.ask("HEAD", target)

    def post_once(self, document: object) -> Answer:
        """A POST of a build request, whatever is answered."""
        body = json.dumps(document).encode()
        return self.ask("POST", "/api/v1/build", body, {"Content-Type": "application/json"})

    def post(self, document: object) -> Answer:
        """A POST that comes back while upstream is asked for the first time, as clients do."""
        return _while(_is_asked_for_the_first_time, lambda: self.post_once(document))

    def post_patiently(self, document: object) -> Answer:
        """A POST that comes back as long as the service is unavailable, whatever for."""
        return _while(lambda answer: answer.status == 503, lambda: self.post_once(document))

    def look(self, request_hash: str) -> Answer:
        """A poll."""
        return self.get(f"/api/v1/build/{request_hash}")

    def wait(self, request_hash: str, *, seconds: float = PATIENCE) -> Answer:
        """Polls until the build is over; fails when it is not within `seconds`."""
        return self.wait_until(request_hash, lambda answer: answer.status in FINAL, seconds=seconds)

    def wait_until(
        self, request_hash: str, holds: Callable[[Answer], bool], *, seconds: float = PATIENCE
    ) -> Answer:
        """Polls until an answer is as wanted, and returns it; a failure shows health and the log's end."""
        seen: list[Answer] = []

        def look() -> bool:
            seen[:] = [self.look(request_hash)]
            return holds(seen[0])

        assert eventually(look, seconds=seconds), self.situation(
            f"after {seconds:g} seconds still {seen[0].status}: {seen[0].body[:500]!r}"
        )
        return seen[0]

    def situation(self, failure: str) -> str:
        """What somebody needs to see why a test has failed: the answer, the health, the log's end."""
        try:
            health = self.get("/health").body.decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            health = f"no answer: {error!r}"
        return f"{failure}\n/health: {health}\nthe log's end:\n{self._log()[-_LOG_END:]}"

    def build(self, document: object, *, seconds: float = PATIENCE) -> Answer:
        """Asks for a build and waits for its end."""
        answer = self.post_patiently(document)
        assert answer.status in (202, *FINAL), self.situation(f"{answer.status}: {answer.body[:500]!r}")
        return self.wait(answer.json["request_hash"], seconds=seconds)

    def started(self, document: object, stage: str = "building_image") -> str:
        """Asks for a build, waits until it has reached a stage and is not over; its hash.

        A poll may come too late to see it in that very stage.
        """
        request_hash = str(self.post_patiently(document).json["request_hash"])
        reached = _STAGES[_STAGES.index(stage) :]
        answer = self.wait_until(
            request_hash,
            lambda answer: answer.status in FINAL or answer.json.get("imagebuilder_status") in reached,
        )
        assert answer.status not in FINAL, self.situation(f"over already: {answer.body[:500]!r}")
        return request_hash


class Service:
    """`python -m asu_builder serve` in a directory of its own, on a port of its own.

    Its rounds of background work come sooner than an operator's.
    It may be started, stopped and killed many times: database and store stay.
    """

    program: Sequence[str] = ("-m", "e2e.quick_rounds")

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
        self._process: subprocess.Popen[bytes] | Forked | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Returns when the port answers."""
        self.launch()
        assert eventually(self._answers), self.stderr()
        return self

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
        environment |= {f"ASU_{name.upper()}": str(value) for name, value in self._settings.items()}
        # No container engine of this machine, no settings of this user.
        environment["HOME"] = environment["XDG_RUNTIME_DIR"] = str(self.directory)
        environment.pop("CONTAINER_HOST", None)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (TESTS, environment.get("PYTHONPATH"))))
        _, module, *arguments = self.program
        if not self._below and module != "asu_builder":
            self._process = Forked(
                module, *arguments, environment=environment, directory=self.directory, log=self.log
            )
            return
        # As an operator starts it: from nothing.
        command = [*self._below, sys.executable, *self.program]
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

    def stop(self, *, seconds: float = PATIENCE) -> int:
        """Asks it to stop, as systemd does; its exit status."""
        self._signal(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def wait(self, *, seconds: float = PATIENCE) -> int:
        """Its exit status, once it has ended; a failure shows where its threads are and the log's end."""
        assert self._process is not None
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            error.add_note(f"its threads:\n{self._threads()}\nthe log's end:\n{self.stderr()[-_LOG_END:]}")
            raise
        self._process = None
        return status

    def _threads(self) -> str:
        """What each thread of the process is called and waits in, as the kernel tells it."""
        lines = []
        for thread in Path(f"/proc/{self.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                parts = [(thread / name).read_text().strip() for name in ("comm", "wchan")]
                lines.append(" ".join((thread.name, *parts)))
        return "\n".join(lines)

    def end(self) -> None:
        """Leaves no process behind, whatever the test has done."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)  # a test that failed may have left it frozen
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

    def client(self, *, timeout: float = PATIENCE) -> Client:
        """A new connection, opened when it is first used."""
        return Client(self.port, timeout=timeout, log=self.stderr)

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
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)) as connection:
            return connection.execute(query).fetchall()

    def pass_time(self, span: timedelta) -> None:
        """Lets every finished job be older."""
        with closing(sqlite3.connect(self.database, timeout=60, isolation_level=None)) as connection:
            connection.execute(
                "UPDATE build_jobs SET finished_at = finished_at - ?", (round(span.total_seconds() * 1e6),)
            )

    def published(self) -> list[str]:
        """Names of the published directories."""
        return sorted(path.name for path in self.store.iterdir() if not path.name.startswith("."))

    def leftovers(self) -> list[str]:
        """Scratch directories of the store and copies of ImageBuilders."""
        builds = self.database.parent / "builds"
        copies = [path.name for path in builds.glob("asu-*")] if builds.is_dir() else []
        return [*(path.name for path in self.store.rglob(".scratch-*")), *copies]


@contextlib.contextmanager
def inherited(number: signal.Signals, disposition: signal.Handlers) -> Iterator[None]:
    """What is started inside begins with this disposition of a signal, whatever started the tests.

    Below `nohup` a process ignores SIGHUP, in a shell's background SIGINT, and so does all that it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(number, disposition)
    try:
        yield
    finally:
        signal.signal(number, former)


def run(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with the service's settings."""
    settings = {f"ASU_{name.upper()}": str(value) for name, value in service.settings().items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASU_")}
    return run_forked(
        "asu_builder",
        *arguments,
        environment={**environment, **settings, "HOME": str(service.directory)},
        directory=service.directory,
        seconds=PATIENCE,
    )
