"""Containers that stand started before a build asks for one. Each is used once, by one build."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from threading import Lock

from msgspec import Struct

from asu_builder.domain.errors import EngineUnavailable
from asu_builder.engines.podman.calls import ContainerCalls, ContainerGone
from asu_builder.engines.podman.images import Image
from asu_builder.engines.way_out import WayOut

log = logging.getLogger(__name__)

STANDS_FOR = timedelta(minutes=30)
"""How long one waits for a build before another takes its place."""


class Standing(Struct, frozen=True):
    """A container that has started, and in which nothing was run."""

    calls: ContainerCalls
    way_out: WayOut
    image: Image
    environment: dict[str, str]
    ends: ExitStack
    """Ends and removes it when it is closed."""
    until: float
    """In seconds of the clock."""


class WarmContainers:
    """Those that stand; every thread may use it."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._lock = Lock()
        self._standing: list[Standing] = []
        self._closed = False

    def take(self, image: Image) -> Standing | None:
        """One of this very image, no longer ours; None where none stands that lives.

        Raises `EngineUnavailable`.
        """
        while True:
            with self._lock:
                fitting = (it for it in self._standing if it.image.id == image.id)
                found = next((it for it in fitting if self._clock() < it.until), None)
                if found is None:
                    return None
                self._standing.remove(found)
            if _runs(found):
                return found
            found.ends.close()

    def fill(self, wanted: Sequence[Image], stand: Callable[[Image], Standing]) -> int:
        """Ends what is too old or not `wanted`, and starts what lacks; how many stand then.

        An image stands in `wanted` as often as containers of it are to stand. Raises what `stand` raises.
        """
        lacking = Counter({image.id: 0 for image in wanted})
        lacking.update(image.id for image in wanted)
        with self._lock:
            kept: list[Standing] = []
            going: list[Standing] = []
            for it in self._standing:
                is_wanted = lacking[it.image.id] > 0 and self._clock() < it.until
                (kept if is_wanted else going).append(it)
                lacking[it.image.id] -= is_wanted
            self._standing = kept
        for it in going:
            it.ends.close()
        for image in wanted:
            if lacking[image.id] > 0:
                lacking[image.id] -= 1
                started = stand(image)
                with self._lock:
                    if not self._closed:
                        self._standing.append(started)
                        continue
                started.ends.close()
        with self._lock:
            return len(self._standing)

    def close(self) -> None:
        """Ends all, and those that are being started."""
        with self._lock:
            self._closed = True
            going, self._standing = self._standing, []
        for it in going:
            it.ends.close()


def _runs(standing: Standing) -> bool:
    """Somebody may have ended or removed it, or its way out. Raises `EngineUnavailable`."""
    try:
        return standing.way_out.holds and bool((standing.calls.inspect().get("State") or {}).get("Running"))
    except ContainerGone:
        return False
    except EngineUnavailable:
        standing.ends.close()
        raise
