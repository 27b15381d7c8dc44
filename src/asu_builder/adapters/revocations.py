"""That an operator has taken answers back, known at once to every process that may remember them."""

import mmap
import os
from pathlib import Path

from asu_builder.domain.errors import Unavailable

_BYTES = 8


class Revocations:
    """A random number in a file beside the database, which each process has mapped into its memory.

    Whoever takes an answer back writes another number, after it has gone from the database; whoever
    remembers answers compares. That costs a tenth of a microsecond, no system call and no wait for a
    disk, so it can be done for each poll. The database itself would have to be asked, and its own
    counter of changes moves with every line of a build's log.
    """

    def __init__(self, database: Path) -> None:
        """`database` is the database's file. Raises `Unavailable`."""
        path = database.with_name(f"{database.name}-revoked")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < _BYTES:
                    # Written, not only made longer: on a full disk the first change of a hole is the end
                    # of the process.
                    os.pwrite(descriptor, bytes(_BYTES), 0)
                    _own_like(database, descriptor)
                self._mapped = mmap.mmap(descriptor, _BYTES)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"The file {path} cannot be written ({error}). The user who runs the service must be able to "
                "write to it, and to the directory of the database."
            ) from error

    def current(self) -> bytes:
        """Another value than before means that something was taken back since."""
        return self._mapped[:_BYTES]

    def note(self) -> None:
        """An answer was taken back."""
        self._mapped[:_BYTES] = os.urandom(_BYTES)


def _own_like(database: Path, descriptor: int) -> None:
    """Gives root's file to whom the database belongs, as SQLite does with those beside it."""
    if os.geteuid() == 0:
        facts = database.stat()
        os.fchown(descriptor, facts.st_uid, facts.st_gid)
    os.fchmod(descriptor, database.stat().st_mode & 0o666)
