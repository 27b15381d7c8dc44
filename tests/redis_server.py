"""A Redis server of the run's own, on a socket file: one for all workers, ended with the run."""

import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import redis

from factories import eventually
from tools import require_tool


class RedisServer:
    """A server in `folder`, whose processes name the folder, so that the run's watcher ends them."""

    def __init__(self, folder: Path) -> None:
        require_tool("redis", "redis-server")
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    def start(self, *options: str) -> None:
        """Returns when it answers; `options` are those of its command line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(self._command(options), stdout=subprocess.DEVNULL)
        assert eventually(self._answers), "redis-server did not start"

    def _command(self, options: Sequence[str]) -> Sequence[str]:
        socket = str(self.folder / "socket")
        return [
            *("redis-server", "--port", "0", "--unixsocket", socket, "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", *options),
        ]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=5.0) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def send(self, number: signal.Signals) -> None:
        """Stops it for a while (SIGSTOP), or lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@cache
def shared_redis() -> RedisServer:
    """The one of this run, started by the first who asks."""
    folder = Path(tempfile.gettempdir()) / "redis"
    server = RedisServer(folder)
    with (Path(tempfile.gettempdir()) / "redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "socket").exists():
            server.start()
    return server


def own_prefix() -> str:
    """What begins the names of one test's keys."""
    return f"test:{os.urandom(8).hex()}"
