"""The processes on one database: who they are, and which of them has the lead."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from asu_builder.database.dialect import SqlDatabase
from asu_builder.database.rows import moment, span_micros
from asu_builder.domain.errors import Unavailable
from asu_builder.domain.nodes import LOST, Node, NodeFacts, Takes
from asu_builder.files import lock_alone


class FileLead:
    """Fulfils `ports.Lead` for the processes of one machine: a lock on a file beside the database.

    It ends with its process, however that ends, and the next round of another one takes it.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(f"{database.name}-lead")
        self._asking = threading.Lock()
        self._descriptor: int | None = None

    def held(self) -> bool:
        with self._asking:
            if self._descriptor is not None:
                return True
            try:
                # To be locked it need not be written: root may have made it for a command beside the service.
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise Unavailable(f"{self._path} cannot be opened: {error.strerror}") from error
            if lock_alone(descriptor):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
            return self._descriptor is not None

    def release(self) -> None:
        with self._asking:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


_REMEMBERED = timedelta(days=1)
_FACTS = msgspec.json.Decoder(NodeFacts)


def taken_by(takes: Takes) -> tuple[str, dict[str, object]]:
    """The condition for a job that a worker takes, and its values."""
    values: dict[str, object] = {"edition": takes.edition}
    names = {}
    for column, known in (("errata", takes.errata), ("rules", takes.rules)):
        given = {f"{column}{number}": value for number, value in enumerate(known)}
        values |= given
        names[column] = ", ".join(f":{name}" for name in given)
    condition = (
        f"(edition = 0 OR edition = :edition AND errata IN ({names['errata']})"
        f" AND rules IN ({names['rules']}))"
    )
    return condition, values


ALL_NODES = "SELECT name, facts, drained, seen_at FROM nodes ORDER BY name"


def to_nodes(rows: Iterable[Sequence[Any]], now: int) -> list[Node]:
    """What the rows of `ALL_NODES` say at a time of the database, in microseconds."""
    return [
        Node(
            name,
            _FACTS.decode(facts),
            bool(drained),
            moment(seen_at),
            lost=abs(now - seen_at) >= span_micros(LOST),
        )
        for name, facts, drained, seen_at in rows
    ]


class SqlNodes:
    """Fulfils `ports.Nodes`."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database

    def require_free(self, name: str, machine: str) -> None:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT seen_at FROM nodes WHERE name = ? AND machine <> ?", (name, machine)
            ).fetchone()
        if row is not None and abs(self._database.now() - int(row[0])) < span_micros(LOST):
            raise Unavailable(
                f"Another machine works on this database under the name {name}. Set another worker_id, or "
                f"wait {LOST.total_seconds():.0f} seconds where this machine has just replaced that one."
            )

    def renew(self, name: str, machine: str, life: str, facts: NodeFacts) -> bool:
        document = msgspec.json.encode(facts).decode()
        with self._database.timed(own_rows=True) as (connection, at):
            values = {"name": name, "machine": machine, "life": life, "facts": document, "at": at}
            kept = connection.execute(
                "INSERT INTO nodes (name, machine, life, facts, seen_at)"
                " VALUES (:name, :machine, :life, :facts, :at)"
                " ON CONFLICT (name) DO UPDATE SET machine = excluded.machine, life = excluded.life,"
                " facts = excluded.facts, seen_at = excluded.seen_at"
                " WHERE nodes.life = excluded.life OR nodes.machine = excluded.machine"
                " OR nodes.seen_at < :at - :lost OR nodes.seen_at > :at + :lost",
                {**values, "lost": span_micros(LOST)},
            )
            connection.execute(
                "DELETE FROM nodes WHERE NOT drained AND seen_at < ?", (at - span_micros(_REMEMBERED),)
            )
        return kept.rowcount == 1

    def leave(self, name: str, life: str) -> None:
        with self._database.writing(own_rows=True) as connection:
            connection.execute("DELETE FROM nodes WHERE name = ? AND life = ? AND NOT drained", (name, life))

    def all(self) -> Sequence[Node]:
        with self._database.reading() as connection:
            rows = connection.execute(ALL_NODES).fetchall()
        return to_nodes(rows, self._database.now())

    def drain(self, name: str, drained: bool) -> bool:
        with self._database.writing(durable=True) as connection:
            changed = connection.execute("UPDATE nodes SET drained = ? WHERE name = ?", (drained, name))
        if not drained:
            self._database.wakeups.notify_all()
        return changed.rowcount == 1

    def running(self, name: str) -> int:
        prefix = f"{name}/"
        with self._database.reading() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM build_jobs WHERE state = 'building' AND substr(worker, 1, ?) = ?",
                (len(prefix), prefix),
            ).fetchone()
        return int(count)


def machine_of(folder: Path) -> str:
    """The random name of the machine that this data directory lies on, made once. Raises `Unavailable`."""
    path = folder / "machine"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Under its name only when it is whole: another process may read it at any moment.
            with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=folder, prefix="machine-") as file:
                file.write(os.urandom(16).hex())
                file.flush()
                os.fchmod(file.fileno(), 0o644)  # root may make it for a command beside the service
                with contextlib.suppress(FileExistsError):
                    os.link(file.name, path)
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
