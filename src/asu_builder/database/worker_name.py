"""A worker's name, held by an exclusive lock so that two live processes never share one."""

import os
from pathlib import Path

from asu_builder.domain.errors import Unavailable
from asu_builder.files import lock_alone

_TRIES = 64


class WorkerName:
    """Holds `wanted`, or `wanted-2`, `wanted-3` … when a living process has it already.

    The lock ends with the process, however it ends; the next holder of the name knows that its
    former holder is dead and takes that one's jobs at once.
    """

    def __init__(self, wanted: str, directory: Path) -> None:
        for number in range(1, _TRIES + 1):
            self.name = wanted if number == 1 else f"{wanted}-{number}"
            path = directory / f"worker-{self.name}.lock"
            try:
                # To be locked it need not be written: root may have made it for a command beside the service.
                descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise Unavailable(f"{path} cannot be written: {error.strerror}") from error
            if lock_alone(descriptor):
                self._descriptor: int | None = descriptor
                return
            os.close(descriptor)
        raise Unavailable(f"{_TRIES} processes already work as {wanted}; set another worker_id")

    def release(self) -> None:
        """Lets another process take the name; may be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
