"""A download server some of whose documents never come, until they are let go."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from asu_sample.server import DownloadServer


class HangingServer(DownloadServer):
    """Answers for paths that begin with one of those given to `hang` wait until `release`.

    `came` has the paths that were let through.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.came: list[str] = []
        self._hanging: tuple[str, ...] = ()
        self._changed = threading.Condition()

    def locate(self, path: str) -> Path | None:
        """See `DownloadServer.locate`."""
        with self._changed:
            self._changed.wait_for(lambda: not path.startswith(self._hanging), timeout=60)
        self.came.append(path)
        return super().locate(path)

    def hang(self, *beginnings: str) -> None:
        """From now on these do not come; those that hung and are not among them come."""
        with self._changed:
            self._hanging = beginnings
            self._changed.notify_all()

    def release(self) -> None:
        """Lets everything come."""
        self.hang()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        super().__exit__(kind, error, trace)
