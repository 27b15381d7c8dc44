"""What one node has made and others may read for a minute: final answers, and what upstream has confirmed."""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable

from asu_builder.domain.errors import AsuError
from asu_builder.shared.redis import RedisFailed, SharedRedis

_log = logging.getLogger(__name__)

LIFE_SECONDS = 60
"""How long a copy lies there at most."""
_LARGEST = 1 << 20
_MOST_PURGED = 10_000
_AT_ONCE = 500
_AHEAD_SECONDS = 5
"""How far the clocks of two nodes may differ that both follow the database's."""
_SEAL = 16
_STAMP = 8
_LONGEST_KEY = 64
"""Bytes of a key of BLAKE2b."""


class RedisCopies:
    """Fulfils `ports.SharedCopies` in Redis.

    Each copy bears a seal over its name, the time and its bytes, made with what nodes know and Redis does
    not: what another program writes there is never read. Why so:
    docs/decisions/what-is-shared-may-be-lost.md. For any thread but the event loop's; `forget` for that too.
    """

    def __init__(self, redis: SharedRedis, secret: str, *, now: Callable[[], int]) -> None:
        """`secret` is known to all nodes; `now` is the time that they agree on, in microseconds."""
        self._redis = redis
        self._secret = secret.encode()[:_LONGEST_KEY]
        self._now = now
        self._lock = threading.Lock()
        self._forgotten = 0
        self._unpurged: OrderedDict[str, None] = OrderedDict()
        """Names that are to be deleted before anything else is asked."""
        self._reads: Counter[tuple[str, str]] = Counter(
            {(what, found): 0 for what in ("answer", "document") for found in ("hit", "miss", "failed")}
        )

    def mark(self) -> int:
        return self._forgotten

    def get(self, name: str) -> bytes | None:
        what = name.partition(":")[0]
        try:
            content = self._get(name)
        except (RedisFailed, AsuError):
            self._count(what, "failed")
            return None
        self._count(what, "miss" if content is None else "hit")
        return content

    def put(self, name: str, content: bytes, *, since: int) -> None:
        if len(content) > _LARGEST:
            return
        try:
            if since != self._forgotten or not self._is_clean():
                return
            stamp = self._now().to_bytes(_STAMP)
            sealed = self._seal(name, stamp, content) + stamp + content
            self._redis.put(name, sealed, seconds=LIFE_SECONDS)
            self._redis.worked()
        except (RedisFailed, AsuError):
            return
        if since != self._forgotten:
            self.forget(name)  # it may have been taken back while this was on its way

    def forget(self, name: str) -> None:
        with self._lock:
            self._forgotten += 1
            self._unpurged[name] = None
            # A copy is gone within a minute by itself, and so many are not purged within one.
            while len(self._unpurged) > _MOST_PURGED:
                self._unpurged.popitem(last=False)

    def tidy(self) -> None:
        """Deletes what was to be forgotten, as soon as Redis can be asked. To be called once a second."""
        if self._unpurged:
            self._is_clean()

    def reads(self) -> dict[tuple[str, str], int]:
        """How often a kind of copy was asked for, by what came of it: `hit`, `miss` or `failed`."""
        with self._lock:
            return dict(self._reads)

    def _get(self, name: str) -> bytes | None:
        if not self._is_clean():
            raise RedisFailed
        sealed = self._redis.get(name) or b""
        self._redis.worked()
        seal, stamp, content = sealed[:_SEAL], sealed[_SEAL : _SEAL + _STAMP], sealed[_SEAL + _STAMP :]
        if seal != self._seal(name, stamp, content):
            return None  # none is there, or it is not ours
        age = (self._now() - int.from_bytes(stamp)) / 1_000_000
        return content if -_AHEAD_SECONDS <= age <= LIFE_SECONDS else None

    def _is_clean(self) -> bool:
        """Whether Redis may be asked, and holds nothing that was to be forgotten."""
        if not self._redis.is_usable():
            return False
        while self._unpurged:
            with self._lock:
                names = list(self._unpurged)[:_AT_ONCE]
            try:
                self._redis.delete(names)
                self._redis.worked()
            except RedisFailed as error:
                _log.debug("%d copies are still to be deleted: %s", len(names), error)
                return False
            with self._lock:
                for name in names:
                    self._unpurged.pop(name, None)
        return True

    def _seal(self, name: str, stamp: bytes, content: bytes) -> bytes:
        from hashlib import blake2b  # with OpenSSL, which a start does without

        sealed = blake2b(b"%b\0%b" % (name.encode(), stamp), key=self._secret, digest_size=_SEAL)
        sealed.update(content)
        return sealed.digest()

    def _count(self, what: str, found: str) -> None:
        with self._lock:
            self._reads[what, found] += 1
