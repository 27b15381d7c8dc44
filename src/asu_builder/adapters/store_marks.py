"""The files by which an installation knows its store again, and what it has published there."""

import os
from collections.abc import Callable
from pathlib import Path

from asu_builder.adapters.durable import sync
from asu_builder.adapters.locks import ABSENT
from asu_builder.domain.errors import StoreUnavailable
from asu_builder.domain.request import REQUEST_HASH

_MARK = ".installation"
"""In each published directory: who has published it."""
_ROOT_MARK = ".store-of-"
"""In the store itself, with the installation's name behind it: several may share one store."""
_MISSING = (
    "The store's directory is not the one that results were put into; is its disk mounted? Nothing is built "
    "and nothing is forgotten until it is there again. If the results are really gone, "
    "`asu-builder gc --adopt-store` begins a new store."
)


class Marks:
    """Of one installation in one store. A disk that refuses raises `OSError`.

    A directory without the mark of the root is the store nevertheless where no result is known, or
    where something lies that this installation has published: then the mark is only not there yet.
    """

    def __init__(self, root: Path, *, installation: str, expects_results: Callable[[], bool]) -> None:
        """`expects_results` tells whether any result was ever put into the store and is not forgotten."""
        self._root = root
        self._name = installation
        self._mark = f"{installation}\n".encode()
        self._expects_results = expects_results
        self.missing = ""
        """Why the directory is not the store, as last seen; "" while it is."""

    def put_on(self, directory: Path) -> None:
        """Says that this installation publishes the directory; synced."""
        _write(directory / _MARK, self._mark)

    def is_on(self, directory: Path) -> bool:
        """Whether this installation has published the directory."""
        try:
            return not directory.is_symlink() and (directory / _MARK).read_bytes() == self._mark
        except (*ABSENT, IsADirectoryError):
            return False

    def require_root(self) -> None:
        """Raises `StoreUnavailable` where results were put into another directory than this one.

        One system call where the mark is there. The root is marked only when something is published,
        never in passing: a mount point that was seen without its disk must not bear the mark.
        """
        if not self._root_is_marked() and self._expects_results():
            if not self._has_published():
                self.missing = _MISSING
                raise StoreUnavailable(_MISSING)
            self.put_on_root()
        self.missing = ""

    def put_on_root(self) -> None:
        """Says that the results of this installation lie here; synced but for the root's own entry."""
        if not self._root_is_marked():
            _write(self._root_mark, self._mark)

    @property
    def _root_mark(self) -> Path:
        return self._root / f"{_ROOT_MARK}{self._name}"

    def _root_is_marked(self) -> bool:
        try:
            self._root_mark.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _has_published(self) -> bool:
        try:
            with os.scandir(self._root) as entries:
                return any(
                    REQUEST_HASH.fullmatch(entry.name) and self.is_on(Path(entry.path)) for entry in entries
                )
        except (FileNotFoundError, NotADirectoryError):
            return False


def _write(path: Path, mark: bytes) -> None:
    path.write_bytes(mark)
    path.chmod(0o644)
    sync(path)
