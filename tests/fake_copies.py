"""What nodes share, without a Redis."""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta


class FakeCopies:
    """What nodes tell each other, in a dict, for a minute."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.told: dict[str, bytes] = {}
        self.ends: dict[str, datetime] = {}
        self.found: Counter[tuple[str, str]] = Counter({("answer", "hit"): 0})

    def mark(self) -> int:
        return 0

    def get(self, name: str) -> bytes | None:
        content = self.told.get(name) if self._clock() < self.ends.get(name, self._clock()) else None
        self.found[name.partition(":")[0], "miss" if content is None else "hit"] += 1
        return content

    def put(self, name: str, content: bytes, *, since: int) -> None:
        self.told[name], self.ends[name] = content, self._clock() + timedelta(minutes=1)

    def forget(self, name: str) -> None:
        self.told.pop(name, None)

    def reads(self) -> Mapping[tuple[str, str], int]:
        return self.found
