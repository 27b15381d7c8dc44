"""The processes on one database: which of them has the lead."""

import os
import threading
from pathlib import Path

from asu_builder.domain.errors import Unavailable
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
