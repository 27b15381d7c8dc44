"""A PostgreSQL server of the run's own, on a socket file: one for all workers, ended with the run.

It lies in the run's folder, and its processes name it, so the run's watcher ends it however the run ends. Its
language is not C, so that a comparison of text that ought to go by bytes is seen to go by words.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from asu_builder.database.connection import Database
from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.postgresql import ServerDatabase
from asu_builder.database.postgresql_schema import MIGRATIONS
from database_clock import CLOCK
from tools import require_tool, tool_missing

KINDS = ("sqlite", "postgresql")
_PROGRAMS = Path("/usr/lib/postgresql")
_USER = "asu"
_TABLES = len(re.findall(r"^CREATE TABLE", "".join(map(Path.read_text, MIGRATIONS.glob("*.sql"))), re.M)) - 2
"""That tests fill: all but two."""
_QUICK = {
    "listen_addresses": "''",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


class PostgresServer:
    """A server below `folder`, that another user runs where this one is root: PostgreSQL refuses root."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self._options = {**_QUICK, **options}
        found = sorted(_PROGRAMS.glob("*/bin"), key=lambda path: float(path.parent.name))
        if not found:
            tool_missing("postgresql", "no /usr/lib/postgresql/*/bin is there")
        self.programs = found[-1]

    def url(self, database: str = "postgres", *, schema: str = "", user: str = _USER) -> str:
        """The address of one of its databases."""
        options = f"&options={quote(f'-csearch_path={schema}')}" if schema else ""
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder), safe='')}{options}"

    def make(self) -> None:
        """A new, empty server, not started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
        self._run(
            *(self.programs / "initdb", "--pgdata", self.folder / "data", "--username", _USER),
            *("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=icu", "--icu-locale=en"),
        )

    def start(self) -> None:
        """Returns when it takes connections."""
        options = " ".join(f"-c {name}={value}" for name, value in self._options.items())
        log = self.folder / "log"
        self._control("start", "--log", log, "--options", f"-k {self.folder} {options}")

    def stop(self, mode: str = "immediate") -> None:
        """Ends it: `immediate` as a crash does, `fast` in order."""
        self._control("stop", "--mode", mode)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All its processes stand still, and its connections stay open."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(first, signal.SIGSTOP)  # so that it starts no other
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        pids = [first, *map(int, children)]
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def copy_to(self, standby: "PostgresServer") -> None:
        """Makes another server that follows this one."""
        standby.folder.mkdir()
        if os.geteuid() == 0:
            shutil.chown(standby.folder, "nobody")
        source = f"host={self.folder} user={_USER}"
        target = (
            "--pgdata",
            standby.folder / "data",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        self._run(self.programs / "pg_basebackup", "--dbname", source, *target)

    def require_passwords(self) -> None:
        """From now on nobody is let in without one."""
        (self.folder / "data" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
        self._control("reload")

    def _control(self, act: str, *options: object) -> None:
        waiting = () if act == "reload" else ("--wait",)
        data = self.folder / "data"
        self._run(self.programs / "pg_ctl", act, *waiting, "--silent", "--pgdata", data, *options)

    def _run(self, *command: object) -> None:
        other = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        )
        done = subprocess.run(
            [*other, *map(str, command)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout}")


@cache
def shared_server() -> PostgresServer:
    """The one of this run, started by the first who asks."""
    require_tool("postgresql", "setpriv")
    server = PostgresServer(Path(tempfile.gettempdir()) / "pg")
    with (Path(tempfile.gettempdir()) / "pg.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (server.folder / "data" / "postmaster.pid").exists():
            server.make()
            server.start()
    return server


@cache
def _schema() -> tuple[str, psycopg.Connection[tuple[str]]]:
    """A schema of this process's own, and a connection that empties it."""
    name = f"w{os.getpid()}"
    connection = psycopg.connect(shared_server().url(), autocommit=True)
    connection.execute(f"CREATE SCHEMA {name}")
    connection.execute(f"SET search_path = {name}")
    return name, connection


def empty_place() -> str:
    """The address of an empty PostgreSQL database; the same for each test of a process, emptied."""
    name, connection = _schema()
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (name,)).fetchall()
    emptied = sorted(table for (table,) in tables if table not in ("schema_numbers", "stored_images"))
    if len(emptied) >= _TABLES:
        names = ", ".join(emptied)
        connection.execute(f"TRUNCATE {names} RESTART IDENTITY; UPDATE stored_images SET bytes = 0")
    elif emptied:  # a test has taken some away
        connection.execute(f"DROP SCHEMA {name} CASCADE; CREATE SCHEMA {name}")
    return shared_server().url(schema=name)


def place_of(kind: str, tmp_path: Path) -> str:
    """Where an empty database of this kind lies: a path or an address."""
    return str(tmp_path / "queue.db") if kind == "sqlite" else empty_place()


def opened(place: str, *, clock: Callable[[], datetime] = CLOCK) -> SqlDatabase:
    """The database there, by the tests' clock."""
    if place.startswith("postgresql:"):
        return ServerDatabase(place, clock=clock)
    return Database(Path(place), clock=clock)


on_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
"""Marks what is SQLite's alone: a server's clock does not leap, and its file is not ours."""


unit_on_sqlite = pytest.mark.parametrize("unit_place", ["sqlite"], indirect=True)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the database of a test lies, of either kind."""
    return place_of(request.param, tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.process)])
def unit_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same for unit tests, which start no process unless they are marked."""
    return place_of(request.param, tmp_path)


@pytest.fixture
def database(place: str) -> Iterator[SqlDatabase]:
    """A fresh database of either kind."""
    database = opened(place)
    yield database
    database.close()
