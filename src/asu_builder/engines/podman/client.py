"""podman-py's client with one leak stopped; a module of one importer because it imports podman late.

When Podman's socket cannot be connected to, podman-py loses the socket it had opened: it stays
open until the garbage collector finds it, once per health check of an engine that is down.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from podman import PodmanClient
from podman.api.uds import UDSConnection, UDSConnectionPool, UDSSocket


class _Connection(UDSConnection):
    """Closes its socket when it cannot be connected."""

    def connect(self) -> None:
        """As podman-py does it, but for the last two lines."""
        connecting = UDSSocket(self.uds)
        try:
            connecting.settimeout(self.timeout)
            connecting.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            connecting.close()
            raise
        self.sock = connecting


class _Pool(UDSConnectionPool):
    ConnectionCls = _Connection


def a_client(path: Path, *, timeout: timedelta) -> PodmanClient:
    """A client of the service at this socket; each read may take `timeout`."""
    client = PodmanClient(base_url=f"unix://{path}", timeout=timeout.total_seconds())
    transport: Any = client.api.get_adapter("http://")
    transport.poolmanager.pool_classes_by_scheme = {"http": _Pool}
    return client
