"""One text of each statement for both databases: what SQLite is told, made into what PostgreSQL is told.

A statement is written for SQLite, with `?` or `:name` for values. It may use what `migrations/postgresql`
gives PostgreSQL under SQLite's names: `min` and `max` of two whole numbers (NULL when either is NULL),
`json_each` and `json_extract` of a text, `instr`, `group_concat`. It must write `TRUE` and `FALSE`,
`WHERE TRUE`, a name for each subquery in FROM, the table before one of its columns in ON CONFLICT, and no
`IS NOT` between two columns. What PostgreSQL alone is to read stands in a comment:
`/*postgresql FOR UPDATE SKIP LOCKED*/`.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from asu_builder.domain.health import CheckResult

if TYPE_CHECKING:
    from asu_builder.database.connection import Wakeups

T = TypeVar("T")
Values = Sequence[Any] | Mapping[str, Any]


class Rows(Protocol):
    """What a statement has found or changed."""

    @property
    def rowcount(self) -> int:
        """How many rows it has changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What a statement is given to: SQLite's own connection, or one to PostgreSQL that translates."""

    def execute(self, statement: str, values: Values = ..., /) -> Rows:
        """Runs one statement."""

    def executemany(self, statement: str, values: Iterable[Values], /) -> Rows:
        """Runs it once for each; sorted, or two writers of the same rows wait for each other."""


class SqlDatabase(Protocol):
    """What the adapters need of a database. `connection.Database` says what each method promises.

    `own_rows` is said of a transaction that carries a lease or only adds: no one's order depends on it, so on
    PostgreSQL it waits for no other one (docs/decisions/two-kinds-of-transaction.md).
    """

    wakeups: "Wakeups"
    was_cut_off: bool
    overwrites_deleted: bool
    """Whether no file keeps what was deleted; else no secret is stored as it is."""

    def reading(self, *, snapshot: bool = False) -> AbstractContextManager[Connection]:
        """A connection that refuses to write."""

    def writing(self, *, durable: bool = False, own_rows: bool = False) -> AbstractContextManager[Connection]:
        """One transaction."""

    def timed(
        self, *, durable: bool = False, own_rows: bool = False, polled: bool = False
    ) -> AbstractContextManager[tuple[Connection, int]]:
        """One transaction, and the database's time in it."""

    def repeated(self, body: Callable[[Connection, int], T], *, own_rows: bool = False) -> T:
        """A durable transaction that may be run twice, because it finds what it has done before."""

    def peek(self, statement: str, values: Mapping[str, object] | None = None) -> Any:
        """The first row of one short look that never waits; raises `Unavailable` where it would."""

    def changes(self) -> int:
        """Another number than before once any process has committed anything; never waits."""

    def now(self) -> int:
        """The database's time in microseconds since 1970."""

    def installation(self) -> str:
        """The random name of this installation."""

    def fold(self) -> bool:
        """Leaves nothing of what was deleted in a log, as far as the database can."""

    def check(self) -> CheckResult:
        """Whether it answers and takes writes."""

    def disk_is_full(self) -> bool:
        """Whether this host can tell that nothing can be written any more."""

    def verify(self) -> CheckResult:
        """Whether it is sound throughout, where that is ours to ask."""

    def stop_verifying(self) -> None:
        """Cuts a verification off."""

    def close(self) -> None:
        """Ends every connection."""


def make_installation(database: SqlDatabase) -> str:
    """The random name of this installation, which marks its containers; made once, by the first process."""
    with database.writing() as connection:
        row = connection.execute("SELECT id FROM installation").fetchone()
        if row is None:
            row = (os.urandom(16).hex(),)
            connection.execute("INSERT INTO installation (id) VALUES (?)", row)
    return str(row[0])


_TOKEN = (
    r"'(?:[^']|'')*'"  # text, in which only the per cent sign is one
    r"|/\*postgresql (?P<own>.*?)\*/"
    r"|::"  # a cast, no value
    r"|:(?P<name>[a-z_][a-z_0-9]*)"
    r"|\?|%"
)


@lru_cache(maxsize=512)
def translate(statement: str) -> str:
    """The statement as psycopg wants it: `%s` and `%(name)s` for values, and PostgreSQL's own clauses."""
    return re.sub(_TOKEN, _translated, statement, flags=re.DOTALL)


def _translated(token: re.Match[str]) -> str:
    if token["name"]:
        return f"%({token['name']})s"
    if token["own"]:
        return token["own"]
    text = token[0]
    return "%s" if text == "?" else text.replace("%", "%%")
