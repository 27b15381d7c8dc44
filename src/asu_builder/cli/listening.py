"""The port: bound before anything else starts; where that fails, which process has it and what to type."""

import errno
import getpass
import socket

from asu_builder.domain.errors import Unavailable
from asu_builder.settings import SettingsProblem

_NEIGHBOURS = 50
_LOWEST_OF_EVERYBODY = 1024


def listen_at(host: str, port: int) -> list[socket.socket]:
    """Sockets at every address of a host, bound and not yet listening.

    Raises `Unavailable` where the port is taken, `SettingsProblem` where host or port cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind(address)
            opened.setblocking(False)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise _explained(host, port, error) from error
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))


def _explained(host: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        from asu_builder.doctor.files import described, listener

        holder = listener(port)
        free = _free_neighbour(host, port)
        other = f", or serve elsewhere: asu-builder serve --port {free}" if free else ""
        stop = f"Stop it (kill {holder})" if holder else "Stop it"
        return Unavailable(f"Port {port} is taken by {described(holder)}. {stop}{other}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return SettingsProblem(
            f"server_port: user {getpass.getuser()} may not open port {port}. Choose one of at least "
            f"{_LOWEST_OF_EVERYBODY}, as with: asu-builder serve --port 8080"
        )
    return SettingsProblem(
        f"server_host: {host} is no address of this machine ({error.strerror}). Set it to 127.0.0.1, "
        "or to 0.0.0.0 for all."
    )


def _free_neighbour(host: str, port: int) -> int | None:
    """The next port that can be had now."""
    for candidate in range(port + 1, min(port + _NEIGHBOURS, 65536)):
        try:
            for family, kind, protocol, _, address in _addresses(host, candidate):
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
        except OSError:
            continue
        return candidate
    return None
