"""Databases as released versions of this program left them, to be opened by this one."""

import contextlib
import re
import sqlite3
from pathlib import Path

FOLDER = Path(__file__).parent
RELEASED = {int(re.sub(r"\D", "", path.stem)): path for path in FOLDER.glob("schema-*.sql")}
"""The dump of each schema, by its number."""

LEASED = 7
LAPSED = 9
EXPIRED = 1
PENDING = (10, 11, 12, 13)
"""Ids of jobs that every dump has."""


def restore(number: int, path: Path) -> Path:
    """A database of that schema at `path`, not yet opened by this program."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(RELEASED[number].read_text(encoding="utf-8"))
    return path


def rows(path: Path) -> dict[str, list[dict[str, object]]]:
    """Every row of every table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return {
            str(table): [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1")]
            for (table,) in tables
        }


def ask(path: Path, statement: str) -> list[tuple[object, ...]]:
    """What a statement answers on a connection of its own."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [tuple(row) for row in connection.execute(statement)]
