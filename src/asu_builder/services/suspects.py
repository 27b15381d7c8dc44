"""Jobs on which a part of the world fails again and again, while it serves others."""

from threading import Lock

from msgspec import Struct
from msgspec.structs import replace

_REMEMBERED = 1000
"""Jobs; those that are cancelled while they wait are never heard of again."""


class Suspicion(Struct, frozen=True):
    """What speaks against a job: how often it failed, and how often of these `alone`.

    Alone means that another build ended well since the failure before.
    """

    times: int = 0
    alone: int = 0
    others_built: int = -1
    """How many builds of others had ended well at the latest failure."""


class Suspects:
    """Counts per job, in memory: a start counts anew. Every thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._built = 0
        self._suspicions: dict[int, Suspicion] = {}

    def failed(self, job_id: int) -> Suspicion:
        """A part failed while it was needed for this job; what that amounts to."""
        with self._lock:
            former = self._suspicions.pop(job_id, Suspicion())
            alone = former.alone + (self._built > former.others_built)
            found = replace(former, times=former.times + 1, alone=alone, others_built=self._built)
            self._suspicions[job_id] = found
            if len(self._suspicions) > _REMEMBERED:
                del self._suspicions[next(iter(self._suspicions))]
            return found

    def ended(self, job_id: int, *, well: bool) -> None:
        """The job has its outcome; one that went well speaks for the world, and against the others."""
        with self._lock:
            self._suspicions.pop(job_id, None)
            self._built += well
