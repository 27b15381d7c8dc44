"""Redis, which several nodes share and each can do without (docs/decisions/what-is-shared-may-be-lost.md)."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from asu_builder.domain.health import Breaker, CheckResult, ok, warning
from asu_builder.loading import Late

if TYPE_CHECKING:
    from redis import Redis
    from redis.commands.core import Script

DEADLINE_SECONDS = 0.05
"""For a connection and for each answer."""
_MOST_CONNECTIONS = 32


class RedisFailed(Exception):
    """It does not answer, or not as it should; callers go on without it."""


class SharedRedis:
    """One server behind a circuit breaker; safe to use from any thread."""

    def __init__(self, url: str, *, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`prefix` begins the name of each key; `clock` counts seconds. Nothing is loaded or asked yet."""
        self.prefix = prefix
        self._breaker = Breaker(clock=clock)
        self._client: Late[Redis] = Late(lambda: _connect(url))
        self._scripts: dict[str, Script] = {}

    def is_usable(self) -> bool:
        """Whether it may be asked now; one who was told so asks. Before the first `check` it is not."""
        return self._client.value is not None and self._breaker.admits()

    def run(self, script: str, keys: Sequence[str], values: Sequence[str | int]) -> Any:
        """What a script answers that runs alone on the server. Raises `RedisFailed`."""
        client = self._client()
        with self._translated():
            if script not in self._scripts:
                self._scripts[script] = client.register_script(script)
            return self._scripts[script](keys=[f"{self.prefix}:{key}" for key in keys], args=[*values])

    def get(self, key: str) -> bytes | None:
        """What lies under a name; another's list or the like there is deleted. Raises `RedisFailed`."""
        import redis

        name = f"{self.prefix}:{key}"
        with self._translated():
            try:
                found = self._client().get(name)
            except redis.ResponseError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                self._client().delete(name)
                found = None
        if found is None or isinstance(found, bytes):
            return found
        raise self.distrust()

    def put(self, key: str, value: bytes, *, seconds: int) -> None:
        """Lets it lie under a name for so long. Raises `RedisFailed`."""
        with self._translated():
            self._client().set(f"{self.prefix}:{key}", value, ex=seconds)

    def delete(self, keys: Sequence[str]) -> None:
        """Takes these names away. Raises `RedisFailed`."""
        with self._translated():
            self._client().delete(*(f"{self.prefix}:{key}" for key in keys))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import redis

        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            raise self.failed(_said(error)) from None

    def worked(self) -> None:
        """It has answered as it should."""
        self._breaker.worked()

    def failed(self, sentence: str) -> RedisFailed:
        """It has not, for a reason that the operator is told; the error to raise."""
        self._breaker.failed(sentence)
        return RedisFailed(sentence)

    def distrust(self) -> RedisFailed:
        """It gave an answer that makes no sense: what else it has sent on its connections is not read."""
        self._client().connection_pool.disconnect()
        return self.failed("It gave an answer that makes no sense")

    def check(self) -> CheckResult:
        """Whether it answers and takes writes. The first time this loads the library."""
        import redis

        self._client()
        if self._breaker.admits():
            try:
                self._client().set(f"{self.prefix}:check", b"", px=1000)
            except (redis.RedisError, OSError, ValueError) as error:
                self._breaker.failed(_said(error))
            else:
                self._breaker.worked()
        if not self._breaker.is_open:
            return ok("Redis answers.")
        return warning(
            f"Redis cannot be used: {self._breaker.sentence}. This process counts its share of the rate "
            "limits alone, and makes for itself what others have made.",
            "See redis_url, and whether that server runs and takes writes.",
        )

    def close(self) -> None:
        """Ends the connections."""
        if self._client.value is not None:
            self._client.value.close()


def _connect(url: str) -> "Redis":
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_timeout=DEADLINE_SECONDS,
        socket_connect_timeout=DEADLINE_SECONDS,
        max_connections=_MOST_CONNECTIONS,
        # The breaker decides when it is tried again.
        retry=Retry(NoBackoff(), 0),
        # One message less for each connection, and no reply that depends on the server's version.
        protocol=2,
    )


def _said(error: Exception) -> str:
    """What is wrong in one line, without the address of the server."""
    text = str(error).partition("\n")[0].rstrip(".")[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
