"""Which package indexes lack a feed that could not be read: told by the log, once, and by the health."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

_log = logging.getLogger(__name__)

_BELIEVED_SECONDS = 900.0
"""An index that nothing asks for any more says nothing about how upstream is now."""
_MOST = 256
_SHOWN = 3


class Incomplete:
    """The indexes as they were last made; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, tuple[tuple[str, ...], float]] = OrderedDict()

    def note(self, index: str, lacking: tuple[str, ...]) -> None:
        """An index was made, without these feeds."""
        with self._lock:
            former, _ = self._indexes.pop(index, ((), 0.0))
            if lacking:
                self._indexes[index] = (lacking, self._clock())
                while len(self._indexes) > _MOST:
                    self._indexes.popitem(last=False)
        if lacking and lacking != former:
            _log.warning("%s: made without feeds that cannot be read: %s", index, ", ".join(lacking))

    def sentence(self) -> str:
        """Which indexes lack what, in a sentence; "" when none does."""
        oldest = self._clock() - _BELIEVED_SECONDS
        with self._lock:
            lacking = {index: feeds for index, (feeds, noted) in self._indexes.items() if noted > oldest}
        if not lacking:
            return ""
        named = "; ".join(f"{index} ({', '.join(feeds)})" for index, feeds in list(lacking.items())[:_SHOWN])
        more = f"; and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        return f"Package indexes lack feeds that the download server does not deliver: {named}{more}."
