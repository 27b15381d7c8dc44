"""What many hosts share, set up and taken away: two that answer, three that build, PostgreSQL and S3."""

import json
import os
import random
import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from asu_builder.settings import Settings
from asu_builder.store.bucket import Bucket
from chaos.ledger import Ledger
from chaos.links import Link
from chaos.servers import Disturbance, Server, Servers
from chaos.world import Surroundings, World, open_surroundings
from object_storage import S3, start_s3
from ports import free_port
from postgresql import PostgresServer

_ANSWERING, _BUILDING = 2, 3
_PLACE = "chaos"
_CONNECT_SECONDS = 5
_MEANT = re.compile(
    r"PostgreSQL|[Dd]atabase cannot be used|[Oo]bject storage|bucket|graceful shutdown exceeded$"
)
"""In lines about what was broken; a process that stops beside a database that hangs waits for nobody."""


class DatabaseServer(PostgresServer):
    """PostgreSQL on a port of loopback; it may be frozen."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        # As on a real server: what is committed is on the disk.
        super().__init__(folder, listen_addresses="127.0.0.1", port=str(self.port), fsync="on")

    def address(self, port: int = 0) -> str:
        """Its address, through a link where `port` is that link's."""
        return f"postgresql://asu@127.0.0.1:{port or self.port}/postgres?sslmode=disable"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement, past all links. Raises `psycopg.OperationalError`."""
        with psycopg.connect(
            self.address(), autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="chaos"
        ) as connection:
            return connection.execute(statement.encode()).fetchall()

    def signal(self, number: int) -> None:
        """To all of its processes."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        # The first one first: a frozen one starts no others.
        for pid in (first, *_children(first)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Node(Server):
    """A process of an installation whose rows are in PostgreSQL and whose files are in a bucket."""

    def __init__(
        self,
        place: Path,
        name: str,
        settings: Mapping[str, object],
        *,
        database_server: DatabaseServer,
        link: Link | None = None,
    ) -> None:
        """Through `link` it reaches the database; it only answers where there is none."""
        address = database_server.address(link.port if link else 0)
        super().__init__(place, name, {**settings, "worker_id": name, "database_url": address})
        self.link = link
        self._database_server = database_server
        if link:
            self.change(monitoring_port=self.port, worker_concurrent=1)
        self.program = ("-m", "asu_builder", *(("worker",) if link else ("serve", "--no-workers")))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """See the base."""
        return self._database_server.query(query)


class Nodes(Servers):
    """All processes; a client asks any of those that answer."""

    def __init__(self, nodes: Sequence[Node], bucket: Bucket) -> None:
        super().__init__(*nodes)
        self.answering = [node for node in nodes if node.link is None]
        self.building = [node for node in nodes if node.link is not None]
        self._bucket = bucket

    def asked(self) -> Server:
        """See the base."""
        return random.choice(self.answering)

    def start_again(self) -> Sequence[Server]:
        """See the base."""
        return self.every

    def _named(self) -> Mapping[str, tuple[str, Mapping[str, int], int]]:
        """By hash, what its newest result names: folder and sizes; and how many results there are."""
        found: dict[str, tuple[str, Mapping[str, int], int]] = {}
        rows = self.current.rows(
            "SELECT request_hash, document FROM build_results JOIN build_jobs ON id = job_id"
            " WHERE completed ORDER BY id"
        )
        for request_hash, document in rows:
            files = json.loads(document)["files"]
            count = found[request_hash][2] if request_hash in found else 0
            found[request_hash] = files["folder"], files["sizes"], count + 1
        return found

    def _objects(self) -> tuple[Mapping[str, Mapping[str, Mapping[str, int]]], set[str]]:
        """By hash and folder, the sizes of what is there; and which folders were taken back."""
        there: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        taken_back = set()
        for entry in self._bucket.list():
            parts = entry.key.split("/")
            if parts[0].startswith("."):
                taken_back.add("/".join(parts[1:]))
            else:
                there[parts[0]][parts[1]][parts[2]] = entry.size
        return there, taken_back

    def published(self) -> set[str]:
        """Hashes with whole files: all that their newest result names, or any where there is no result."""
        named = self._named()
        there, taken_back = self._objects()
        found = set()
        for request_hash, folders in there.items():
            if request_hash in named:
                folder, sizes, _ = named[request_hash]
                if folders.get(folder) == sizes:
                    found.add(request_hash)
            elif any(f"{request_hash}/{folder}" not in taken_back for folder in folders):
                found.add(request_hash)
        return found

    def leftovers(self) -> list[str]:
        """See the base."""
        return [left for node in self.every for left in node.leftovers()]

    def publication(self, request_hash: str) -> object:
        """See the base; also None while the database is broken."""
        try:
            found = self._named().get(request_hash)
        except psycopg.Error:
            return None
        return found and (found[0], found[2])


@dataclass(frozen=True)
class Cluster(World):
    """Processes on what they share; each part can be broken and healed."""

    nodes: Nodes
    """The same as `servers`."""
    database: DatabaseServer
    store: Link
    trouble: Disturbance
    """Of the database: whoever starts meanwhile may refuse to."""

    def heal(self) -> None:
        """See the base."""
        super().heal()
        self.store.become("fine")
        for node in self.nodes.building:
            assert node.link is not None
            node.link.become("fine")
        if not (self.database.folder / "data" / "postmaster.pid").exists():
            self.database.start()
        self.database.signal(signal.SIGCONT)

    def is_meant(self, line: str) -> bool:
        """See the base."""
        return bool(_MEANT.search(line))

    def may_refuse_to_start(self) -> bool:
        """See the base."""
        return self.trouble.was_disturbed()


@contextmanager
def open_cluster(*, job_timeout: int) -> Iterator[Cluster]:
    """A healthy installation of five processes. Whatever happens inside, nothing of it is left behind."""
    with ExitStack() as stack:
        around = stack.enter_context(open_surroundings())
        (around.place / "pg").mkdir()
        # PostgreSQL refuses root, and its user must be able to get there.
        around.place.chmod(0o755)
        database = DatabaseServer(around.place / "pg")
        database.make()
        database.start()
        stack.callback(_end, database)
        s3 = stack.enter_context(start_s3(around.place / "s3"))
        store = stack.enter_context(Link(s3.port))
        nodes = _nodes(stack, around, database, s3, store, job_timeout)
        stack.callback(nodes.end)
        for node in nodes.every:
            node.start()
        trouble = Disturbance()
        yield Cluster(around, job_timeout, nodes, Ledger(), nodes, database, store, trouble)


def _nodes(
    stack: ExitStack, around: Surroundings, database: DatabaseServer, s3: S3, store: Link, job_timeout: int
) -> Nodes:
    place = s3.place(_PLACE)
    bucket = Bucket(Settings(store_url=place, store_options=s3.options()))
    options = s3.options(endpoint=f"http://127.0.0.1:{store.port}")
    settings = {
        **around.settings,
        "job_timeout": f"{job_timeout}s",
        "store_url": place,
        "store_options": json.dumps(options),
    }
    answering = [
        Node(around.place, f"api{number}", settings, database_server=database)
        for number in range(1, _ANSWERING + 1)
    ]
    building = [
        Node(
            around.place,
            f"hut{number}",
            settings,
            database_server=database,
            link=stack.enter_context(Link(database.port)),
        )
        for number in range(1, _BUILDING + 1)
    ]
    return Nodes([*answering, *building], bucket)


def _end(database: DatabaseServer) -> None:
    if (database.folder / "data" / "postmaster.pid").exists():
        database.signal(signal.SIGCONT)
        database.stop()
